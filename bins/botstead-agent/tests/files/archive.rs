//! `Archive`, read by the tar crate and by the tar of the machine.

use crate::read::pattern;
use crate::support::{Answer, Space, failure, kind};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::ArchiveRequest;
use botstead_bridge::proto::archive_reply::Done;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};
use tar::EntryType;
use tempfile::TempDir;
use tonic::codegen::tokio_stream::StreamExt;

async fn archive(space: &Space, path: &str) -> Answer<(Vec<u8>, Done)> {
    let request = ArchiveRequest {
        at: space.location(path),
    };
    let answer = space.files.clone().archive(request).await;
    let mut stream = answer.map_err(failure)?.into_inner();
    let mut data = Vec::new();
    while let Some(reply) = stream.next().await {
        let reply = reply.map_err(failure)?;
        assert!(reply.data.len() <= botstead_bridge::CHUNK_BYTES);
        data.extend_from_slice(&reply.data);
        if let Some(done) = reply.done {
            assert!(stream.next().await.is_none(), "it is the last message");
            return Ok((data, done));
        }
    }
    panic!("an archive without its end");
}

/// Names with kinds, in their order.
fn entries(data: &[u8]) -> Vec<(Vec<u8>, EntryType)> {
    let mut archive = tar::Archive::new(data);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path_bytes().into_owned(), entry.header().entry_type())
        })
        .collect()
}

/// Unpacks with the machine's tar into a folder of its own.
fn unpack(data: &[u8]) -> TempDir {
    let folder = TempDir::with_prefix("botstead-unpacked-").unwrap();
    let mut tar = Command::new("tar")
        .args([
            "--extract",
            "--xattrs",
            "--xattrs-include=*",
            "--same-owner",
            "--preserve-permissions",
        ])
        .arg("--directory")
        .arg(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("this test needs GNU tar: apt-get install tar");
    std::io::Write::write_all(&mut tar.stdin.take().unwrap(), data).unwrap();
    assert!(tar.wait().unwrap().success());
    folder
}

#[tokio::test]
async fn a_tree_survives_its_archive() {
    let space = Space::new();
    let long = format!("/top/{}/{}", "d".repeat(120), "f".repeat(200));
    space.put("/top/file", pattern(200_001));
    space.put("/top/empty", "");
    space.put("/top/sub/f", "x");
    space.put(&long, "long");
    let odd = space
        .folder
        .path()
        .join("top")
        .join(std::ffi::OsStr::from_bytes(&[0xff; 180]));
    std::fs::write(&odd, "odd").unwrap();
    std::fs::create_dir(space.host("/top/none")).unwrap();
    std::fs::hard_link(space.host("/top/file"), space.host("/top/sub/same")).unwrap();
    space.link("/top/link", "file");
    space.link("/top/far", format!("/{}", "t".repeat(300)));
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/top/pipe"), 0o600.into()).unwrap();
    let _socket = UnixListener::bind(space.host("/top/socket")).unwrap();
    chown(space.host("/top/file"), Some(3_000_000), Some(8)).unwrap();
    std::fs::set_permissions(space.host("/top/file"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(space.host("/top/none"), PermissionsExt::from_mode(0o1700)).unwrap();
    setxattr(
        space.host("/top/file"),
        c"user.a",
        b"v\n=1",
        XattrFlags::empty(),
    )
    .unwrap();
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in ["/top/file", "/top/none"] {
        std::fs::File::open(space.host(path))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }

    let (data, done) = archive(&space, "/top").await.unwrap();
    assert_eq!((done.entries, done.skipped, done.cut), (12, 2, 0));
    assert_eq!(data.len() % 512, 0);
    let found: BTreeMap<Vec<u8>, EntryType> = entries(&data).into_iter().collect();
    assert_eq!(found.len(), 12);
    assert_eq!(found[&b"top/"[..]], EntryType::Directory);
    assert_eq!(found[&b"top/sub/same"[..]], EntryType::Link);
    assert_eq!(found[&b"top/link"[..]], EntryType::Symlink);

    let folder = unpack(&data);
    for path in [
        "file",
        "empty",
        "sub",
        "sub/f",
        "sub/same",
        "link",
        "far",
        "none",
        &long[5..],
    ] {
        let look = |top: &std::path::Path| std::fs::symlink_metadata(top.join("top").join(path));
        let (from, to) = (
            look(space.folder.path()).unwrap(),
            look(folder.path()).unwrap(),
        );
        let common = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime());
        assert_eq!(common(&from), common(&to), "{path}");
        if from.is_file() {
            let read = |top: &std::path::Path| std::fs::read(top.join("top").join(path)).unwrap();
            assert!(read(space.folder.path()) == read(folder.path()), "{path}");
        }
    }
    let unpacked = folder.path().join("top");
    assert_eq!(
        std::fs::read(unpacked.join(odd.file_name().unwrap())).unwrap(),
        b"odd"
    );
    assert_eq!(
        std::fs::read_link(unpacked.join("far"))
            .unwrap()
            .as_os_str()
            .len(),
        301
    );
    let inode = |path: &str| std::fs::metadata(unpacked.join(path)).unwrap().ino();
    assert_eq!(inode("file"), inode("sub/same"));
    let mut value = [0; 8];
    let length = getxattr(unpacked.join("file"), c"user.a", &mut value).unwrap();
    assert_eq!(&value[..length], b"v\n=1");
    assert!(!unpacked.join("pipe").exists() && !unpacked.join("socket").exists());
}

#[tokio::test]
async fn times_before_1970_survive_an_archive() {
    let space = Space::new();
    let times = [
        ("/d/second", 1_500_000_000),
        ("/d/1902", 2_145_916_800 * 1_000_000_000),
    ];
    for (path, before) in times {
        let modified = UNIX_EPOCH - Duration::from_nanos(before);
        space.put(path, "x");
        let file = std::fs::File::open(space.host(path)).unwrap();
        file.set_modified(modified).unwrap();
    }
    let (data, _) = archive(&space, "/d").await.unwrap();
    let folder = unpack(&data);
    for (path, before) in times {
        let unpacked = std::fs::metadata(folder.path().join(&path[1..])).unwrap();
        let modified = UNIX_EPOCH - Duration::from_nanos(before);
        assert_eq!(unpacked.modified().unwrap(), modified, "{path}");
    }
}

#[tokio::test]
async fn roots_files_and_links_are_archived() {
    let space = Space::new();
    space.put("/d/f", "content");
    space.link("/link", "d");
    let names = async |path: &str| -> Vec<String> {
        let (data, _) = archive(&space, path).await.unwrap();
        let names = entries(&data).into_iter();
        names
            .map(|(name, _)| String::from_utf8(name).unwrap())
            .collect()
    };
    assert_eq!(names("/").await, ["d/", "d/f", "link"]);
    assert_eq!(names("/d/f").await, ["f"]);
    assert_eq!(
        names("/link").await,
        ["link/", "link/f"],
        "what it leads to, under its own name"
    );
    assert_eq!(names("/d/..").await, ["d/", "d/f", "link"]);
    rustix::fs::mkfifoat(rustix::fs::CWD, space.host("/pipe"), 0o600.into()).unwrap();
    for (path, failure) in [
        ("/none", FailureKind::NotFound),
        ("/pipe", FailureKind::NotRegular),
        ("/d/f/", FailureKind::NotADirectory),
    ] {
        assert_eq!(kind(archive(&space, path).await), Some(failure), "{path}");
    }
}

#[tokio::test]
async fn sparse_files_stay_sparse() {
    let space = Space::new();
    let size: u64 = 10 << 30;
    let sparse = std::fs::File::create(space.host("/sparse")).unwrap();
    sparse.set_len(size).unwrap();
    // More parts than fit into the first header and the next block.
    for part in 0..40_u64 {
        sparse
            .write_all_at(b"data", part * (200 << 20) + 5)
            .unwrap();
    }
    let nothing = std::fs::File::create(space.host("/nothing")).unwrap();
    nothing.set_len(1 << 40).unwrap();
    let (data, done) = archive(&space, "/").await.unwrap();
    assert_eq!(done.entries, 2);
    assert!(data.len() < 1 << 20, "{}", data.len());
    let folder = unpack(&data);
    let unpacked = std::fs::File::open(folder.path().join("sparse")).unwrap();
    assert_eq!(unpacked.metadata().unwrap().len(), size);
    for part in 0..40_u64 {
        let mut bytes = [1; 6];
        unpacked
            .read_exact_at(&mut bytes, part * (200 << 20) + 4)
            .unwrap();
        assert_eq!(&bytes, b"\0data\0");
    }
    let length = std::fs::metadata(folder.path().join("nothing"))
        .unwrap()
        .len();
    assert_eq!(length, 1 << 40);
}

#[tokio::test]
async fn a_file_that_shrinks_is_filled_up() {
    let space = Space::new();
    let path = space.put("/f", vec![b'a'; 16 << 20]);
    let request = ArchiveRequest {
        at: space.location("/f"),
    };
    let mut stream = space
        .files
        .clone()
        .archive(request)
        .await
        .unwrap()
        .into_inner();
    let first = stream.next().await.unwrap().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8 << 20).unwrap();
    let mut data = first.data.to_vec();
    let mut cut = 0;
    while let Some(reply) = stream.next().await {
        let reply = reply.unwrap();
        data.extend_from_slice(&reply.data);
        cut = reply.done.map_or(cut, |done| done.cut);
    }
    assert_eq!(cut, 1);
    assert_eq!(data.len(), 512 + (16 << 20) + 1024);
    assert_eq!(entries(&data).len(), 1);
    let content = &data[512..512 + (16 << 20)];
    assert!(content[..8 << 20].iter().all(|byte| *byte == b'a'));
    assert!(content[8 << 20..].iter().all(|byte| *byte == 0));
}
