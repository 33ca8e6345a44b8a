//! Promises of [`botstead_runtime::Snapshots::open`] and [`botstead_runtime::Snapshots::layers`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, done, refused};
use botstead_runtime::ErrorKind::{InvalidArgument, NotFound, Unsupported};
use botstead_runtime::{Access, Result, Tree};
use botstead_types::SnapshotKey;
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io::{Read, Write};

impl Context {
    async fn open(&self, key: &SnapshotKey, access: Access) -> Result<Opened> {
        let opened = self.snapshots.open(&self.lease, key, access).await;
        opened.map(Opened)
    }

    /// Whether snapshots can be looked into; checks the refusal where they cannot.
    async fn has_files(&self, key: &SnapshotKey) -> bool {
        let has = self.backend.capabilities().files;
        if !has {
            refused(self.open(key, Access::Read).await, Unsupported);
            refused(self.snapshots.layers(&self.lease, key).await, Unsupported);
        }
        has
    }
}

struct Opened(Box<dyn Tree>);

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an opened snapshot")
    }
}

fn read(tree: &Opened, name: &str) -> Option<Vec<u8>> {
    let file = openat(tree.0.root(), name, OFlags::RDONLY, Mode::empty()).ok()?;
    let mut content = Vec::new();
    File::from(file).read_to_end(&mut content).ok()?;
    Some(content)
}

fn write(tree: &Opened, name: &str, content: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(tree.0.root(), name, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(content)
}

pub async fn layers_are_told_from_the_bottom_up(cx: Context) {
    let version = cx.version("one").await;
    if !cx.has_files(&version).await {
        return;
    }
    let key = cx.active_on(&version).await;
    cx.fixture().put_file(&key, "/new", b"new").await;
    let layers = done(cx.snapshots.layers(&cx.lease, &key).await);
    let [.., below, own] = layers.as_slice() else {
        panic!("too few layers: {layers:?}");
    };
    assert_eq!(
        std::fs::read(below.join("version")).ok(),
        Some(b"one".into())
    );
    assert_eq!(std::fs::read(own.join("new")).ok(), Some(b"new".into()));
    assert!(
        !own.join("version").exists(),
        "a parent's file is not its own"
    );
    let committed = done(cx.snapshots.layers(&cx.lease, &version).await);
    assert_eq!(committed.len() + 1, layers.len());
    refused(cx.snapshots.layers(&cx.lease, &cx.key()).await, NotFound);
}

pub async fn an_opened_snapshot_shows_its_files(cx: Context) {
    let version = cx.version("one").await;
    if !cx.has_files(&version).await {
        return;
    }
    let key = cx.active_on(&version).await;
    cx.fixture().put_file(&key, "/new", b"new").await;
    let before = done(cx.snapshots.list().await).len();
    for (key, new) in [(&version, None), (&key, Some(b"new".to_vec()))] {
        let tree = done(cx.open(key, Access::Read).await);
        assert_eq!(read(&tree, "version"), Some(b"one".into()));
        assert_eq!(read(&tree, "new"), new);
        let again = done(cx.open(key, Access::Read).await);
        assert_eq!(read(&again, "version"), Some(b"one".into()));
    }
    assert_eq!(
        done(cx.snapshots.list().await).len(),
        before,
        "views are left"
    );
}

pub async fn an_opened_snapshot_stays_while_it_is_released_and_collected(cx: Context) {
    let version = cx.version("one").await;
    if !cx.has_files(&version).await {
        return;
    }
    let reader = cx.another_lease().await;
    let opened = cx.snapshots.open(&reader, &version, Access::Read).await;
    let tree = done(opened.map(Opened));
    let layers = done(cx.snapshots.layers(&reader, &version).await);
    cx.end_lease(&cx.lease).await;
    done(cx.snapshots.release(&version).await);
    cx.collect().await;
    assert_eq!(read(&tree, "version"), Some(b"one".into()));
    let own = layers.last().expect("it has a layer");
    assert!(own.join("version").exists(), "its layers are gone");
    drop(tree);
    cx.end_lease(&reader).await;
    cx.collect().await;
    assert!(!cx.exists(&version).await);
}

pub async fn what_is_written_to_an_opened_snapshot_is_its_own(cx: Context) {
    let version = cx.version("one").await;
    if !cx.has_files(&version).await {
        return;
    }
    for closed in [true, false] {
        let key = cx.active_on(&version).await;
        let tree = done(cx.open(&key, Access::Write).await);
        write(&tree, "version", b"two").expect("a file is changed");
        write(&tree, "new", b"new").expect("a file is made");
        match closed {
            true => tree.0.close().expect("the disk takes it"),
            false => drop(tree),
        }
        for (path, text) in [("/version", "two"), ("/new", "new")] {
            let shown = cx.fixture().read_file(&key, path).await;
            assert_eq!(shown.as_deref(), Some(text.as_bytes()), "{path}");
        }
    }
    let tree = done(cx.open(&version, Access::Read).await);
    assert_eq!(read(&tree, "version"), Some(b"one".into()));
    assert_eq!(read(&tree, "new"), None);
}

pub async fn a_committed_snapshot_is_opened_for_looking_only(cx: Context) {
    let version = cx.version("one").await;
    if !cx.has_files(&version).await {
        return;
    }
    refused(cx.open(&version, Access::Write).await, InvalidArgument);
    let tree = done(cx.open(&version, Access::Read).await);
    // Where it can be written to, that is on a copy.
    let _ = write(&tree, "version", b"two");
    drop(tree);
    let tree = done(cx.open(&version, Access::Read).await);
    assert_eq!(read(&tree, "version"), Some(b"one".into()));
}

pub async fn what_is_missing_is_not_opened(cx: Context) {
    let missing = cx.key();
    if cx.has_files(&missing).await {
        refused(cx.open(&missing, Access::Read).await, NotFound);
        refused(cx.open(&missing, Access::Write).await, NotFound);
    }
}
