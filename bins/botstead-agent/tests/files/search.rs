//! `Search`.

use crate::support::{Answer, Space, failure, kind};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::search_reply::skipped::Reason;
use botstead_bridge::proto::search_reply::{Done, Match, Part};
use botstead_bridge::proto::{self, Location, SearchRequest};
use tonic::codegen::tokio_stream::StreamExt;

fn request(space: &Space) -> SearchRequest {
    SearchRequest {
        at: space.location("/"),
        limit: 10_000,
        ..SearchRequest::default()
    }
}

async fn search(space: &Space, request: SearchRequest) -> Answer<(Vec<Match>, Done)> {
    let answer = space.files.clone().search(request).await;
    let mut stream = answer.map_err(failure)?.into_inner();
    let mut matches = Vec::new();
    let mut done = None;
    while let Some(reply) = stream.next().await {
        assert!(done.is_none(), "what is done comes last");
        match reply.map_err(failure)?.part.unwrap() {
            Part::Match(found) => matches.push(found),
            Part::Done(end) => done = Some(end),
        }
    }
    let done = done.expect("the end");
    assert_eq!(done.matches, matches.len() as u64);
    Ok((matches, done))
}

/// The paths of all matches, as text.
async fn paths(space: &Space, request: SearchRequest) -> Vec<String> {
    let (matches, _) = search(space, request).await.unwrap();
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    matches.iter().map(|found| text(&found.path)).collect()
}

/// One match as `NUMBER:text` with brackets around what matches, a line of context as `NUMBER-text`.
fn shown(found: &Match) -> Vec<String> {
    let line = |line: &botstead_bridge::proto::search_reply::Line| {
        let mut text = String::from_utf8_lossy(&line.text).into_owned();
        for span in line.spans.iter().rev() {
            text.insert(span.end as usize, ']');
            text.insert(span.start as usize, '[');
        }
        let sign = if line.spans.is_empty() { '-' } else { ':' };
        format!("{}{sign}{text}", line.number)
    };
    found.lines.iter().map(line).collect()
}

#[tokio::test]
async fn names_are_found() {
    let space = Space::new();
    for path in [
        "/a.rs",
        "/src/b.rs",
        "/src/deep/c.rs",
        "/src/d.TXT",
        "/.hidden/e.rs",
        "/x/y",
    ] {
        space.put(path, "");
    }
    space.link("/link.rs", "nowhere");
    let globs = |globs: &[&str]| SearchRequest {
        globs: globs.iter().map(|glob| (*glob).to_owned()).collect(),
        ..request(&space)
    };
    for (given, expected) in [
        (
            &["*.rs"][..],
            &[
                "/.hidden/e.rs",
                "/a.rs",
                "/link.rs",
                "/src/b.rs",
                "/src/deep/c.rs",
            ][..],
        ),
        (
            &["src/**"],
            &["/src/b.rs", "/src/d.TXT", "/src/deep", "/src/deep/c.rs"],
        ),
        (&["/*.rs"], &["/a.rs", "/link.rs"]),
        (&["*.rs", "!src"], &["/.hidden/e.rs", "/a.rs", "/link.rs"]),
        (
            &["*.rs", "!deep/", "!.*"],
            &["/a.rs", "/link.rs", "/src/b.rs"],
        ),
        (&["*.txt"], &[]),
        (&["{x,y}"], &["/x", "/x/y"]),
    ] {
        assert_eq!(paths(&space, globs(given)).await, expected, "{given:?}");
    }
    let insensitive = SearchRequest {
        ignore_case: true,
        ..globs(&["*.txt"])
    };
    assert_eq!(paths(&space, insensitive).await, ["/src/d.TXT"]);
    let visible = SearchRequest {
        skip_hidden: true,
        ..globs(&["e.rs"])
    };
    assert!(paths(&space, visible).await.is_empty());
    let below = SearchRequest {
        at: space.location("/src"),
        ..globs(&["/deep/*"])
    };
    assert_eq!(paths(&space, below).await, ["/src/deep/c.rs"]);
    let (matches, done) = search(&space, request(&space)).await.unwrap();
    assert_eq!((matches.len(), done.truncated), (11, false));
    let few = SearchRequest {
        limit: 3,
        ..request(&space)
    };
    let (matches, done) = search(&space, few).await.unwrap();
    assert_eq!((matches.len(), done.truncated), (3, true));
}

#[tokio::test]
async fn lines_are_found_with_their_context() {
    let space = Space::new();
    let text = "one\ntwo needle\nthree\nfour\nfive Needle needle\nsix\r\nseven needle";
    space.put("/f", text);
    let pattern = |pattern: &str, context| SearchRequest {
        pattern: pattern.to_owned(),
        context,
        ..request(&space)
    };
    let found = async |request| {
        let (matches, _) = search(&space, request).await.unwrap();
        matches.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(
        found(pattern("needle", 0)).await,
        [
            ["2:two [needle]"],
            ["5:five Needle [needle]"],
            ["7:seven [needle]"]
        ]
    );
    assert_eq!(
        found(pattern("needle", 1)).await,
        [
            vec!["1-one", "2:two [needle]", "3-three"],
            vec!["4-four", "5:five Needle [needle]", "6-six"],
            vec!["6-six", "7:seven [needle]"],
        ]
    );
    assert_eq!(
        found(pattern("needle", 3)).await,
        [
            vec![
                "1-one",
                "2:two [needle]",
                "3-three",
                "4-four",
                "5-five Needle needle"
            ],
            vec![
                "2-two needle",
                "3-three",
                "4-four",
                "5:five Needle [needle]",
                "6-six",
                "7-seven needle"
            ],
            vec![
                "4-four",
                "5-five Needle needle",
                "6-six",
                "7:seven [needle]"
            ],
        ]
    );
    let insensitive = SearchRequest {
        ignore_case: true,
        ..pattern("NEEDLE", 0)
    };
    assert_eq!(found(insensitive).await[1], ["5:five [Needle] [needle]"]);
    for (regex, expected) in [
        ("^th.*e$", vec!["3:[three]"]),
        (r"\bsix", vec!["6:[six]"]),
        (r"^\w{3}$", vec!["1:[one]", "6:[six]"]),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|line| vec![line.to_owned()])
            .collect();
        assert_eq!(found(pattern(regex, 0)).await, expected, "{regex}");
    }
    let literal = SearchRequest {
        literal: true,
        ..pattern("t.*e", 0)
    };
    assert!(found(literal).await.is_empty());
    let few = SearchRequest {
        limit: 2,
        ..pattern("needle", 2)
    };
    let (matches, done) = search(&space, few).await.unwrap();
    assert!(done.truncated);
    assert_eq!(
        shown(&matches[1]),
        [
            "3-three",
            "4-four",
            "5:five Needle [needle]",
            "6-six",
            "7-seven needle"
        ]
    );
}

fn skipped(done: &Done) -> Vec<(String, Reason)> {
    let skipped = done.skipped.iter();
    skipped
        .map(|file| {
            (
                String::from_utf8_lossy(&file.path).into_owned(),
                file.reason(),
            )
        })
        .collect()
}

#[tokio::test]
async fn lines_end_in_a_line_feed_or_both() {
    let space = Space::new();
    space.put("/dos", "one needle\r\nneedle two\r\nthree needle");
    space.put("/unix", "needle\nneedle x\n");
    for (pattern, expected) in [
        (
            "needle$",
            &["1:one [needle]", "3:three [needle]", "1:[needle]"][..],
        ),
        ("^needle", &["2:[needle] two", "1:[needle]", "2:[needle] x"]),
        ("two.*$", &["2:needle [two]"]),
    ] {
        let request = SearchRequest {
            pattern: pattern.to_owned(),
            ..request(&space)
        };
        let (matches, _) = search(&space, request).await.unwrap();
        let found: Vec<String> = matches.iter().flat_map(shown).collect();
        assert_eq!(found, expected, "{pattern}");
    }
}

#[tokio::test]
async fn utf_16_and_files_of_any_size_are_searched() {
    let space = Space::new();
    // More matches than one piece gives: it goes on in the middle.
    let text: String = (1..=3000)
        .map(|n| format!("{n} \u{fc}ber needle\r\n"))
        .collect();
    let bytes = |mark: u16, to: fn(u16) -> [u8; 2]| {
        let units = std::iter::once(mark).chain(text.encode_utf16());
        units.flat_map(to).collect::<Vec<u8>>()
    };
    space.put("/le", bytes(0xfeff, u16::to_le_bytes));
    space.put("/be", bytes(0xfeff, u16::to_be_bytes));
    for path in ["/le", "/be"] {
        let request = SearchRequest {
            at: space.location(path),
            pattern: "\u{fc}ber needle$".to_owned(),
            ..request(&space)
        };
        let (matches, done) = search(&space, request).await.unwrap();
        assert_eq!((matches.len(), done.skipped_files), (3000, 0), "{path}");
        for (index, found) in matches.iter().enumerate() {
            let line = &found.lines[0];
            assert_eq!(line.number, index as u64 + 1);
            assert_eq!(line.text, format!("{} \u{fc}ber needle", index + 1));
        }
    }
    // Larger than was searched once.
    let large = space.put("/large", "");
    let mut file = std::io::BufWriter::new(std::fs::File::create(large).unwrap());
    let block = "hay\n".repeat(1 << 18);
    for _ in 0..65 {
        std::io::Write::write_all(&mut file, block.as_bytes()).unwrap();
    }
    std::io::Write::write_all(&mut file, b"needle\n").unwrap();
    drop(file);
    let request = SearchRequest {
        pattern: "^needle".to_owned(),
        ..request(&space)
    };
    let (matches, done) = search(&space, request).await.unwrap();
    assert_eq!((matches.len(), done.skipped_files), (1, 0));
    assert_eq!(matches[0].lines[0].number, 65 * (1 << 18) + 1);
}

/// A pattern whose automaton does not fit into memory: nothing else waits for it.
#[tokio::test]
async fn a_slow_search_keeps_nobody_waiting() {
    let space = Space::new();
    for number in 0..20 {
        space.put(&format!("/slow/{number}"), "ab".repeat(3000));
    }
    space.put("/tree/f", "x");
    let slow = SearchRequest {
        pattern: "[ab]{2000}c".to_owned(),
        ..request(&space)
    };
    let mut running = Vec::new();
    for _ in 0..3 {
        let answer = space.files.clone().search(slow.clone()).await;
        running.push(answer.unwrap().into_inner());
    }
    // Long jobs each, and all of them are done before any of the searches.
    let copied = proto::CopyRequest {
        root: space.root().into(),
        from: "/tree".into(),
        to: "/copy".into(),
        recursive: true,
        ..proto::CopyRequest::default()
    };
    space.files.clone().copy(copied).await.unwrap();
    let all = proto::ListRequest {
        at: space.location("/"),
        recursive: true,
        limit: 100,
        ..proto::ListRequest::default()
    };
    // The files and their three directories, twice of the small one.
    assert_eq!(space.list(all).await.unwrap().entries.len(), 20 + 3 + 2);
    assert_eq!(space.remove("/copy", true).await.unwrap().removed, 2);
    for stream in &mut running {
        let next = futures_util::poll!(std::pin::pin!(stream.next()));
        assert!(next.is_pending(), "the search was quick: {next:?}");
    }
    // The callers leave, and so do their searches: another one gets its turn.
    drop(running);
    let quick = SearchRequest {
        at: space.location("/tree"),
        pattern: "x".to_owned(),
        ..request(&space)
    };
    let (matches, _) = search(&space, quick).await.unwrap();
    assert_eq!(matches.len(), 1);
}

#[tokio::test]
async fn any_text_is_searched_and_nothing_else() {
    let space = Space::new();
    space.put("/latin", b"caf\xe9 needle\n");
    space.put("/marked", b"\xef\xbb\xbfneedle first\n");
    space.put("/binary", b"needle\0needle\n");
    space.put("/umlaut", "N\u{e4}del");
    space.put("/large", vec![b'\n'; 5000]);
    space.put(
        "/long",
        format!("{}needle{}\n", "x".repeat(9000), "y".repeat(9000)),
    );
    space.put("/endless", vec![b'x'; 9 << 20]);
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/pipe"), 0o600.into()).unwrap();
    space.link("/link", "latin");
    let pattern = |pattern: &str| SearchRequest {
        pattern: pattern.to_owned(),
        ..request(&space)
    };
    assert_eq!(
        paths(&space, pattern("needle")).await,
        ["/latin", "/long", "/marked"]
    );
    assert_eq!(paths(&space, pattern("^needle")).await, ["/marked"]);
    let insensitive = SearchRequest {
        ignore_case: true,
        ..pattern("n\u{c4}DEL")
    };
    assert_eq!(paths(&space, insensitive).await, ["/umlaut"]);
    let (matches, done) = search(&space, pattern("needle")).await.unwrap();
    assert_eq!((done.files_searched, done.unreadable), (5, 0));
    assert_eq!(done.skipped_files, 2);
    assert_eq!(
        skipped(&done),
        [
            ("/binary".to_owned(), Reason::Binary),
            ("/endless".to_owned(), Reason::LongLine)
        ]
    );
    let line = &matches[1].lines[0];
    assert_eq!((line.text.len(), line.left_out), (4096, 9000 - 1024));
    let (start, end) = (line.spans[0].start as usize, line.spans[0].end as usize);
    assert_eq!(&line.text[start..end], b"needle");
    let small = SearchRequest {
        max_file_bytes: 100,
        ..pattern("^")
    };
    assert_eq!(
        paths(&space, small).await,
        ["/latin", "/marked", "/umlaut"],
        "and the binary one up to its zero"
    );
    let (_, done) = search(
        &space,
        SearchRequest {
            max_file_bytes: 100,
            ..pattern("^")
        },
    )
    .await
    .unwrap();
    let large = ("/large".to_owned(), Reason::TooLarge);
    assert!(skipped(&done).contains(&large), "{done:?}");
    let binary = SearchRequest {
        at: space.location("/binary"),
        ..pattern("needle")
    };
    let (matches, done) = search(&space, binary).await.unwrap();
    assert_eq!((matches.len(), done.skipped_files), (1, 0), "it was named");
    let single = SearchRequest {
        at: space.location("/link"),
        ..pattern("needle")
    };
    assert_eq!(paths(&space, single).await, ["/latin"], "a file itself");
    // No endless files of the kernel's, and no leaving of the root.
    let system = SearchRequest {
        at: Some(Location {
            root: "".into(),
            path: "/proc/self/net".into(),
        }),
        ..pattern("nothing like this")
    };
    search(&space, system).await.unwrap();
}

#[tokio::test]
async fn ignore_files_are_respected_where_asked() {
    let space = Space::new();
    std::fs::create_dir_all(space.host("/repo/.git")).unwrap();
    space.put("/.gitignore", "*.rs\n");
    space.put(
        "/repo/.gitignore",
        b"/target\n*.log\n!keep.log\nsub/ignored/\nbad[\n\xff\n",
    );
    space.put("/repo/.ignore", "private\n");
    space.put("/repo/.git/info/exclude", "mine\n!keep.log\n*.log\n");
    space.put("/repo/marked/.gitignore", b"\xef\xbb\xbfghost\n");
    space.put("/repo/sub/.gitignore", "!special.log\r\nlocal\n");
    for path in [
        "/repo/.git/config",
        "/repo/a.rs",
        "/repo/a.log",
        "/repo/keep.log",
        "/repo/private",
        "/repo/target/x",
        "/repo/sub/target/x",
        "/repo/sub/ignored/x",
        "/repo/sub/special.log",
        "/repo/sub/local",
        "/repo/other/local",
        "/repo/sub/mine",
        "/repo/marked/ghost",
    ] {
        space.put(path, "needle\n");
    }
    let search = |at: &str, respect_ignore_files| SearchRequest {
        at: space.location(at),
        pattern: "needle".to_owned(),
        respect_ignore_files,
        ..request(&space)
    };
    let kept = [
        "/repo/a.rs",
        "/repo/keep.log",
        "/repo/other/local",
        "/repo/sub/special.log",
        "/repo/sub/target/x",
    ];
    // The rules above the repository are not its own.
    assert_eq!(paths(&space, search("/repo", true)).await, kept);
    assert_eq!(paths(&space, search("/repo", false)).await.len(), 13);
    // From above, they are in force.
    assert_eq!(paths(&space, search("/", true)).await, kept[1..]);
    // From below, those above are in force too.
    assert_eq!(
        paths(&space, search("/repo/sub", true)).await,
        ["/repo/sub/special.log", "/repo/sub/target/x"]
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let space = Space::new();
    space.put("/f", "");
    let good = request(&space);
    let with = |change: &dyn Fn(&mut SearchRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for request in [
        with(&|r| r.limit = 0),
        with(&|r| r.limit = 10_001),
        with(&|r| r.context = 21),
        with(&|r| r.globs = vec!["a[".into()]),
        with(&|r| r.pattern = "a(".into()),
        with(&|r| r.pattern = "a\nb".into()),
        with(&|r| r.pattern = "(a{1000}){1000}".into()),
    ] {
        let shown = format!("{request:?}");
        let failure = search(&space, request).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid, "{shown}");
    }
    let nowhere = with(&|r| r.at = space.location("/none"));
    assert_eq!(
        kind(search(&space, nowhere).await),
        Some(FailureKind::NotFound)
    );
    let file = with(&|r| r.at = space.location("/f"));
    assert_eq!(
        kind(search(&space, file).await),
        Some(FailureKind::NotADirectory)
    );
}

/// More output than one piece of work gives: the search stops and goes on in the middle of a file.
#[tokio::test]
async fn a_search_that_pauses_finds_the_same() {
    let space = Space::new();
    let mut text = String::new();
    for number in 1..=20_000 {
        let word = if number % 3 == 0 { "needle" } else { "hay" };
        text.push_str(&format!("{number} {word} {}\n", "x".repeat(number % 90)));
    }
    space.put("/f", &text);
    let lines: Vec<&str> = text.lines().collect();
    for context in [0, 1, 2, 5] {
        let request = SearchRequest {
            pattern: "needle".to_owned(),
            context,
            ..request(&space)
        };
        let (matches, done) = search(&space, request).await.unwrap();
        assert_eq!((matches.len(), done.truncated), (6666, false));
        for (index, found) in matches.iter().enumerate() {
            let number = (index + 1) * 3;
            let context = context as usize;
            let first = number.saturating_sub(context).max(1);
            let last = (number + context).min(lines.len());
            let numbers: Vec<u64> = found.lines.iter().map(|line| line.number).collect();
            let expected: Vec<u64> = (first as u64..=last as u64).collect();
            assert_eq!(numbers, expected, "around {number}");
            for line in &found.lines {
                assert_eq!(line.text, lines[line.number as usize - 1]);
                assert_eq!(line.spans.is_empty(), line.number as usize != number);
            }
        }
    }
}
