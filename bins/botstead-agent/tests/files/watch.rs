//! `Watch`.

use crate::support::{Answer, MOST_WATCHES, Space, failure, kind};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::watch_reply::{Change, Event, Part, Ready};
use botstead_bridge::proto::{WatchReply, WatchRequest};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;
use tonic::Streaming;
use tonic::codegen::tokio_stream::StreamExt;

struct Watch(Streaming<WatchReply>);

async fn watch(space: &Space, path: &str, recursive: bool) -> Answer<(Watch, Ready)> {
    let request = WatchRequest {
        at: space.location(path),
        recursive,
    };
    let stream = space.files.clone().watch(request).await.map_err(failure)?;
    let mut watch = Watch(stream.into_inner());
    match watch.next().await {
        Some(Part::Ready(ready)) => Ok((watch, ready)),
        other => panic!("not ready first: {other:?}"),
    }
}

impl Watch {
    /// The next thing told; `None` at the end.
    async fn next(&mut self) -> Option<Part> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.next());
        let reply = next.await.expect("waited 20 s for an event")?;
        Some(reply.unwrap().part.unwrap())
    }

    /// Everything told until something happens to the file of this path, in words; each once.
    async fn until(&mut self, path: &str) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let Some(Part::Event(event)) = self.next().await else {
                panic!("no event; before: {told:?}");
            };
            if event.path == path {
                return told;
            }
            let words = words(&event);
            if told.last() != Some(&words) {
                told.push(words);
            }
        }
    }
}

fn words(event: &Event) -> String {
    let path = String::from_utf8_lossy(&event.path);
    let to = String::from_utf8_lossy(&event.to);
    let slash = if event.is_directory { "/" } else { "" };
    match event.change() {
        Change::Renamed => format!("{path} -> {to}{slash}"),
        change => format!("{} {path}{slash}", change.as_str_name().to_lowercase()),
    }
}

#[tokio::test]
async fn changes_are_told_by_their_paths() {
    let space = Space::new();
    space.put("/w/old", "");
    space.put("/w/sub/deep/f", "");
    space.put("/outside/in", "");
    let (mut watch, ready) = watch(&space, "/w", true).await.unwrap();
    assert_eq!((ready.directories, ready.truncated), (3, false));
    let host = |path: &str| space.host(path);
    // Each step with what is told of it, up to a mark.
    type Step<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a [&'a str]);
    let steps: Vec<Step<'_>> = vec![
        (
            "write",
            Box::new(|| drop(space.put("/w/sub/deep/f", "x"))),
            &["modified /w/sub/deep/f"],
        ),
        (
            "create",
            Box::new(|| drop(space.put("/w/new", "x"))),
            &["created /w/new", "modified /w/new"],
        ),
        (
            "mode",
            Box::new(|| {
                fs::set_permissions(host("/w/new"), PermissionsExt::from_mode(0o600)).unwrap();
            }),
            &["attributes /w/new"],
        ),
        (
            "rename",
            Box::new(|| fs::rename(host("/w/new"), host("/w/sub/newer")).unwrap()),
            &["/w/new -> /w/sub/newer"],
        ),
        (
            "rename a directory",
            Box::new(|| fs::rename(host("/w/sub"), host("/w/dir")).unwrap()),
            &["/w/sub -> /w/dir/"],
        ),
        (
            "in it",
            Box::new(|| drop(space.put("/w/dir/deep/f", ""))),
            &["modified /w/dir/deep/f"],
        ),
        (
            "out",
            Box::new(|| {
                fs::rename(host("/w/dir/deep"), host("/outside/deep")).unwrap();
                // That it is out is known when it came in nowhere for a while.
                std::thread::sleep(Duration::from_millis(200));
            }),
            &["moved_from /w/dir/deep/"],
        ),
        (
            "not watched",
            Box::new(|| drop(space.put("/outside/deep/f", "y"))),
            &[],
        ),
        (
            "in",
            Box::new(|| fs::rename(host("/outside"), host("/w/outside")).unwrap()),
            &[
                "moved_to /w/outside/",
                "created /w/outside/deep/",
                "created /w/outside/deep/f",
                "created /w/outside/in",
            ],
        ),
        (
            "watched again",
            Box::new(|| drop(space.put("/w/outside/deep/f", "z"))),
            &["modified /w/outside/deep/f"],
        ),
        (
            "remove",
            Box::new(|| {
                fs::remove_file(host("/w/outside/deep/f")).unwrap();
                fs::remove_dir(host("/w/outside/deep")).unwrap();
            }),
            &["removed /w/outside/deep/f", "removed /w/outside/deep/"],
        ),
        (
            "make",
            Box::new(|| fs::create_dir(host("/w/made")).unwrap()),
            &["created /w/made/"],
        ),
    ];
    for (number, (name, act, expected)) in steps.into_iter().enumerate() {
        act();
        let mark = format!("/w/mark{number}");
        // A directory: its making is one event.
        fs::create_dir(host(&mark)).unwrap();
        assert_eq!(watch.until(&mark).await, expected, "{name}");
    }
    // The agent's own writes, without the names that they have before.
    space.write("/w/old", "replaced").await.unwrap();
    fs::create_dir(host("/w/mark")).unwrap();
    let told = watch.until("/w/mark").await;
    assert_eq!(told, ["moved_to /w/old"]);
    space.write("/w/fresh", "fresh").await.unwrap();
    fs::create_dir(host("/w/mark-again")).unwrap();
    let told = watch.until("/w/mark-again").await;
    assert_eq!(told, ["created /w/fresh"]);
}

#[tokio::test]
async fn without_recursion_only_the_directory_itself_is_watched() {
    let space = Space::new();
    space.put("/w/sub/f", "");
    space.link("/link", "w");
    let (mut watch, ready) = watch(&space, "/link", false).await.unwrap();
    assert_eq!(ready.directories, 1);
    space.put("/w/sub/f", "changed");
    fs::create_dir(space.host("/w/new")).unwrap();
    space.put("/w/new/f", "");
    fs::create_dir(space.host("/w/mark")).unwrap();
    assert_eq!(watch.until("/w/mark").await, ["created /w/new/"]);
}

#[tokio::test]
async fn a_watch_ends_with_its_directory() {
    let space = Space::new();
    for moved in [false, true] {
        fs::create_dir(space.host("/w")).unwrap();
        let (mut watch, _) = watch(&space, "/w", true).await.unwrap();
        match moved {
            true => fs::rename(space.host("/w"), space.host("/v")).unwrap(),
            false => fs::remove_dir(space.host("/w")).unwrap(),
        }
        loop {
            let Some(Part::Event(event)) = watch.next().await else {
                panic!("it ended without a word");
            };
            // A directory that loses its last name may tell of its attributes first.
            if words(&event) == "removed /w/" {
                break;
            }
            assert_eq!(words(&event), "attributes /w/");
        }
        assert!(watch.next().await.is_none());
    }
    use FailureKind as Kind;
    space.put("/f", "");
    assert_eq!(
        kind(watch(&space, "/none", true).await),
        Some(Kind::NotFound)
    );
    assert_eq!(
        kind(watch(&space, "/f/", true).await),
        Some(Kind::NotADirectory)
    );
}

/// Files that are made in directories which are just being made are all told.
#[tokio::test]
async fn nothing_in_new_directories_is_missed() {
    let space = Space::new();
    fs::create_dir(space.host("/w")).unwrap();
    let (mut watch, _) = watch(&space, "/w", true).await.unwrap();
    let folder = space.host("/w");
    let maker = std::thread::spawn(move || {
        let mut made = BTreeSet::new();
        for number in 0..60 {
            let top = folder.join(format!("{number}"));
            let mut path = top.clone();
            for level in 0..4 {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("file"), "x").unwrap();
                made.insert(path.join("file"));
                path = path.join(format!("{level}"));
            }
        }
        fs::create_dir(folder.join("mark")).unwrap();
        made
    });
    let mut told = BTreeSet::new();
    let mut marked = false;
    let mut made = BTreeSet::new();
    let mut maker = Some(maker);
    while !marked || !made.is_subset(&told) {
        match watch.next().await {
            Some(Part::Event(event)) if event.change() == Change::Created => {
                let path = String::from_utf8(event.path.to_vec()).unwrap();
                marked |= path == "/w/mark";
                let new = told.insert(space.host(&path));
                assert!(new, "{path} was told twice");
            }
            Some(Part::Event(_)) => {}
            other => panic!("{other:?}"),
        }
        if marked && let Some(maker) = maker.take() {
            made = maker.join().unwrap();
        }
    }
}

/// Directories come, go, and are moved about; at the end, what is told leads to what is there.
#[tokio::test]
async fn paths_stay_right_while_directories_move() {
    let space = Space::new();
    space.put("/w/a/x/f", "");
    space.put("/w/b/y/g", "");
    let (mut watch, _) = watch(&space, "/w", true).await.unwrap();
    let host = |path: &str| space.host(path);
    for _ in 0..50 {
        fs::rename(host("/w/a/x"), host("/w/b/x")).unwrap();
        fs::rename(host("/w/b"), host("/w/c")).unwrap();
        fs::rename(host("/w/c/x"), host("/w/a/x")).unwrap();
        fs::rename(host("/w/c"), host("/w/b")).unwrap();
    }
    fs::rename(host("/w/a"), host("/w/b/y/a")).unwrap();
    fs::create_dir(host("/w/mark")).unwrap();
    let told = watch.until("/w/mark").await;
    assert_eq!(told.len(), 201, "every rename is one event");
    fs::write(host("/w/b/y/a/x/f"), "changed").unwrap();
    fs::create_dir(host("/w/again")).unwrap();
    assert_eq!(watch.until("/w/again").await, ["modified /w/b/y/a/x/f"]);
}

#[tokio::test]
async fn a_slow_reader_is_told_that_events_were_lost() {
    let space = Space::fast();
    fs::create_dir(space.host("/w")).unwrap();
    let (mut watch, _) = watch(&space, "/w", true).await.unwrap();
    // More than the stream and the queue hold, and more than the kernel's queue.
    let folder = space.host("/w");
    let name = "n".repeat(150);
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let count: usize = 30_000
        .max(most.trim().parse::<usize>().unwrap() * 2)
        .min(60_000);
    let work = tokio::task::spawn_blocking(move || {
        for number in 0..count {
            fs::write(folder.join(format!("{name}{number}")), "").unwrap();
        }
        fs::create_dir(folder.join("sub")).unwrap();
    });
    work.await.unwrap();
    loop {
        match watch.next().await {
            Some(Part::Overflow(_)) => break,
            Some(_) => {}
            None => panic!("it ended"),
        }
    }
    // It goes on, also in the directory whose making may have been lost: once that is found again.
    let told = async {
        loop {
            match watch.next().await {
                Some(Part::Event(event)) if event.path == "/w/sub/f" => break,
                Some(_) => {}
                None => panic!("it ended"),
            }
        }
    };
    let writing = async {
        loop {
            fs::write(space.host("/w/sub/f"), "").unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = told => {}
        () = writing => {}
    }
}

#[tokio::test]
async fn one_file_is_watched_through_replacements() {
    let space = Space::new();
    space.put("/w/f", "");
    space.put("/w/other", "");
    space.link("/link", "w/f");
    let (mut file, ready) = watch(&space, "/link", false).await.unwrap();
    assert_eq!((ready.directories, ready.truncated), (1, false));
    let host = |path: &str| space.host(path);
    fs::write(host("/w/other"), "x").unwrap();
    fs::write(host("/w/f"), "x").unwrap();
    fs::rename(host("/w/other"), host("/w/f")).unwrap();
    fs::write(host("/w/more"), "x").unwrap();
    fs::set_permissions(host("/w"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_file(host("/w/f")).unwrap();
    fs::create_dir(host("/w/f")).unwrap();
    for expected in [
        "modified /w/f",
        "moved_to /w/f",
        "removed /w/f",
        "created /w/f/",
    ] {
        match file.next().await {
            Some(Part::Event(event)) if words(&event) == expected => {}
            Some(Part::Event(event)) if words(&event) == "modified /w/f" => {}
            other => panic!("{other:?} for {expected}"),
        }
    }
    assert_eq!(
        kind(watch(&space, "/w/more/", false).await),
        Some(FailureKind::NotADirectory)
    );
    assert_eq!(
        kind(watch(&space, "/w/none", false).await),
        Some(FailureKind::NotFound)
    );
}

#[tokio::test]
async fn watches_of_the_same_share_one_instance_and_tell_each() {
    // Descriptors of an instance that watches a certain directory.
    let watching = |path: &std::path::Path| {
        let inode = format!(" ino:{:x} ", fs::metadata(path).unwrap().ino());
        let all = fs::read_dir("/proc/self/fdinfo").unwrap();
        let infos = all.filter_map(|fd| fs::read_to_string(fd.unwrap().path()).ok());
        let of_inotify = infos.filter(|info| {
            let mut lines = info.lines().filter(|line| line.starts_with("inotify "));
            lines.any(|line| line.contains(&inode))
        });
        of_inotify.count()
    };
    let space = Space::new();
    space.put("/w/sub/f", "");
    let mut many = Vec::new();
    for _ in 0..8 {
        many.push(watch(&space, "/w", true).await.unwrap().0);
    }
    let (mut deeper, _) = watch(&space, "/w/sub", false).await.unwrap();
    fs::create_dir(space.host("/w/once")).unwrap();
    let (_once, _) = watch(&space, "/w/once", false).await.unwrap();
    let shared = watching(&space.host("/w/once"));
    assert!(shared >= 10, "{shared} descriptors of that instance");
    let space = &space;
    let mark = |name: &str| drop(fs::write(space.host(format!("/w/sub/{name}")), "x"));
    mark("one");
    for watch in &mut many {
        watch.until("/w/sub/one").await;
    }
    deeper.until("/w/sub/one").await;
    // The end of one is not that of the others.
    many.truncate(2);
    mark("two");
    for watch in &mut many {
        watch.until("/w/sub/two").await;
    }
    drop(many);
    mark("three");
    deeper.until("/w/sub/three").await;
}

#[tokio::test]
async fn watches_are_bounded() {
    let space = Space::fast();
    let count = MOST_WATCHES + 50;
    for number in 0..count {
        fs::create_dir_all(space.host(format!("/w/{number:04}/sub"))).unwrap();
    }
    let (mut first, ready) = watch(&space, "/w", true).await.unwrap();
    assert_eq!(
        (ready.directories, ready.truncated),
        (MOST_WATCHES as u64, true)
    );
    // The directory itself is watched in any case.
    fs::create_dir(space.host("/w/mark")).unwrap();
    assert!(first.until("/w/mark").await.is_empty());
    // One that is complete at first tells when it is no more.
    fs::create_dir(space.host("/v")).unwrap();
    let (mut second, ready) = watch(&space, "/v", true).await.unwrap();
    assert_eq!((ready.directories, ready.truncated), (1, false));
    fs::rename(space.host("/w"), space.host("/v/w")).unwrap();
    loop {
        match second.next().await {
            Some(Part::Overflow(_)) => break,
            Some(Part::Event(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
