//! Trees that are made to break something: very deep ones, odd names, what is not what it seems.

use crate::support::{Space, failure};
use botstead_bridge::proto::{self, ListRequest, search_reply};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use std::time::Instant;
use tonic::codegen::tokio_stream::StreamExt;

const LEVELS: u64 = 10_000;

/// Makes a chain of directories with a file at its end.
fn deep(space: &Space, name: &str) {
    std::fs::create_dir(space.host(name)).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = rustix::fs::open(space.host(name), flags, Mode::empty()).unwrap();
    for _ in 1..LEVELS {
        mkdirat(&directory, "d", Mode::RWXU).unwrap();
        directory = openat(&directory, "d", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = openat(&directory, "end", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"needle\n").unwrap();
}

/// Every call that goes through trees goes through one that is deeper than any path, with few
/// descriptors (the tests run with 1024) and without a stack that grows.
#[tokio::test]
async fn very_deep_trees_are_handled() {
    let space = Space::fast();
    deep(&space, "/deep");
    let began = Instant::now();
    let step = |what: &str| println!("{what}: {:?}", began.elapsed());

    // From far down on: each page goes all the way.
    const ABOVE: u64 = 9_900;
    let mut after = [b"/deep".as_slice(), &b"/d".repeat(ABOVE as usize)].concat();
    let mut listed = ABOVE;
    loop {
        let request = ListRequest {
            at: space.location("/deep"),
            recursive: true,
            limit: 1000,
            after: after.clone().into(),
            ..ListRequest::default()
        };
        let reply = space.list(request).await.unwrap();
        listed += reply.entries.len() as u64;
        after = reply.entries.last().unwrap().path.to_vec();
        if !reply.more {
            break;
        }
    }
    assert_eq!(listed, LEVELS);
    assert_eq!(
        after.len() as u64,
        "/deep".len() as u64 + 2 * (LEVELS - 1) + "/end".len() as u64
    );
    step("list");

    let search = proto::SearchRequest {
        at: space.location("/"),
        pattern: "needle".to_owned(),
        respect_ignore_files: true,
        limit: 10,
        ..proto::SearchRequest::default()
    };
    let mut found = space
        .files
        .clone()
        .search(search)
        .await
        .unwrap()
        .into_inner();
    let Some(search_reply::Part::Match(found)) = found.next().await.unwrap().unwrap().part else {
        panic!("no match");
    };
    assert_eq!(found.path, after);
    step("search");

    let copy = proto::CopyRequest {
        root: space.root().into(),
        from: "/deep".into(),
        to: "/copy".into(),
        recursive: true,
        ..proto::CopyRequest::default()
    };
    let copied = space
        .files
        .clone()
        .copy(copy)
        .await
        .map_err(failure)
        .unwrap();
    assert_eq!(copied.into_inner().entries, LEVELS + 1);
    step("copy");

    let archive = proto::ArchiveRequest {
        at: space.location("/copy"),
    };
    let mut archive = space
        .files
        .clone()
        .archive(archive)
        .await
        .unwrap()
        .into_inner();
    let mut done = None;
    while let Some(reply) = archive.next().await {
        done = reply.unwrap().done;
    }
    assert_eq!(done.unwrap().entries, LEVELS + 1);
    step("archive");

    let watch = proto::WatchRequest {
        at: space.location("/copy"),
        recursive: true,
    };
    let mut watch = space.files.clone().watch(watch).await.unwrap().into_inner();
    assert!(watch.next().await.unwrap().is_ok());
    drop(watch);
    step("watch");

    for name in ["/copy", "/deep"] {
        let removed = space.remove(name, true).await.unwrap().removed;
        assert_eq!(removed, LEVELS + 1);
    }
    step("remove");
    assert!(space.names("/").is_empty());
}

/// Wide and deep at once: more names than a walk keeps, so that directories are read again.
#[tokio::test]
async fn wide_trees_are_walked_completely() {
    let space = Space::fast();
    let mut expected = 0;
    let mut folder = space.host("/top");
    for count in [55_000, 3000, 3000, 3000] {
        std::fs::create_dir(&folder).unwrap();
        for number in 0..count {
            let name = folder.join(format!("{number:05}"));
            std::os::unix::fs::symlink("x", name).unwrap();
            expected += 1;
        }
        folder = folder.join("00100-next");
        expected += 1;
    }
    std::fs::create_dir(&folder).unwrap();
    let archive = proto::ArchiveRequest {
        at: space.location("/"),
    };
    let mut archive = space
        .files
        .clone()
        .archive(archive)
        .await
        .unwrap()
        .into_inner();
    let mut done = None;
    while let Some(reply) = archive.next().await {
        done = reply.unwrap().done;
    }
    assert_eq!(done.unwrap().entries, expected + 1);
    assert_eq!(
        space.remove("/top", true).await.unwrap().removed,
        expected + 1
    );
}
