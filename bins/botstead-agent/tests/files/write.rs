//! `Write`.

use crate::read::pattern;
use crate::support::{Mounted, OWNER, Space, eventually, failure, kind, part};
use botstead_bridge::proto;
use botstead_bridge::proto::write_request::{End, Head, Part};
use botstead_bridge::{CHUNK_BYTES, FailureKind};
use bytes::Bytes;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

#[tokio::test]
async fn what_something_is_mounted_on_is_written_in_place() {
    use rustix::mount::{MountFlags, mount_bind, mount_remount};
    let space = Space::new();
    let source = space.put("/source", "a rather long text");
    let target = space.put("/etc/hosts", "");
    mount_bind(&source, &target).expect("this test mounts and must run as root");
    let _mounted = Mounted(target.clone());
    let inode = std::fs::metadata(&source).unwrap().ino();
    let reply = space.write("/etc/hosts", "short").await.unwrap();
    assert!(!reply.created);
    assert_eq!(reply.entry.unwrap().size, 5);
    assert_eq!(std::fs::read(&source).unwrap(), b"short");
    let long = vec![b'x'; 700_000];
    space.write("/etc/hosts", &long).await.unwrap();
    assert!(std::fs::read(&source).unwrap() == long);
    assert_eq!(std::fs::metadata(&source).unwrap().ino(), inode);
    assert_eq!(space.names("/etc"), ["hosts"], "nothing is left beside it");
    mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    let refused = space.write("/etc/hosts", "no").await;
    assert_eq!(kind(refused), Some(FailureKind::ReadOnly));
    assert!(std::fs::read(&source).unwrap() == long);
}

#[tokio::test]
async fn what_the_kernel_makes_up_is_not_written() {
    let head = Head {
        at: Some(proto::Location {
            path: "/proc/sys/kernel/hostname".into(),
            ..proto::Location::default()
        }),
        ..Head::default()
    };
    let refused = Space::new().write_as(head, "x").await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::PermissionDenied);
    assert!(
        refused.message.contains("with a command"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn modes_and_owners_are_changed_in_trees() {
    let space = Space::new();
    space.put("/tree/sub/f", "x");
    space.put("/outside", "x");
    space.link("/tree/link", "../outside");
    space.link("/to-tree", "tree");
    for path in ["/tree", "/tree/sub", "/tree/sub/f", "/outside"] {
        chown(space.host(path), Some(1), Some(2)).unwrap();
        std::fs::set_permissions(space.host(path), PermissionsExt::from_mode(0o700)).unwrap();
    }
    let change = async |path: &str, mode, owner: &str, recursive| {
        let request = proto::ChangeRequest {
            at: space.location(path),
            mode,
            owner: owner.to_owned(),
            recursive,
        };
        let answer = space.files.clone().change(request).await;
        answer
            .map(|reply| reply.into_inner().changed)
            .map_err(failure)
    };
    assert_eq!(change("/tree", Some(0o2755), "", false).await, Ok(1));
    assert_eq!(
        (space.mode("/tree"), space.owner("/tree")),
        (0o2755, (1, 2))
    );
    assert_eq!(space.mode("/tree/sub"), 0o700);
    assert_eq!(change("/to-tree", Some(0o640), "7:8", true).await, Ok(4));
    for path in ["/tree", "/tree/sub", "/tree/sub/f"] {
        assert_eq!(
            (space.mode(path), space.owner(path)),
            (0o640, (7, 8)),
            "{path}"
        );
    }
    assert_eq!(space.owner("/tree/link"), (7, 8), "the link itself");
    assert_eq!(
        (space.mode("/outside"), space.owner("/outside")),
        (0o700, (1, 2))
    );
    assert_eq!(change("/tree/link", None, "9", true).await, Ok(1));
    assert_eq!(space.owner("/outside"), (9, 2), "what is named is followed");
    for (refused, expected) in [
        (
            change("/none", Some(0), "", false).await,
            FailureKind::NotFound,
        ),
        (change("/tree", None, "", false).await, FailureKind::Invalid),
        (
            change("/tree", Some(0o10000), "", false).await,
            FailureKind::Invalid,
        ),
        (
            change("/tree", None, "nobody-here", false).await,
            FailureKind::NoSuchUser,
        ),
    ] {
        assert_eq!(kind(refused), Some(expected));
    }
}

#[tokio::test]
async fn files_are_made_and_replaced() {
    let space = Space::new();
    for (index, length) in [0, 1, CHUNK_BYTES + 1, 3 << 20].into_iter().enumerate() {
        let reply = space.write("/f", pattern(length)).await.unwrap();
        assert_eq!(reply.created, index == 0);
        let entry = reply.entry.unwrap();
        assert_eq!(
            (entry.path.as_ref(), entry.size),
            (&b"/f"[..], length as u64)
        );
        assert_eq!(entry, space.stat("/f").await.unwrap());
        assert!(std::fs::read(space.host("/f")).unwrap() == pattern(length));
    }
    assert_eq!((space.owner("/f"), space.mode("/f")), (OWNER, 0o644));
    let head = Head {
        mode: Some(0o2750),
        parents: true,
        ..space.head("/a/b/../c/\u{e4}\n")
    };
    assert_eq!(
        kind(space.write_as(head.clone(), "x").await),
        Some(FailureKind::NotFound)
    );
    let head = Head {
        at: space.location("/a/b/c/\u{e4}\n"),
        ..head
    };
    space.write_as(head, "x").await.unwrap();
    assert_eq!(space.mode("/a/b/c/\u{e4}\n"), 0o2750);
    for path in ["/a", "/a/b", "/a/b/c", "/a/b/c/\u{e4}\n"] {
        assert_eq!(space.owner(path), OWNER, "{path}");
    }
    assert_eq!(space.mode("/a/b"), 0o755);
    space.write(b"/\xff\xfe", "bytes").await.unwrap();
    assert_eq!(space.read(b"/\xff\xfe").await.unwrap().1, b"bytes");
    assert_eq!(space.names("/").len(), 3, "nothing else is left");
}

#[tokio::test]
async fn what_is_replaced_hands_on_everything_but_its_content() {
    let space = Space::new();
    let file = space.put("/f", "old");
    chown(&file, Some(1001), Some(1002)).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4711)).unwrap();
    setxattr(&file, c"user.kept", b"value", XattrFlags::empty()).unwrap();
    let head = Head {
        mode: Some(0o600),
        ..space.head("/f")
    };
    let reply = space.write_as(head, "new").await.unwrap();
    assert!(!reply.created);
    assert_eq!(
        (space.owner("/f"), space.mode("/f")),
        ((1001, 1002), 0o4711)
    );
    let mut value = [0; 16];
    let length = getxattr(&file, c"user.kept", &mut value).unwrap();
    assert_eq!(&value[..length], b"value");
    // A group that is handed down stays.
    std::fs::create_dir(space.host("/d")).unwrap();
    chown(space.host("/d"), None, Some(777)).unwrap();
    std::fs::set_permissions(space.host("/d"), PermissionsExt::from_mode(0o2775)).unwrap();
    let head = Head {
        parents: true,
        ..space.head("/d/e/f")
    };
    space.write_as(head, "").await.unwrap();
    assert_eq!(space.owner("/d/e/f"), (OWNER.0, 777));
    assert_eq!(
        (space.owner("/d/e"), space.mode("/d/e")),
        ((OWNER.0, 777), 0o2755)
    );
}

#[tokio::test]
async fn links_are_written_through_and_stay() {
    let space = Space::new();
    space.put("/d/target", "old");
    space.link("/link", "d/target");
    space.link("/d/second", "../link");
    space.link("/dangling", "/d/new");
    space.link("/to-directory", "d");
    space.link("/up", "../../../../d/up");
    space.link("/loop", "loop");
    space.link("/nowhere", "no/such/place");
    for (link, target) in [
        ("/link", "/d/target"),
        ("/d/second", "/d/target"),
        ("/dangling", "/d/new"),
        ("/to-directory/third", "/d/third"),
        ("/up", "/d/up"),
    ] {
        let reply = space.write(link, link).await.unwrap();
        assert_eq!(reply.entry.unwrap().path, target, "{link}");
        assert_eq!(std::fs::read(space.host(target)).unwrap(), link.as_bytes());
    }
    for link in ["/link", "/d/second", "/dangling", "/to-directory", "/up"] {
        assert!(
            std::fs::symlink_metadata(space.host(link))
                .unwrap()
                .is_symlink()
        );
    }
    for (path, failure) in [
        ("/loop", FailureKind::Loop),
        ("/nowhere", FailureKind::NotFound),
        ("/to-directory", FailureKind::IsADirectory),
    ] {
        assert_eq!(kind(space.write(path, "x").await), Some(failure), "{path}");
    }
    let new = Head {
        create_new: true,
        ..space.head("/dangling")
    };
    std::fs::remove_file(space.host("/d/new")).unwrap();
    assert_eq!(
        kind(space.write_as(new, "x").await),
        Some(FailureKind::AlreadyExists)
    );
}

#[tokio::test]
async fn conditions_are_kept() {
    let space = Space::new();
    let first = space
        .write("/f", "1")
        .await
        .unwrap()
        .entry
        .unwrap()
        .revision;
    let expecting = |revision: &str| Head {
        expected_revision: revision.to_owned(),
        ..space.head("/f")
    };
    let second = space.write_as(expecting(&first), "2").await.unwrap();
    let stale = Some(FailureKind::StaleRevision);
    assert_eq!(kind(space.write_as(expecting(&first), "3").await), stale);
    std::fs::write(space.host("/f"), "changed").unwrap();
    let second = second.entry.unwrap().revision;
    assert_eq!(kind(space.write_as(expecting(&second), "3").await), stale);
    std::fs::remove_file(space.host("/f")).unwrap();
    assert_eq!(kind(space.write_as(expecting(&second), "3").await), stale);
    let new = || Head {
        create_new: true,
        ..space.head("/f")
    };
    assert!(space.write_as(new(), "4").await.unwrap().created);
    let exists = Some(FailureKind::AlreadyExists);
    assert_eq!(kind(space.write_as(new(), "5").await), exists);
    assert_eq!(space.read("/f").await.unwrap().1, b"4");
}

#[tokio::test]
async fn what_is_no_regular_file_is_not_replaced() {
    let space = Space::new();
    std::fs::create_dir(space.host("/d")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/pipe"), 0o600.into()).unwrap();
    space.put("/f", "");
    for (path, failure) in [
        ("/d", FailureKind::IsADirectory),
        ("/d/", FailureKind::IsADirectory),
        ("/", FailureKind::IsADirectory),
        ("/new/", FailureKind::IsADirectory),
        ("/pipe", FailureKind::NotRegular),
        ("/f/x", FailureKind::NotADirectory),
        ("/no/x", FailureKind::NotFound),
    ] {
        assert_eq!(kind(space.write(path, "x").await), Some(failure), "{path}");
    }
    let head = Head {
        mode: Some(0o10000),
        ..space.head("/g")
    };
    assert_eq!(
        kind(space.write_as(head, "").await),
        Some(FailureKind::Invalid)
    );
    assert_eq!(space.names("/"), ["d", "f", "pipe"]);
}

#[tokio::test]
async fn a_stream_that_is_not_whole_changes_nothing() {
    let space = Space::new();
    space.put("/f", "old");
    let head = || part(Part::Head(space.head("/f")));
    let data = |text: &'static str| part(Part::Data(Bytes::from_static(text.as_bytes())));
    let end = |size| part(Part::End(End { size }));
    for messages in [
        vec![],
        vec![data("x"), end(1)],
        vec![end(0)],
        vec![head()],
        vec![head(), data("new")],
        vec![head(), data("new"), end(2)],
        vec![head(), data("new"), end(4)],
        vec![head(), head(), end(0)],
        vec![head(), data("x"), head(), end(1)],
    ] {
        let count = messages.len();
        let answer = space.write_messages(messages).await;
        assert_eq!(kind(answer), Some(FailureKind::Invalid), "{count} messages");
    }
    assert_eq!(std::fs::read(space.host("/f")).unwrap(), b"old");
    assert_eq!(space.names("/"), ["f"]);
    // Many small pieces are one file.
    let mut messages = vec![head()];
    messages.extend((0..5000).map(|_| data("ab")));
    messages.push(end(10_000));
    space.write_messages(messages).await.unwrap();
    assert!(std::fs::read(space.host("/f")).unwrap() == "ab".repeat(5000).as_bytes());
}

#[tokio::test]
async fn a_cancelled_write_leaves_nothing() {
    let space = Space::new();
    space.put("/f", "old");
    let before = std::fs::metadata(space.host("/f")).unwrap();
    for _ in 0..20 {
        let (sender, receiver) = mpsc::channel(4);
        let mut files = space.files.clone();
        let call = tokio::spawn(async move { files.write(ReceiverStream::new(receiver)).await });
        sender
            .send(part(Part::Head(space.head("/f"))))
            .await
            .unwrap();
        for _ in 0..20 {
            let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
            sender.send(part(Part::Data(chunk))).await.unwrap();
        }
        call.abort();
    }
    // Where the file under way has a name, it goes a moment later.
    eventually("what was begun to go", || space.names("/") == ["f"]).await;
    let after = std::fs::metadata(space.host("/f")).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec()),
        (after.ino(), after.mtime_nsec())
    );
    assert_eq!(std::fs::read(space.host("/f")).unwrap(), b"old");
}

#[tokio::test]
async fn a_full_disk_changes_nothing() {
    let space = Space::new();
    let small = Mounted::new("tmpfs", space.host("/small"), "size=1m");
    space.write("/small/f", "old").await.unwrap();
    let failure = space.write("/small/f", pattern(3 << 20)).await.unwrap_err();
    assert_eq!((failure.kind, failure.errno), (FailureKind::NoSpace, 28));
    assert_eq!(failure.path, b"/small/f");
    space.put("/large", pattern(3 << 20));
    let copy = botstead_bridge::proto::CopyRequest {
        root: space.root().into(),
        from: "/large".into(),
        to: "/small/g".into(),
        ..botstead_bridge::proto::CopyRequest::default()
    };
    let copied = space.files.clone().copy(copy).await;
    let copied = copied.map_err(crate::support::failure);
    assert_eq!(kind(copied), Some(FailureKind::NoSpace));
    eventually("what was begun to go", || space.names("/small") == ["f"]).await;
    assert_eq!(space.read("/small/f").await.unwrap().1, b"old");
    // What was begun takes no space any more.
    eventually("the space to be free", || {
        let free = rustix::fs::statvfs(&small.0).unwrap();
        free.f_bfree * free.f_frsize > 900 << 10
    })
    .await;
}

#[tokio::test]
async fn a_mounted_file_stays_as_it_was_where_there_is_no_room() {
    let space = Space::new();
    let small = Mounted::new("tmpfs", space.host("/small"), "size=1m");
    let kept = pattern(10_000);
    std::fs::write(small.0.join("hosts"), &kept).unwrap();
    space.put("/hosts", "");
    let target = space.host("/hosts");
    rustix::mount::mount_bind(small.0.join("hosts"), &target).unwrap();
    let _mounted = Mounted(target);
    let failure = space.write("/hosts", pattern(3 << 20)).await.unwrap_err();
    assert_eq!((failure.kind, failure.errno), (FailureKind::NoSpace, 28));
    assert!(space.read("/hosts").await.unwrap().1 == kept);
    space.put("/large", pattern(3 << 20));
    let copy = botstead_bridge::proto::CopyRequest {
        root: space.root().into(),
        from: "/large".into(),
        to: "/hosts".into(),
        replace: true,
        ..botstead_bridge::proto::CopyRequest::default()
    };
    let copied = space.files.clone().copy(copy).await;
    let copied = copied.map_err(crate::support::failure);
    assert_eq!(kind(copied), Some(FailureKind::NoSpace));
    assert!(space.read("/hosts").await.unwrap().1 == kept);
    space.write("/hosts", "new").await.unwrap();
    assert_eq!(space.read("/hosts").await.unwrap().1, b"new");
}
