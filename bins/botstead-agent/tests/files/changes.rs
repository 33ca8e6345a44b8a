//! `MakeDirectory`, `Rename` and `Remove`.

use crate::support::{Answer, Mounted, OWNER, Space, failure, kind};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::{Entry, MakeDirectoryRequest, RenameRequest};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::Handle;

async fn make(space: &Space, path: &str, parents: bool, mode: Option<u32>) -> Answer<Entry> {
    let request = MakeDirectoryRequest {
        at: space.location(path),
        parents,
        mode,
    };
    let answer = space.files.clone().make_directory(request).await;
    answer.map(|entry| entry.into_inner()).map_err(failure)
}

#[tokio::test]
async fn directories_are_made() {
    let space = Space::new();
    space.put("/f", "");
    space.put("/d/x", "");
    space.link("/to-directory", "d");
    space.link("/nowhere", "missing");
    let entry = make(&space, "/new", false, None).await.unwrap();
    assert_eq!((entry.path.as_ref(), entry.mode), (&b"/new"[..], 0o755));
    assert_eq!(space.owner("/new"), OWNER);
    let entry = make(&space, "/to-directory/a/b/", true, Some(0o1770))
        .await
        .unwrap();
    assert_eq!((entry.path.as_ref(), entry.mode), (&b"/d/a/b"[..], 0o1770));
    assert_eq!((space.mode("/d/a"), space.owner("/d/a")), (0o755, OWNER));
    for path in ["/d", "/to-directory", "/", "/d/..", "/new/../d/a"] {
        let entry = make(&space, path, true, None).await;
        assert!(
            entry.is_ok(),
            "{path}: it is there, and parents are asked for"
        );
    }
    use FailureKind as Kind;
    for (path, parents, failure) in [
        ("/d", false, Kind::AlreadyExists),
        ("/f", false, Kind::AlreadyExists),
        ("/f", true, Kind::NotADirectory),
        ("/nowhere", false, Kind::AlreadyExists),
        ("/nowhere", true, Kind::AlreadyExists),
        ("/nowhere/a", true, Kind::NotADirectory),
        ("/no/a", false, Kind::NotFound),
        ("/no/../a", true, Kind::NotFound),
        ("/f/a", true, Kind::NotADirectory),
        ("/", false, Kind::PermissionDenied),
        ("/d/..", false, Kind::Invalid),
    ] {
        let answer = make(&space, path, parents, None).await;
        assert_eq!(kind(answer), Some(failure), "{path} {parents}");
    }
    let long = format!("/d/{}", "a".repeat(256));
    assert_eq!(
        kind(make(&space, &long, true, None).await),
        Some(Kind::NameTooLong)
    );
}

/// Some words of a request to rename.
#[derive(Clone, Copy, Default)]
struct How {
    replace: bool,
    parents: bool,
}

const REPLACE: How = How {
    replace: true,
    parents: false,
};
const KEEP: How = How {
    replace: false,
    parents: false,
};

async fn rename(space: &Space, from: &str, to: &str, how: How) -> Answer<()> {
    let request = RenameRequest {
        root: space.root().into(),
        from: from.as_bytes().to_vec().into(),
        to: to.as_bytes().to_vec().into(),
        replace: how.replace,
        parents: how.parents,
    };
    let answer = space.files.clone().rename(request).await;
    answer.map(drop).map_err(failure)
}

#[tokio::test]
async fn entries_are_renamed() {
    let space = Space::new();
    space.put("/a", "a");
    space.put("/b", "b");
    space.put("/d/f", "f");
    space.put("/full/x", "");
    std::fs::create_dir(space.host("/empty")).unwrap();
    space.link("/link", "a");
    space.link("/to-d", "d");
    use FailureKind as Kind;
    for (from, to, how, failure) in [
        ("/a", "/b", KEEP, Kind::AlreadyExists),
        ("/a", "/link", KEEP, Kind::AlreadyExists),
        ("/none", "/c", KEEP, Kind::NotFound),
        (
            "/none",
            "/no/c",
            How {
                parents: true,
                ..KEEP
            },
            Kind::NotFound,
        ),
        ("/a", "/no/c", KEEP, Kind::NotFound),
        ("/a", "/d", REPLACE, Kind::IsADirectory),
        ("/d", "/a", REPLACE, Kind::NotADirectory),
        ("/d", "/full", REPLACE, Kind::NotEmpty),
        ("/d", "/d/e", KEEP, Kind::Invalid),
        ("/d", "/d/e", REPLACE, Kind::Invalid),
        ("/", "/x", KEEP, Kind::PermissionDenied),
        ("/a", "/", REPLACE, Kind::PermissionDenied),
        ("/d/..", "/x", KEEP, Kind::Invalid),
        ("/a", "", KEEP, Kind::Invalid),
    ] {
        let answer = rename(&space, from, to, how).await;
        assert_eq!(kind(answer), Some(failure), "{from} to {to}");
    }
    assert!(
        !space.host("/no").exists(),
        "nothing is made for what is not there"
    );
    for (from, to, how) in [
        ("/a", "/c", KEEP),
        ("/c", "/b", REPLACE),
        ("/link", "/to-d/link", KEEP),
        (
            "/b",
            "/p/q/b",
            How {
                parents: true,
                ..KEEP
            },
        ),
        ("/d", "/empty", REPLACE),
        ("/p/q/b", "/p/q/b", REPLACE),
    ] {
        rename(&space, from, to, how).await.unwrap();
    }
    assert_eq!(space.names("/"), ["empty", "full", "p", "to-d"]);
    assert_eq!(space.names("/empty"), ["f", "link"]);
    assert_eq!(std::fs::read(space.host("/p/q/b")).unwrap(), b"a");
    assert!(
        std::fs::symlink_metadata(space.host("/empty/link"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(space.owner("/p/q"), OWNER);
}

/// On an overlay, the kernel refuses to rename a directory that comes from a layer below. After a
/// snapshot, every directory of a workspace does.
#[tokio::test]
async fn directories_of_a_layer_below_are_renamed_too() {
    let space = Space::new();
    space.put("/lower/d/sub/file", "content");
    space.put("/lower/other", "");
    for folder in ["/upper", "/work"] {
        std::fs::create_dir(space.host(folder)).unwrap();
    }
    std::fs::hard_link(
        space.host("/lower/d/sub/file"),
        space.host("/lower/d/again"),
    )
    .unwrap();
    space.link("/lower/d/link", "sub/file");
    let host = |path: &str| space.host(path).to_str().unwrap().to_owned();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        host("/lower"),
        host("/upper"),
        host("/work")
    );
    let merged = Mounted::new("overlay", space.host("/merged"), &options);
    let plain = std::fs::rename(merged.0.join("d"), merged.0.join("plain"));
    assert_eq!(
        plain.unwrap_err().raw_os_error(),
        Some(18),
        "the kernel refuses"
    );

    let answer = rename(&space, "/merged/d", "/merged/other", REPLACE).await;
    assert_eq!(kind(answer), Some(FailureKind::NotADirectory));
    let answer = rename(&space, "/merged/d", "/merged/d/sub/e", KEEP).await;
    assert_eq!(kind(answer), Some(FailureKind::Invalid));
    rename(&space, "/merged/d", "/merged/e", KEEP)
        .await
        .unwrap();
    assert_eq!(space.names("/merged"), ["e", "other"]);
    assert_eq!(space.names("/merged/e"), ["again", "link", "sub"]);
    assert_eq!(
        std::fs::read(space.host("/merged/e/link")).unwrap(),
        b"content"
    );
    let inode = |path: &str| std::fs::metadata(space.host(path)).unwrap().ino();
    assert_eq!(inode("/merged/e/again"), inode("/merged/e/sub/file"));
    // Files are written there as everywhere.
    space.write("/merged/e/sub/file", "new").await.unwrap();
    assert_eq!(
        std::fs::read(space.host("/merged/e/sub/file")).unwrap(),
        b"new"
    );
    assert_eq!(space.names("/merged/e/sub"), ["file"]);
    assert!(space.write("/merged/e/new", "new").await.unwrap().created);
    assert_eq!(space.names("/merged/e"), ["again", "link", "new", "sub"]);
    // Between two filesystems, files go as well.
    rename(&space, "/merged/other", "/other", KEEP)
        .await
        .unwrap();
    assert_eq!(space.names("/merged"), ["e"]);
    assert!(space.host("/other").exists());
}

#[tokio::test]
async fn times_of_whatever_kind_keep_nothing_from_being_moved_by_a_copy() {
    let space = Space::new();
    let _other = Mounted::new("tmpfs", space.host("/other"), "size=1m");
    for (name, seconds) in [
        ("ahead", 2_208_988_800_i64),
        ("old", -1_000_000),
        ("epoch", 0),
    ] {
        let file = space.put(&format!("/other/d/{name}"), name);
        let time = match seconds {
            0.. => UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()),
            _ => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
        };
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.set_modified(time).unwrap();
    }
    space.put("/other/new", "new");
    for (from, to) in [("/other/d", "/d"), ("/other/new", "/new")] {
        rename(&space, from, to, KEEP).await.unwrap();
    }
    assert_eq!(space.names("/other"), [""; 0]);
    assert_eq!(space.names("/d"), ["ahead", "epoch", "old"]);
}

#[tokio::test]
async fn a_tree_deeper_than_a_path_is_moved_by_a_copy() {
    let space = Space::new();
    let other = Mounted::new("tmpfs", space.host("/other"), "size=8m");
    std::fs::create_dir(other.0.join("d")).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = |at: &OwnedFd, name: &str| openat(at, name, flags, Mode::empty()).unwrap();
    let mut at: OwnedFd = std::fs::File::open(other.0.join("d")).unwrap().into();
    let name = "n".repeat(200);
    for _ in 0..30 {
        mkdirat(&at, &*name, Mode::RWXU).unwrap();
        at = opened(&at, &name);
    }
    let create = OFlags::CREATE | OFlags::WRONLY;
    openat(&at, "file", create, Mode::RUSR).unwrap();
    drop(at);
    rename(&space, "/other/d", "/d", KEEP).await.unwrap();
    assert_eq!(space.names("/other"), [""; 0]);
    let mut at: OwnedFd = std::fs::File::open(space.host("/d")).unwrap().into();
    for _ in 0..30 {
        at = opened(&at, &name);
    }
    openat(&at, "file", OFlags::RDONLY, Mode::empty()).unwrap();
    space.remove("/d", true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_directory_is_moved_by_a_copy_is_never_lost() {
    let space = Space::new();
    let _other = Mounted::new("tmpfs", space.host("/other"), "size=64m");
    for number in 0..1500 {
        space.put(&format!("/other/d/old/{number}"), "old");
    }
    let (from, to) = (space.host("/other/d"), space.host("/d"));
    let (moved, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let (from, moved, seen) = (&from, &moved, &seen);
        scope.spawn(move || {
            // New files, new directories, and files that were there with other content.
            for number in 0.. {
                let name = match number % 3 {
                    0 => format!("new-{number}"),
                    1 => format!("new-{number}/file"),
                    _ => format!("old/{}", number % 1500),
                };
                let path = from.join(&name);
                let _ = std::fs::create_dir_all(path.parent().unwrap());
                if std::fs::write(path, format!("new {number}")).is_ok() {
                    seen.lock().unwrap().push((name, format!("new {number}")));
                }
                if moved.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let answer = tokio::task::block_in_place(|| {
            Handle::current().block_on(rename(&space, "/other/d", "/d", KEEP))
        });
        moved.store(true, Ordering::Relaxed);
        if let Err(failure) = answer {
            assert_eq!(failure.kind, FailureKind::Changed, "{failure:?}");
            assert!(failure.message.contains("stays"), "{failure:?}");
        }
    });
    let seen = seen.into_inner().unwrap();
    assert!(!seen.is_empty());
    let mut last = std::collections::BTreeMap::new();
    last.extend(seen);
    for (name, content) in last {
        let is_there = |top: &Path| std::fs::read_to_string(top.join(&name)).ok();
        let found = [is_there(&from), is_there(&to)];
        assert!(
            found.contains(&Some(content.clone())),
            "{name}: {content} {found:?}"
        );
    }
    // What nobody touched is moved whole.
    assert!(to.join("old").is_dir());
}

#[tokio::test]
async fn entries_are_removed() {
    let space = Space::new();
    space.put("/f", "");
    space.put("/d/sub/f", "");
    space.put("/outside/kept", "");
    std::fs::create_dir(space.host("/empty")).unwrap();
    space.link("/link", "outside");
    space.link("/d/link", "/outside");
    space.link("/d/sub/up", "../../..");
    use FailureKind as Kind;
    for (path, recursive, failure) in [
        ("/", true, Kind::PermissionDenied),
        ("/.", true, Kind::PermissionDenied),
        ("/..", true, Kind::PermissionDenied),
        ("/d/..", true, Kind::Invalid),
        ("/none", true, Kind::NotFound),
        ("/f/x", true, Kind::NotADirectory),
        ("/d", false, Kind::NotEmpty),
    ] {
        let answer = space.remove(path, recursive).await;
        assert_eq!(kind(answer), Some(failure), "{path}");
    }
    for (path, recursive, removed) in [
        ("/f", false, 1),
        ("/link", true, 1),
        ("/empty/", false, 1),
        ("/d", true, 5),
    ] {
        let reply = space.remove(path, recursive).await.unwrap();
        assert_eq!(reply.removed, removed, "{path}");
    }
    assert_eq!(space.names("/"), ["outside"]);
    assert_eq!(space.names("/outside"), ["kept"]);
}

#[tokio::test]
async fn what_is_mounted_stays() {
    let space = Space::new();
    space.put("/d/a/file", "");
    let mounted = Mounted::new("tmpfs", space.host("/d/b/mounted"), "size=1m");
    std::fs::write(mounted.0.join("kept"), "").unwrap();
    for path in ["/d/b/mounted", "/d"] {
        let failure = space.remove(path, true).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Busy);
        assert_eq!(failure.path, b"/d/b/mounted");
    }
    assert!(Path::new(&mounted.0).join("kept").exists());
}
