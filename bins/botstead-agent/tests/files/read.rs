//! `Read`.

use crate::support::{Space, failure, kind, received};
use botstead_bridge::proto::read_request::{Lines, Part, Range};
use botstead_bridge::proto::{Location, ReadRequest, StatRequest};
use botstead_bridge::{CHUNK_BYTES, FailureKind};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::Duration;
use tonic::codegen::tokio_stream::StreamExt;

fn range(offset: u64, length: u64) -> Option<Part> {
    Some(Part::Range(Range { offset, length }))
}

fn lines(first: u64, count: u64) -> Option<Part> {
    Some(Part::Lines(Lines { first, count }))
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / 1024) as u8).collect()
}

#[tokio::test]
async fn whole_files_of_any_size_are_read() {
    let space = Space::new();
    for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 << 20] {
        space.put("/f", pattern(length));
        let (head, data) = space.read("/f").await.unwrap();
        assert!(data == pattern(length), "{length}");
        assert_eq!((head.offset, head.length), (0, Some(length as u64)));
        let entry = head.entry.unwrap();
        assert_eq!(entry.path, "/f");
        assert_eq!(entry.size, length as u64);
        assert_eq!(entry.revision, space.stat("/f").await.unwrap().revision);
    }
}

#[tokio::test]
async fn ranges_are_read() {
    let space = Space::new();
    let content = pattern(200_000);
    space.put("/f", &content);
    for (offset, length, expected) in [
        (0, 0, 0..200_000),
        (0, 5, 0..5),
        (199_999, 0, 199_999..200_000),
        (100, 70_000, 100..70_100),
        (150_000, 100_000, 150_000..200_000),
        (200_000, 1, 200_000..200_000),
        (300_000, 0, 200_000..200_000),
        (u64::MAX, u64::MAX, 200_000..200_000),
        (1, u64::MAX, 1..200_000),
    ] {
        let (head, data) = space.read_part("/f", range(offset, length)).await.unwrap();
        assert!(data == content[expected.clone()], "{offset} {length}");
        assert_eq!(
            head.length,
            Some(expected.len() as u64),
            "{offset} {length}"
        );
        assert_eq!(head.offset, offset.min(i64::MAX as u64));
    }
}

#[tokio::test]
async fn the_end_of_a_file_is_read() {
    let space = Space::new();
    let content = pattern(100_000);
    space.put("/f", &content);
    for (last, begin) in [(1, 99_999), (70_000, 30_000), (100_000, 0), (u64::MAX, 0)] {
        let (head, data) = space.read_part("/f", Some(Part::Last(last))).await.unwrap();
        assert!(data == content[begin..], "{last}");
        assert_eq!(head.offset, begin as u64);
    }
    let (head, data) = space.read_part("/f", Some(Part::Last(0))).await.unwrap();
    assert_eq!((head.length, data.len()), (Some(0), 0));
}

/// The root of the machine, where /proc is.
async fn read_of_the_machine(
    path: &'static str,
    part: Option<Part>,
) -> Result<Vec<u8>, FailureKind> {
    let request = ReadRequest {
        at: Some(Location {
            path: path.into(),
            ..Location::default()
        }),
        part,
        ..ReadRequest::default()
    };
    let (head, data) = Space::new().read_as(request).await.map_err(|f| f.kind)?;
    assert_eq!(head.entry.unwrap().revision, "", "{path}");
    Ok(data)
}

#[tokio::test]
async fn what_the_kernel_makes_up_has_no_revision_and_refuses_in_words() {
    for path in [
        "/proc/version",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        assert!(!read_of_the_machine(path, None).await.unwrap().is_empty());
    }
    for part in [None, range(5, 5), lines(1, 1)] {
        let refused = read_of_the_machine("/proc/self/mem", part).await;
        assert_eq!(refused, Err(FailureKind::NotRegular), "{part:?}");
    }
    for follow in [false, true] {
        let request = StatRequest {
            at: Some(Location {
                path: "/proc/version".into(),
                ..Location::default()
            }),
            follow,
        };
        let entry = Space::new().files.stat(request).await.unwrap().into_inner();
        assert_eq!(entry.revision, "");
    }
}

#[tokio::test]
async fn lines_are_read() {
    let space = Space::new();
    space.put("/f", "one\ntwo\n\nfour");
    space.put("/empty", "");
    let long = "x".repeat(CHUNK_BYTES * 2);
    space.put("/long", format!("{long}\n{long}\nlast\n"));
    let at = (long.len() + 1) as u64;
    for (path, first, count, offset, expected) in [
        ("/f", 1, 0, 0, "one\ntwo\n\nfour"),
        ("/f", 0, 1, 0, "one\n"),
        ("/f", 1, 1, 0, "one\n"),
        ("/f", 2, 2, 4, "two\n\n"),
        ("/f", 3, 9, 8, "\nfour"),
        ("/f", 4, 0, 9, "four"),
        ("/f", 5, 1, 13, ""),
        ("/f", u64::MAX, u64::MAX, 13, ""),
        ("/empty", 1, 1, 0, ""),
        ("/long", 2, 1, at, &format!("{long}\n")),
        ("/long", 3, 0, 2 * at, "last\n"),
        ("/long", 4, 0, 2 * at + 5, ""),
    ] {
        let (head, data) = space.read_part(path, lines(first, count)).await.unwrap();
        assert!(data == expected.as_bytes(), "{path} {first} {count}");
        assert_eq!(
            (head.offset, head.length),
            (offset, None),
            "{path} {first} {count}"
        );
    }
}

#[tokio::test]
async fn limits_and_revisions_are_kept() {
    let space = Space::new();
    space.put("/f", pattern(1000));
    let revision = space.stat("/f").await.unwrap().revision;
    let request = |part, limit, expected: &str| ReadRequest {
        at: space.location("/f"),
        part,
        expected_revision: expected.to_owned(),
        limit,
    };
    assert!(space.read_as(request(None, 1000, &revision)).await.is_ok());
    for (request, failure) in [
        (request(None, 999, ""), FailureKind::TooLarge),
        (request(range(1, 0), 998, ""), FailureKind::TooLarge),
        (request(lines(1, 0), 999, ""), FailureKind::TooLarge),
        (request(None, 0, "1-2-3-4"), FailureKind::StaleRevision),
    ] {
        assert_eq!(kind(space.read_as(request).await), Some(failure));
    }
    assert!(space.read_as(request(range(1, 998), 998, "")).await.is_ok());
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_at_once() {
    let space = Space::new();
    space.put("/d/f", "");
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/pipe"), 0o600.into()).unwrap();
    let _socket = UnixListener::bind(space.host("/socket")).unwrap();
    space.link("/nowhere", "missing");
    space.link("/loop", "loop");
    space.link("/to-pipe", "pipe");
    for (path, failure) in [
        ("/pipe", FailureKind::NotRegular),
        ("/to-pipe", FailureKind::NotRegular),
        ("/socket", FailureKind::NotRegular),
        ("/d", FailureKind::IsADirectory),
        ("/", FailureKind::IsADirectory),
        ("/d/f/", FailureKind::NotADirectory),
        ("/none", FailureKind::NotFound),
        ("/nowhere", FailureKind::NotFound),
        ("/loop", FailureKind::Loop),
    ] {
        let answer = tokio::time::timeout(Duration::from_secs(10), space.read(path)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{path} hangs"));
        let failed = answer.unwrap_err();
        assert_eq!(failed.kind, failure, "{path}: {}", failed.message);
        let named = path.strip_suffix('/').filter(|path| !path.is_empty());
        assert_eq!(failed.path, named.unwrap_or(path).as_bytes(), "{path}");
    }
    for path in ["/dev/null", "/dev/zero", "/dev/tty"] {
        let request = ReadRequest {
            at: Some(Location {
                root: "/".into(),
                path: path.into(),
            }),
            ..ReadRequest::default()
        };
        assert_eq!(
            kind(space.read_as(request).await),
            Some(FailureKind::NotRegular)
        );
    }
}

#[tokio::test]
async fn files_that_the_kernel_makes_up_are_read() {
    let space = Space::new();
    let request = |path: &str, part| ReadRequest {
        at: Some(Location {
            root: "".into(),
            path: path.as_bytes().to_vec().into(),
        }),
        part,
        ..ReadRequest::default()
    };
    for path in [
        "/proc/version",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/self/stat",
    ] {
        let (head, data) = space.read_as(request(path, None)).await.unwrap();
        assert!(data.ends_with(b"\n"), "{path}");
        assert_eq!(head.length, None, "{path}");
    }
    let version = std::fs::read("/proc/version").unwrap();
    let (_, data) = space
        .read_as(request("/proc/version", range(3, 4)))
        .await
        .unwrap();
    assert_eq!(data, version[3..7]);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let part = lines(2, 1);
    let (_, data) = space
        .read_as(request("/proc/self/mountinfo", part))
        .await
        .unwrap();
    assert_eq!(
        data,
        format!("{}\n", mounts.lines().nth(1).unwrap()).as_bytes()
    );
    // The magic links of /proc lead nowhere.
    for path in [
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/Cargo.toml",
        "/proc/self/exe",
    ] {
        let answer = space.read_as(request(path, None)).await;
        assert_eq!(kind(answer), Some(FailureKind::Loop), "{path}");
    }
}

#[tokio::test]
async fn a_file_that_shrinks_fails_and_one_that_grows_does_not() {
    let space = Space::new();
    let size = 16 << 20;
    let request = || ReadRequest {
        at: space.location("/f"),
        ..ReadRequest::default()
    };
    for grows in [false, true] {
        let path = space.put("/f", vec![b'a'; size]);
        let file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        let mut stream = space
            .files
            .clone()
            .read(request())
            .await
            .unwrap()
            .into_inner();
        // Its head is here and its end is not read: the windows are smaller.
        stream.next().await.unwrap().unwrap();
        match grows {
            true => (&file).write_all(&[b'b'; 1000]).unwrap(),
            false => file.set_len(size as u64 / 2 + 5).unwrap(),
        }
        let mut length = 0;
        let mut end = Ok(());
        while let Some(reply) = stream.next().await {
            match reply {
                Ok(reply) => {
                    if let Some(botstead_bridge::proto::read_reply::Part::Data(data)) = reply.part {
                        length += data.len();
                    }
                }
                Err(status) => end = Err(failure(status)),
            }
        }
        match grows {
            true => assert_eq!((end, length), (Ok(()), size)),
            false => assert_eq!(end.unwrap_err().kind, FailureKind::Changed),
        }
    }
}

#[tokio::test]
async fn huge_sparse_files_are_read_in_parts() {
    let space = Space::new();
    let file = std::fs::File::create(space.host("/sparse")).unwrap();
    let size = 10 << 30;
    file.set_len(size).unwrap();
    rustix::io::pwrite(&file, b"end", size - 3).unwrap();
    let (head, data) = space
        .read_part("/sparse", range(size - 5, 0))
        .await
        .unwrap();
    assert_eq!(data, b"\0\0end");
    assert_eq!(head.entry.unwrap().size, size);
    // The whole is not read ahead: the call ends when it is dropped.
    let request = ReadRequest {
        at: space.location("/sparse"),
        ..ReadRequest::default()
    };
    let stream = space
        .files
        .clone()
        .read(request)
        .await
        .unwrap()
        .into_inner();
    drop(stream);
    space.put("/small", "small");
    let request = ReadRequest {
        at: space.location("/small"),
        ..ReadRequest::default()
    };
    let stream = space
        .files
        .clone()
        .read(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(received(stream).await.unwrap().1, b"small");
}
