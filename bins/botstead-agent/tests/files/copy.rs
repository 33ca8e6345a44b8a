//! `Copy`.

use crate::read::pattern;
use crate::support::{Answer, Space, eventually, failure, kind};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::{CopyReply, CopyRequest};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::fs::Metadata;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::time::{Duration, UNIX_EPOCH};

fn request(space: &Space, from: &str, to: &str) -> CopyRequest {
    CopyRequest {
        root: space.root().into(),
        from: from.as_bytes().to_vec().into(),
        to: to.as_bytes().to_vec().into(),
        recursive: true,
        replace: false,
        parents: false,
    }
}

async fn copy(space: &Space, request: CopyRequest) -> Answer<CopyReply> {
    let answer = space.files.clone().copy(request).await;
    answer.map(|reply| reply.into_inner()).map_err(failure)
}

/// What a copy has in common with what it was made from.
fn common(metadata: &Metadata) -> (u32, u32, u32, i64, i64) {
    let times = (metadata.mtime(), metadata.mtime_nsec());
    (
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        times.0,
        times.1,
    )
}

#[tokio::test]
async fn a_tree_is_copied_faithfully() {
    let space = Space::new();
    space.put("/from/file", pattern(100_000));
    space.put("/from/sub/deep/f", "x");
    space.put("/from/\u{e4}\n", "odd");
    std::fs::hard_link(space.host("/from/file"), space.host("/from/sub/same")).unwrap();
    std::fs::create_dir(space.host("/from/empty")).unwrap();
    space.link("/from/link", "file");
    space.link("/from/broken", "/nowhere");
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/from/pipe"), 0o640.into()).unwrap();
    let _socket = UnixListener::bind(space.host("/from/socket")).unwrap();
    let sparse = std::fs::File::create(space.host("/from/sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"middle", 20 << 20).unwrap();
    setxattr(
        space.host("/from/file"),
        c"user.a",
        b"1",
        XattrFlags::empty(),
    )
    .unwrap();
    setxattr(
        space.host("/from/sub"),
        c"user.b",
        b"2",
        XattrFlags::empty(),
    )
    .unwrap();
    chown(space.host("/from/file"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::lchown(space.host("/from/link"), Some(9), Some(10)).unwrap();
    let set_mode = |path: &str, mode| {
        std::fs::set_permissions(space.host(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    set_mode("/from/file", 0o6755);
    set_mode("/from/sub/deep", 0o500);
    set_mode("/from/sub", 0o1777);
    let old = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for path in ["/from/file", "/from/empty", "/from/sub", "/from"] {
        let open = std::fs::File::open(space.host(path)).unwrap();
        open.set_modified(old).unwrap();
    }

    let reply = copy(&space, request(&space, "/from", "/to")).await.unwrap();
    assert_eq!(reply.entries, 13);
    assert_eq!(reply.bytes, 100_000 + 1 + 3 + (50 << 20));
    for path in [
        "",
        "/file",
        "/sub",
        "/sub/deep",
        "/sub/deep/f",
        "/sub/same",
        "/empty",
        "/link",
        "/broken",
        "/pipe",
        "/socket",
        "/sparse",
        "/\u{e4}\n",
    ] {
        let look = |top: &str| std::fs::symlink_metadata(space.host(format!("{top}{path}")));
        let (from, to) = (look("/from").unwrap(), look("/to").unwrap());
        assert_eq!(common(&from), common(&to), "{path}");
        assert_ne!(from.ino(), to.ino());
        if from.is_file() {
            let read = |top: &str| std::fs::read(space.host(format!("{top}{path}"))).unwrap();
            assert!(read("/from") == read("/to"), "{path}");
        }
    }
    let look = |path: &str| std::fs::symlink_metadata(space.host(path)).unwrap();
    assert_eq!(look("/to/file").ino(), look("/to/sub/same").ino());
    assert!(look("/to/sparse").blocks() < 1000);
    assert!(look("/to/socket").file_type().is_socket());
    assert_eq!(
        std::fs::read_link(space.host("/to/broken"))
            .unwrap()
            .to_str(),
        Some("/nowhere")
    );
    for (path, name, value) in [("/to/file", c"user.a", b"1"), ("/to/sub", c"user.b", b"2")] {
        let mut found = [0; 1];
        getxattr(space.host(path), name, &mut found).unwrap();
        assert_eq!(&found, value);
    }
    assert_eq!(space.names("/"), ["from", "to"]);
}

#[tokio::test]
async fn single_entries_are_copied() {
    let space = Space::new();
    space.put("/f", pattern(1 << 20));
    space.put("/g", "replaced");
    std::fs::set_permissions(space.host("/f"), PermissionsExt::from_mode(0o751)).unwrap();
    space.link("/link", "f");
    std::fs::create_dir(space.host("/empty")).unwrap();
    let plain = |from, to| request(&space, from, to);
    let replacing = |from, to| CopyRequest {
        replace: true,
        ..plain(from, to)
    };
    assert_eq!(
        copy(&space, replacing("/f", "/g")).await.unwrap().bytes,
        1 << 20
    );
    assert!(std::fs::read(space.host("/g")).unwrap() == pattern(1 << 20));
    assert_eq!(space.mode("/g"), 0o751);
    copy(&space, plain("/link", "/copied")).await.unwrap();
    assert!(
        std::fs::symlink_metadata(space.host("/copied"))
            .unwrap()
            .is_symlink()
    );
    let parents = CopyRequest {
        parents: true,
        ..plain("/g", "/p/q/g")
    };
    copy(&space, parents).await.unwrap();
    copy(&space, replacing("/p", "/empty")).await.unwrap();
    assert_eq!(space.names("/empty/q"), ["g"]);
    // What the kernel makes up has no size.
    let version = CopyRequest {
        root: "/".into(),
        from: "/proc/version".into(),
        to: [&space.root(), &b"/version"[..]].concat().into(),
        ..plain("", "")
    };
    copy(&space, version).await.unwrap();
    let expected = std::fs::read("/proc/version").unwrap();
    assert_eq!(std::fs::read(space.host("/version")).unwrap(), expected);
}

#[tokio::test]
async fn copies_that_make_no_sense_are_refused() {
    let space = Space::new();
    space.put("/f", "");
    space.put("/d/sub/f", "");
    space.put("/full/x", "");
    std::fs::hard_link(space.host("/f"), space.host("/same")).unwrap();
    space.link("/into", "d/sub");
    use FailureKind as Kind;
    for (from, to, recursive, replace, failure) in [
        ("/d", "/e", false, false, Kind::IsADirectory),
        ("/d", "/d/e", true, false, Kind::Invalid),
        ("/d", "/d/sub/e", true, false, Kind::Invalid),
        ("/d", "/into/e", true, false, Kind::Invalid),
        ("/d", "/d", true, true, Kind::Invalid),
        ("/f", "/f", true, true, Kind::Invalid),
        ("/f", "/same", true, true, Kind::Invalid),
        ("/f", "/full/x", true, false, Kind::AlreadyExists),
        ("/f", "/d", true, true, Kind::IsADirectory),
        ("/d", "/f", true, true, Kind::NotADirectory),
        ("/d", "/full", true, true, Kind::NotEmpty),
        ("/", "/e", true, false, Kind::PermissionDenied),
        ("/none", "/e", true, false, Kind::NotFound),
        ("/f", "/no/e", true, false, Kind::NotFound),
    ] {
        let request = CopyRequest {
            recursive,
            replace,
            ..request(&space, from, to)
        };
        assert_eq!(
            kind(copy(&space, request).await),
            Some(failure),
            "{from} to {to}"
        );
    }
    let parents = CopyRequest {
        parents: true,
        ..request(&space, "/none", "/no/e")
    };
    assert_eq!(kind(copy(&space, parents).await), Some(Kind::NotFound));
    eventually("what was begun to go", || {
        space.names("/") == ["d", "f", "full", "into", "same"]
    })
    .await;
    assert_eq!(space.names("/d/sub"), ["f"]);
}

#[tokio::test]
async fn a_dropped_copy_leaves_nothing() {
    let space = Space::fast();
    for number in 0..3000 {
        space.put(&format!("/from/{}/{number}", number % 50), "content");
    }
    for wait in [0, 1, 5, 20] {
        let mut files = space.files.clone();
        let request = request(&space, "/from", "/to");
        let call = tokio::spawn(async move { files.copy(request).await });
        tokio::time::sleep(Duration::from_millis(wait)).await;
        call.abort();
        eventually("the copy to go", || {
            let names = space.names("/");
            // It may have been complete already.
            if names == ["from", "to"] {
                std::fs::remove_dir_all(space.host("/to")).unwrap();
            }
            names == ["from"]
        })
        .await;
    }
}

#[tokio::test]
async fn what_the_kernel_does_not_let_be_copied_is_refused_in_words() {
    let space = Space::new();
    let mem = CopyRequest {
        root: "/".into(),
        ..request(
            &space,
            "/proc/self/mem",
            space.host("/mem").to_str().unwrap(),
        )
    };
    let refused = copy(&space, mem).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::NotRegular);
    assert!(
        refused.message.contains("makes this file up"),
        "{}",
        refused.message
    );
    let map = CopyRequest {
        root: "/".into(),
        ..request(
            &space,
            "/proc/self/pagemap",
            space.host("/map").to_str().unwrap(),
        )
    };
    let refused = copy(&space, map).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::TooLarge);
    eventually("what was begun to go", || space.names("/").is_empty()).await;
}
