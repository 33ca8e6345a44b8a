//! `Stat` and `List`.

use crate::support::{Numbers, Space, kind};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::{self, ListRequest, entry};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

#[tokio::test]
async fn stat_tells_what_is_there() {
    let space = Space::new();
    let file = space.put("/a/file", "12345");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4751)).unwrap();
    space.link("/a/link", "file");
    space.link("/a/to-directory", "/a");
    space.link("/a/nowhere", "missing");
    space.link("/a/outside", "../../../../etc/hostname");
    space.link("/a/loop", "loop");
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/a/pipe"), 0o600.into()).unwrap();
    let _socket = UnixListener::bind(space.host("/a/socket")).unwrap();

    use entry::Kind;
    for (path, is, leads_to, size) in [
        ("/", Kind::Directory, Kind::Other, None),
        ("/a", Kind::Directory, Kind::Other, None),
        ("/a/../a/./file", Kind::File, Kind::Other, Some(5)),
        ("/a/file", Kind::File, Kind::Other, Some(5)),
        ("/a/link", Kind::Symlink, Kind::File, Some(4)),
        ("/a/to-directory", Kind::Symlink, Kind::Directory, Some(2)),
        ("/a/to-directory/file", Kind::File, Kind::Other, Some(5)),
        ("/a/nowhere", Kind::Symlink, Kind::Other, Some(7)),
        ("/a/outside", Kind::Symlink, Kind::Other, Some(24)),
        ("/a/loop", Kind::Symlink, Kind::Other, Some(4)),
        ("/a/pipe", Kind::Pipe, Kind::Other, Some(0)),
        ("/a/socket", Kind::Socket, Kind::Other, Some(0)),
    ] {
        let entry = space.stat(path).await.unwrap();
        assert_eq!(entry.kind(), is, "{path}");
        assert_eq!(entry.target_kind(), leads_to, "{path}");
        assert!(size.is_none_or(|size| size == entry.size), "{path}");
        assert_eq!(entry.revision.is_empty(), is != Kind::File, "{path}");
    }
    let entry = space.stat("/a/to-directory/file").await.unwrap();
    assert_eq!(entry.path, "/a/file", "resolved");
    assert_eq!(entry.mode, 0o4751);
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(entry.modified_ns as u128, since.as_nanos());
    assert_eq!(space.stat("/a/link").await.unwrap().target, "file");

    let follow = |path: &'static str| {
        let request = proto::StatRequest {
            at: space.location(path),
            follow: true,
        };
        let mut files = space.files.clone();
        async move { files.stat(request).await.map(|entry| entry.into_inner()) }
    };
    let followed = follow("/a/link").await.unwrap();
    assert_eq!((followed.kind(), followed.size), (Kind::File, 5));
    assert_eq!(followed.path, "/a/file");
    for (path, failure) in [
        ("/a/nowhere", FailureKind::NotFound),
        ("/a/outside", FailureKind::NotFound),
        ("/a/loop", FailureKind::Loop),
    ] {
        let status = follow(path).await.map_err(crate::support::failure);
        assert_eq!(kind(status), Some(failure), "{path}");
    }
}

#[tokio::test]
async fn revisions_differ_after_any_change() {
    let space = Space::new();
    let file = space.put("/f", "one");
    let mut seen = Vec::new();
    let mut change = async |what: &str, act: &dyn Fn()| {
        act();
        let revision = space.stat("/f").await.unwrap().revision;
        assert!(!revision.is_empty() && !seen.contains(&revision), "{what}");
        seen.push(revision);
    };
    let pause = || std::thread::sleep(Duration::from_millis(15));
    change("as it is", &|| {}).await;
    change("same size", &|| {
        pause();
        std::fs::write(&file, "two").unwrap();
    })
    .await;
    change("size", &|| std::fs::write(&file, "three").unwrap()).await;
    change("replaced", &|| {
        std::fs::copy(&file, space.host("/g")).unwrap();
        std::fs::rename(space.host("/g"), &file).unwrap();
    })
    .await;
    change("its time set back", &|| {
        pause();
        std::fs::write(&file, "THREE").unwrap();
        let opened = std::fs::File::open(&file).unwrap();
        opened.set_modified(std::time::UNIX_EPOCH).unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_is_no_path_is_invalid() {
    let space = Space::new();
    space.put("/a", "");
    let long = format!("/{}", "a/".repeat(2100));
    for path in ["", "a", "./a", "/a\0", &long] {
        let list = ListRequest {
            at: space.location(path),
            limit: 1,
            ..ListRequest::default()
        };
        assert_eq!(kind(space.stat(path).await), Some(FailureKind::Invalid));
        assert_eq!(kind(space.list(list).await), Some(FailureKind::Invalid));
        assert_eq!(kind(space.read(path).await), Some(FailureKind::Invalid));
        assert_eq!(
            kind(space.write(path, "").await),
            Some(FailureKind::Invalid)
        );
        assert_eq!(
            kind(space.remove(path, true).await),
            Some(FailureKind::Invalid)
        );
    }
    let name = format!("/{}", "a".repeat(256));
    assert_eq!(
        kind(space.stat(&name).await),
        Some(FailureKind::NameTooLong)
    );
    assert_eq!(
        kind(space.stat("/a/b").await),
        Some(FailureKind::NotADirectory)
    );
    assert_eq!(kind(space.stat("/b/c").await), Some(FailureKind::NotFound));
    for root in ["relative", "/nowhere-at-all", "/\0"] {
        let request = proto::StatRequest {
            at: Some(proto::Location {
                root: root.into(),
                path: "/a".into(),
            }),
            follow: false,
        };
        assert!(space.files.clone().stat(request).await.is_err(), "{root:?}");
    }
}

/// All pages of a listing.
async fn pages(space: &Space, request: ListRequest) -> Vec<proto::Entry> {
    let mut request = request;
    let mut entries: Vec<proto::Entry> = Vec::new();
    loop {
        let reply = space.list(request.clone()).await.unwrap();
        assert!(reply.entries.len() <= request.limit as usize);
        entries.extend(reply.entries);
        if !reply.more {
            return entries;
        }
        request.after = entries.last().unwrap().path.clone();
    }
}

/// Every path below a folder, as the bytes order them, with its depth.
fn model(folder: &Path, prefix: &[u8], depth: u32, found: &mut BTreeMap<Vec<u8>, u32>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = [prefix, b"/", entry.file_name().as_bytes()].concat();
        if entry.file_type().unwrap().is_dir() {
            model(&entry.path(), &path, depth + 1, found);
        }
        found.insert(path, depth);
    }
}

#[tokio::test]
async fn listings_are_sorted_and_complete_whatever_the_page() {
    let space = Space::new();
    let mut numbers = Numbers(7);
    // Names around the slash, in the order of bytes, and names that are no text.
    let names: &[&[u8]] = &[
        b"a", b"a-", b"a.", b"a0", b"a-b", b"\xff", b"\n", b"A b", b".x",
    ];
    let mut folders = vec![space.folder.path().to_owned()];
    for _ in 0..300 {
        let folder = folders[numbers.below(folders.len() as u64) as usize].clone();
        let name = names[numbers.below(names.len() as u64) as usize];
        let path = folder.join(OsStr::from_bytes(name));
        match numbers.below(2) {
            0 if std::fs::create_dir(&path).is_ok() => folders.push(path),
            _ if !path.exists() => std::fs::write(&path, "x").unwrap(),
            _ => {}
        }
    }
    let mut expected = BTreeMap::new();
    model(space.folder.path(), b"", 1, &mut expected);
    assert!(expected.len() > 150 && expected.values().max() > Some(&4));
    for limit in [1, 3, 7, 1000] {
        for max_depth in [0, 1, 2, 4] {
            let request = ListRequest {
                at: space.location("/"),
                recursive: true,
                limit,
                max_depth,
                ..ListRequest::default()
            };
            let got: Vec<_> = pages(&space, request).await;
            let got: Vec<&[u8]> = got.iter().map(|entry| entry.path.as_ref()).collect();
            let expected: Vec<&[u8]> = expected
                .iter()
                .filter(|(_, depth)| max_depth == 0 || **depth <= max_depth)
                .map(|(path, _)| path.as_slice())
                .collect();
            assert_eq!(got, expected, "limit {limit}, depth {max_depth}");
        }
    }
}

#[tokio::test]
async fn a_listing_knows_its_directory_and_refuses_other_starts() {
    let space = Space::new();
    space.put("/d/e/f", "");
    space.link("/link", "d");
    let request = |path: &str, after: &str, limit| ListRequest {
        at: space.location(path),
        limit,
        after: after.as_bytes().to_vec().into(),
        ..ListRequest::default()
    };
    let reply = space.list(request("/link/", "", 9)).await.unwrap();
    assert_eq!(reply.path, "/d");
    assert_eq!(reply.entries[0].path, "/d/e");
    for after in ["/", "/d", "/e", "d/e", "/d/../etc", "/d//e", "/d/e/.."] {
        let answer = space.list(request("/d", after, 9)).await;
        assert_eq!(kind(answer), Some(FailureKind::Invalid), "{after}");
    }
    for limit in [0, 1001] {
        let answer = space.list(request("/d", "", limit)).await;
        assert_eq!(kind(answer), Some(FailureKind::Invalid));
    }
    let answer = space.list(request("/d/e/f", "", 9)).await;
    assert_eq!(kind(answer), Some(FailureKind::NotADirectory));
    let answer = space.list(request("/none", "", 9)).await;
    assert_eq!(kind(answer), Some(FailureKind::NotFound));
}

#[tokio::test]
async fn a_page_of_a_huge_directory_is_quick() {
    const COUNT: u32 = 200_000;
    let space = Space::fast();
    let folder = space.host("/huge");
    std::fs::create_dir(&folder).unwrap();
    let open = rustix::fs::open(&folder, rustix::fs::OFlags::PATH, 0.into()).unwrap();
    for number in 0..COUNT {
        // A link is the cheapest thing to make.
        rustix::fs::symlinkat("x", &open, format!("{number:06}")).unwrap();
    }
    let request = |after: &str| ListRequest {
        at: space.location("/huge"),
        limit: 1000,
        after: after.as_bytes().to_vec().into(),
        ..ListRequest::default()
    };
    for (after, first) in [("", "/huge/000000"), ("/huge/100000", "/huge/100001")] {
        // The best of some: others use the machine as well.
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            let reply = space.list(request(after)).await.unwrap();
            best = best.min(began.elapsed());
            let begins = (reply.entries[0].path.as_ref(), reply.more);
            assert_eq!(begins, (first.as_bytes(), true));
            assert_eq!(reply.entries.len(), 1000);
        }
        println!("a page of 1000 in a directory of {COUNT}: {best:?}");
        // What an unoptimized build takes on a busy machine is no measure.
        let most = if cfg!(debug_assertions) { 5000 } else { 200 };
        assert!(best < Duration::from_millis(most), "{best:?}");
    }
    let reply = space.list(request("/huge/199998")).await.unwrap();
    assert_eq!((reply.entries.len(), reply.more), (1, false));
    let removed = space.remove("/huge", true).await.unwrap().removed;
    assert_eq!(removed, u64::from(COUNT) + 1);
}
