//! Calls with the rights of a user.

use crate::support::{Answer, Mounted, Space, eventually, failure, kind, part, received};
use botstead_bridge::proto::search_reply::skipped::Reason;
use botstead_bridge::proto::{self, search_reply, write_request};
use botstead_bridge::{FailureKind, USER};
use bytes::Bytes;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use tokio_stream::StreamExt;
use tonic::Request;
use tonic::codegen::tokio_stream;
use tonic::metadata::MetadataValue;

const BOT: &str = "4242:4343";
const BOT_NUMBERS: (u32, u32) = (4242, 4343);

fn by<T>(user: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_bytes(user.as_bytes());
    request.metadata_mut().insert_bin(USER, value);
    request
}

impl Space {
    /// A folder that everybody may go through, with some of each kind.
    fn shared() -> Self {
        let space = Self::new();
        let mode = |path: &str, mode| {
            std::fs::set_permissions(space.host(path), PermissionsExt::from_mode(mode)).unwrap();
        };
        mode("/", 0o755);
        space.put("/secret", "needle of root");
        mode("/secret", 0o600);
        space.put("/open", "needle for all");
        space.put("/closed/file", "needle behind a door");
        mode("/closed", 0o744);
        space.put("/locked/file", "needle behind a lock");
        mode("/locked", 0o711);
        std::fs::create_dir(space.host("/drop")).unwrap();
        mode("/drop", 0o777);
        space
    }

    async fn read_by(&self, user: &str, path: &str) -> Answer<Vec<u8>> {
        let request = proto::ReadRequest {
            at: self.location(path),
            ..proto::ReadRequest::default()
        };
        let stream = self.files.clone().read(by(user, request)).await;
        let stream = stream.map_err(failure)?.into_inner();
        Ok(received(stream).await?.1)
    }

    async fn write_by(&self, user: &str, path: &str, data: &str) -> Answer<proto::WriteReply> {
        let head = write_request::Head {
            parents: true,
            ..self.head(path)
        };
        let (data, size) = (Bytes::from(data.to_owned()), data.len() as u64);
        let messages = tokio_stream::iter(vec![
            part(write_request::Part::Head(head)),
            part(write_request::Part::Data(data)),
            part(write_request::Part::End(write_request::End { size })),
        ]);
        let answer = self.files.clone().write(by(user, messages)).await;
        answer.map(|reply| reply.into_inner()).map_err(failure)
    }

    async fn copy_by(&self, user: &str, from: &str, to: &str) -> Answer<proto::CopyReply> {
        let request = proto::CopyRequest {
            root: self.root().into(),
            from: from.as_bytes().to_vec().into(),
            to: to.as_bytes().to_vec().into(),
            recursive: true,
            ..proto::CopyRequest::default()
        };
        let answer = self.files.clone().copy(by(user, request)).await;
        answer.map(|reply| reply.into_inner()).map_err(failure)
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.host(path)).unwrap()
    }
}

#[tokio::test]
async fn a_user_reads_what_the_user_may() {
    let space = Space::shared();
    assert_eq!(
        space.read_by(BOT, "/open").await.unwrap(),
        b"needle for all"
    );
    let refused = space.read_by(BOT, "/secret").await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::PermissionDenied);
    assert_eq!(
        refused.message,
        "cannot read /secret: the user 4242:4343 may not do that"
    );
    // Through a directory that may be read and not be gone through, and the other way round.
    let closed = space.read_by(BOT, "/closed/file").await;
    assert_eq!(kind(closed), Some(FailureKind::PermissionDenied));
    assert!(space.read_by(BOT, "/locked/file").await.is_ok());
    let stat = |path: &str| proto::StatRequest {
        at: space.location(path),
        follow: false,
    };
    let looked = space
        .files
        .clone()
        .stat(by(BOT, stat("/closed/file")))
        .await;
    assert_eq!(
        kind(looked.map_err(failure)),
        Some(FailureKind::PermissionDenied)
    );
    let list = |recursive| proto::ListRequest {
        at: space.location("/"),
        recursive,
        limit: 100,
        ..proto::ListRequest::default()
    };
    let listed = space.files.clone().list(by(BOT, list(true))).await.unwrap();
    let paths: Vec<_> = listed
        .into_inner()
        .entries
        .into_iter()
        .map(|e| e.path)
        .collect();
    let expected = ["/closed", "/drop", "/locked", "/open", "/secret"];
    assert_eq!(paths, expected.map(str::as_bytes));
    // Root by name may all, and so may a call without a user.
    assert!(space.read_by("0", "/secret").await.is_ok());
    assert!(space.read("/secret").await.is_ok());
    for unknown in ["nobody-here", "0:nobody-here", "\u{fc}"] {
        let answer = space.read_by(unknown, "/open").await;
        assert_eq!(kind(answer), Some(FailureKind::NoSuchUser), "{unknown}");
    }
    let archive = proto::ArchiveRequest {
        at: space.location("/"),
    };
    let mut archive = space.files.clone().archive(by(BOT, archive)).await.unwrap();
    let mut end = None;
    while let Some(piece) = archive.get_mut().next().await {
        end = piece.err().map(failure);
    }
    let end = end.expect("what may not be read is not left out unsaid");
    assert_eq!(end.kind, FailureKind::PermissionDenied);
    let watch = proto::WatchRequest {
        at: space.location("/locked"),
        recursive: false,
    };
    let watched = space.files.clone().watch(by(BOT, watch)).await;
    assert_eq!(
        kind(watched.map(drop).map_err(failure)),
        Some(FailureKind::PermissionDenied)
    );
}

#[tokio::test]
async fn what_a_user_writes_is_theirs() {
    let space = Space::shared();
    let reply = space.write_by(BOT, "/drop/new/file", "mine").await.unwrap();
    assert!(reply.created);
    for path in ["/drop/new", "/drop/new/file"] {
        assert_eq!(space.owner(path), BOT_NUMBERS, "{path}");
    }
    space
        .write_by(BOT, "/drop/new/file", "again")
        .await
        .unwrap();
    assert_eq!(space.text("/drop/new/file"), "again");
    assert_eq!(space.owner("/drop/new/file"), BOT_NUMBERS);

    // Neither a new file nor one of somebody else's, also where its directory would let it be replaced.
    let refused = space.write_by(BOT, "/new", "x").await;
    assert_eq!(kind(refused), Some(FailureKind::PermissionDenied));
    space.put("/drop/roots", "root's");
    for path in ["/open", "/drop/roots"] {
        let refused = space.write_by(BOT, path, "x").await;
        assert_eq!(kind(refused), Some(FailureKind::PermissionDenied), "{path}");
    }
    assert_eq!(space.text("/drop/roots"), "root's");

    // What may be written is written, and stays whose it was; so is one's own where no other can be made.
    let shared = space.put("/drop/shared", "before");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o666)).unwrap();
    let own = space.put("/own", "before, and longer");
    chown(&own, Some(BOT_NUMBERS.0), Some(BOT_NUMBERS.1)).unwrap();
    for (path, owner) in [("/drop/shared", (0, 0)), ("/own", BOT_NUMBERS)] {
        let inode = std::fs::metadata(space.host(path)).unwrap().ino();
        space.write_by(BOT, path, "after").await.unwrap();
        assert_eq!(space.text(path), "after");
        assert_eq!(space.owner(path), owner);
        assert_eq!(std::fs::metadata(space.host(path)).unwrap().ino(), inode);
    }
    assert_eq!(
        space.names("/"),
        ["closed", "drop", "locked", "open", "own", "secret"]
    );
}

#[tokio::test]
async fn changes_are_a_users_too() {
    let space = Space::shared();
    let make = |path: &str| proto::MakeDirectoryRequest {
        at: space.location(path),
        ..proto::MakeDirectoryRequest::default()
    };
    let made = space
        .files
        .clone()
        .make_directory(by(BOT, make("/drop/made")))
        .await;
    made.unwrap();
    assert_eq!(space.owner("/drop/made"), BOT_NUMBERS);
    let made = space
        .files
        .clone()
        .make_directory(by(BOT, make("/made")))
        .await;
    assert_eq!(
        kind(made.map_err(failure)),
        Some(FailureKind::PermissionDenied)
    );

    // A copy belongs to whoever makes it, and does not run as another one.
    let tool = space.put("/tools/bin/tool", "program");
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(space.host("/tools/bin"), PermissionsExt::from_mode(0o555)).unwrap();
    space.copy_by(BOT, "/tools", "/drop/tools").await.unwrap();
    for path in ["/drop/tools", "/drop/tools/bin", "/drop/tools/bin/tool"] {
        assert_eq!(space.owner(path), BOT_NUMBERS, "{path}");
    }
    assert_eq!(space.mode("/drop/tools/bin"), 0o555);
    assert_eq!(space.mode("/drop/tools/bin/tool"), 0o755);
    // All of it or nothing.
    let refused = space.copy_by(BOT, "/closed", "/drop/closed").await;
    assert_eq!(kind(refused), Some(FailureKind::PermissionDenied));
    eventually("what was copied is cleared away", || {
        space.names("/drop") == ["made", "tools"]
    })
    .await;

    let remove = |path: &str| proto::RemoveRequest {
        at: space.location(path),
        recursive: true,
    };
    for path in ["/open", "/closed"] {
        let removed = space.files.clone().remove(by(BOT, remove(path))).await;
        assert_eq!(
            kind(removed.map_err(failure)),
            Some(FailureKind::PermissionDenied)
        );
    }
    let rename = |from: &str, to: &str| proto::RenameRequest {
        root: space.root().into(),
        from: from.as_bytes().to_vec().into(),
        to: to.as_bytes().to_vec().into(),
        ..proto::RenameRequest::default()
    };
    let renamed = space
        .files
        .clone()
        .rename(by(BOT, rename("/open", "/drop/open")))
        .await;
    assert_eq!(
        kind(renamed.map_err(failure)),
        Some(FailureKind::PermissionDenied)
    );
    let rename = rename("/drop/made", "/drop/renamed");
    space.files.clone().rename(by(BOT, rename)).await.unwrap();
    let change = |path: &str, owner: &str| proto::ChangeRequest {
        at: space.location(path),
        mode: Some(0o750),
        owner: owner.to_owned(),
        recursive: false,
    };
    for (path, owner, expected) in [
        ("/drop/renamed", "", None),
        ("/drop/renamed", "0", Some(FailureKind::PermissionDenied)),
        ("/open", "", Some(FailureKind::PermissionDenied)),
    ] {
        let changed = space
            .files
            .clone()
            .change(by(BOT, change(path, owner)))
            .await;
        assert_eq!(kind(changed.map_err(failure)), expected, "{path} {owner}");
    }
    assert_eq!(space.mode("/drop/renamed"), 0o750);
}

#[tokio::test]
async fn a_search_says_what_the_user_may_not_read() {
    let space = Space::shared();
    let request = proto::SearchRequest {
        at: space.location("/"),
        pattern: "needle".to_owned(),
        limit: 100,
        ..proto::SearchRequest::default()
    };
    let mut found = space.files.clone().search(by(BOT, request)).await.unwrap();
    let (mut matches, mut done) = (Vec::new(), None);
    while let Some(reply) = found.get_mut().next().await {
        match reply.unwrap().part.unwrap() {
            search_reply::Part::Match(one) => matches.push(one.path),
            search_reply::Part::Done(end) => done = Some(end),
        }
    }
    assert_eq!(matches, [&b"/open"[..]]);
    let done = done.unwrap();
    assert_eq!((done.unreadable, done.skipped_files), (3, 3));
    let skipped = done.skipped.iter().map(|one| (&*one.path, one.reason()));
    let expected = [&b"/closed"[..], b"/locked", b"/secret"];
    assert!(
        skipped.eq(expected.map(|path| (path, Reason::Unreadable))),
        "{:?}",
        done.skipped
    );
}

#[tokio::test]
async fn no_thread_keeps_the_rights_of_another_call() {
    let space = std::sync::Arc::new(Space::shared());
    let calls = (0..400).map(|number| {
        let space = std::sync::Arc::clone(&space);
        tokio::spawn(async move {
            match number % 4 {
                0 => assert!(space.read("/secret").await.is_ok()),
                1 => {
                    let read = space.read_by(BOT, "/secret").await;
                    assert_eq!(kind(read), Some(FailureKind::PermissionDenied));
                }
                2 => {
                    let path = format!("/drop/{number}");
                    space.write_by("77:88", &path, "x").await.unwrap();
                    assert_eq!(space.owner(&path), (77, 88));
                }
                _ => {
                    let path = format!("/root-{number}");
                    space.write(&path, "x").await.unwrap();
                    assert_eq!(space.owner(&path), crate::support::OWNER);
                }
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_file_of_somebody_elses_stays_as_it_was_where_there_is_no_room() {
    let space = Space::shared();
    let small = Mounted::new("tmpfs", space.host("/small"), "size=1m,mode=755");
    std::fs::write(small.0.join("file"), "old").unwrap();
    let everybody = PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(small.0.join("file"), everybody).unwrap();
    // Room for it once, and not twice.
    let data = "x".repeat(700 << 10);
    let refused = space.write_by(BOT, "/small/file", &data).await;
    assert_eq!(kind(refused), Some(FailureKind::NoSpace));
    assert_eq!(space.text("/small/file"), "old");
    space.write_by(BOT, "/small/file", "new").await.unwrap();
    assert_eq!(space.text("/small/file"), "new");
}

#[tokio::test]
async fn a_rename_that_is_refused_replaces_nothing() {
    let space = Space::shared();
    let small = Mounted::new("tmpfs", space.host("/small"), "size=1m,mode=777");
    std::fs::write(small.0.join("file"), "precious").unwrap();
    chown(small.0.join("file"), Some(4242), Some(4343)).unwrap();
    // It may be read, and not be removed.
    let request = proto::RenameRequest {
        root: space.root().into(),
        from: "/open".into(),
        to: "/small/file".into(),
        replace: true,
        parents: false,
    };
    let answer = space.files.clone().rename(by(BOT, request)).await;
    let refused = kind(answer.map_err(failure));
    assert_eq!(refused, Some(FailureKind::PermissionDenied));
    assert_eq!(space.text("/small/file"), "precious");
    assert_eq!(space.text("/open"), "needle for all");
}
