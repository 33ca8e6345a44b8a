//! Promises of [`botstead_runtime::Snapshots`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, done, labels, refused};
use botstead_runtime::ErrorKind::{
    AlreadyExists, Conflict, InvalidArgument, NotFound, Unsupported,
};
use botstead_types::SnapshotKind;

pub async fn a_prepared_snapshot_is_active_and_has_its_parent_and_labels(cx: Context) {
    let (key, base) = (cx.key(), cx.fixture().base());
    let given = labels([("botstead.test", "1")]);
    done(
        cx.snapshots
            .prepare(&cx.lease, &key, Some(&base), &given)
            .await,
    );
    let found = done(cx.snapshots.get(&key).await);
    assert_eq!(found.key, key);
    assert_eq!(found.kind, SnapshotKind::Active);
    assert_eq!(found.parent, Some(base));
    assert_eq!(found.labels, given);
}

pub async fn preparing_again_already_exists(cx: Context) {
    let key = cx.active().await;
    let base = cx.fixture().base();
    let again = cx
        .snapshots
        .prepare(&cx.lease, &key, Some(&base), &labels([]))
        .await;
    refused(again, AlreadyExists);
}

pub async fn preparing_tells_how_it_is_mounted(cx: Context) {
    let (key, base) = (cx.key(), cx.fixture().base());
    let prepared = cx
        .snapshots
        .prepare(&cx.lease, &key, Some(&base), &labels([]))
        .await;
    let told = done(prepared);
    match cx.snapshots.mounts(&key).await {
        Err(error) if error.kind() == Unsupported => assert_eq!(told, []),
        asked => assert_eq!(told, done(asked)),
    }
}

pub async fn those_with_a_label_are_found(cx: Context) {
    let base = cx.fixture().base();
    let (one, other, none) = (cx.key(), cx.key(), cx.key());
    // Unique, as a snapshotter may be shared; with what a filter could take for its own syntax.
    let value = |key: &botstead_types::SnapshotKey| format!("{key}\",labels.x==\"y\\");
    for (key, given) in [
        (&one, labels([("botstead.test", value(&one).as_str())])),
        (&other, labels([("botstead.test", value(&other).as_str())])),
        (&none, labels([])),
    ] {
        let prepared = cx.snapshots.prepare(&cx.lease, key, Some(&base), &given);
        done(prepared.await);
    }
    let found = done(cx.snapshots.labelled("botstead.test", &value(&one)).await);
    let found: Vec<_> = found.into_iter().map(|snapshot| snapshot.key).collect();
    assert_eq!(found, [one]);
    let missing = cx
        .snapshots
        .labelled("botstead.other", &value(&other))
        .await;
    assert_eq!(done(missing), []);
}

pub async fn a_snapshot_may_have_no_parent(cx: Context) {
    let key = cx.key();
    done(
        cx.snapshots
            .prepare(&cx.lease, &key, None, &labels([]))
            .await,
    );
    assert_eq!(done(cx.snapshots.get(&key).await).parent, None);
}

pub async fn a_missing_parent_is_not_found(cx: Context) {
    let (key, missing) = (cx.key(), cx.key());
    let prepared = cx
        .snapshots
        .prepare(&cx.lease, &key, Some(&missing), &labels([]))
        .await;
    refused(prepared, NotFound);
    assert!(!cx.exists(&key).await);
}

pub async fn an_active_snapshot_is_no_parent(cx: Context) {
    let (key, active) = (cx.key(), cx.active().await);
    let prepared = cx
        .snapshots
        .prepare(&cx.lease, &key, Some(&active), &labels([]))
        .await;
    refused(prepared, InvalidArgument);
    assert!(!cx.exists(&key).await);
}

pub async fn a_child_shows_its_parents_files(cx: Context) {
    let version = cx.version("one").await;
    let child = cx.active_on(&version).await;
    let grandchild = cx.active_on(&cx.commit(&child).await).await;
    let shown = cx.fixture().read_file(&grandchild, "/version").await;
    assert_eq!(shown.as_deref(), Some(&b"one"[..]));
}

pub async fn a_childs_changes_stay_its_own(cx: Context) {
    let version = cx.version("one").await;
    let (changed, sibling) = (cx.active_on(&version).await, cx.active_on(&version).await);
    cx.fixture().put_file(&changed, "/version", b"two").await;
    cx.fixture().put_file(&changed, "/new", b"new").await;
    let fixture = cx.fixture();
    let read = async |path| fixture.read_file(&sibling, path).await;
    assert_eq!(read("/version").await.as_deref(), Some(&b"one"[..]));
    assert_eq!(read("/new").await, None);
}

pub async fn a_commit_frees_the_key(cx: Context) {
    let key = cx.active().await;
    let name = cx.commit(&key).await;
    assert!(!cx.exists(&key).await);
    let found = done(cx.snapshots.get(&name).await);
    assert_eq!(found.kind, SnapshotKind::Committed);
    assert_eq!(found.parent, Some(cx.fixture().base()));
}

pub async fn committing_again_is_not_found(cx: Context) {
    let key = cx.active().await;
    let name = cx.commit(&key).await;
    let again = cx
        .snapshots
        .commit(&cx.lease, &key, &name, &labels([]))
        .await;
    refused(again, NotFound);
}

pub async fn committing_a_key_that_was_prepared_anew_already_exists(cx: Context) {
    let key = cx.active().await;
    let name = cx.commit(&key).await;
    done(
        cx.snapshots
            .prepare(&cx.lease, &key, Some(&name), &labels([]))
            .await,
    );
    let again = cx
        .snapshots
        .commit(&cx.lease, &key, &name, &labels([]))
        .await;
    refused(again, AlreadyExists);
    assert!(cx.exists(&key).await, "a refused commit took the key");
}

pub async fn a_missing_key_is_not_found(cx: Context) {
    let (key, name) = (cx.key(), cx.key());
    let none = labels([]);
    refused(cx.snapshots.get(&key).await, NotFound);
    refused(
        cx.snapshots.commit(&cx.lease, &key, &name, &none).await,
        NotFound,
    );
    refused(cx.snapshots.usage(&key).await, NotFound);
    refused(cx.snapshots.set_labels(&key, &none).await, NotFound);
    refused(cx.snapshots.remove(&key).await, NotFound);
}

pub async fn a_list_has_every_snapshot_once(cx: Context) {
    let active = cx.active().await;
    let version = cx.version("one").await;
    let all = done(cx.snapshots.list().await);
    for key in [&active, &version, &cx.fixture().base()] {
        let found: Vec<_> = all.iter().filter(|found| found.key == *key).collect();
        assert_eq!(found.len(), 1, "{key} is listed {} times", found.len());
        assert_eq!(*found[0], done(cx.snapshots.get(key).await));
    }
}

pub async fn labels_are_replaced(cx: Context) {
    let key = cx.key();
    let base = cx.fixture().base();
    let (old, new) = (
        labels([("a", "1"), ("b", "2")]),
        labels([("b", "3"), ("c", "4")]),
    );
    done(
        cx.snapshots
            .prepare(&cx.lease, &key, Some(&base), &old)
            .await,
    );
    let before = done(cx.snapshots.get(&key).await);
    done(cx.snapshots.set_labels(&key, &new).await);
    let after = done(cx.snapshots.get(&key).await);
    assert_eq!(after.labels, new);
    assert_eq!(after.created_at, before.created_at);
    assert!(after.updated_at > before.updated_at);
}

pub async fn replacing_labels_does_not_end_protection(cx: Context) {
    let version = cx.version("one").await;
    done(cx.snapshots.set_labels(&version, &labels([])).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    assert!(cx.exists(&version).await);
}

pub async fn usage_grows_with_the_files(cx: Context) {
    let key = cx.active().await;
    let before = done(cx.snapshots.usage(&key).await);
    cx.fixture()
        .put_file(&key, "/large", &vec![7; 1 << 20])
        .await;
    let after = done(cx.snapshots.usage(&key).await);
    assert!(
        after.size_bytes >= before.size_bytes + (1 << 20),
        "{before:?} {after:?}"
    );
    assert_eq!(after.inodes, before.inodes + 1);
    let name = cx.commit(&key).await;
    let frozen = done(cx.snapshots.usage(&name).await);
    assert!(frozen.size_bytes >= 1 << 20, "{frozen:?}");
}

pub async fn an_active_snapshot_tells_its_mounts(cx: Context) {
    let key = cx.active().await;
    let mounts = cx.snapshots.mounts(&key).await;
    if cx.backend.capabilities().host_mounts {
        let mounts = done(mounts);
        let upper = mounts.iter().find_map(|mount| mount.upper_dir());
        assert!(upper.is_some_and(|upper| upper.is_absolute()), "{mounts:?}");
        refused(cx.snapshots.mounts(&cx.key()).await, NotFound);
    } else {
        refused(mounts, Unsupported);
    }
}

pub async fn a_removed_snapshot_is_gone(cx: Context) {
    let key = cx.active().await;
    done(cx.snapshots.remove(&key).await);
    assert!(!cx.exists(&key).await);
    refused(cx.snapshots.remove(&key).await, NotFound);
}

pub async fn a_parent_is_not_removed(cx: Context) {
    let version = cx.version("one").await;
    let child = cx.active_on(&version).await;
    refused(cx.snapshots.remove(&version).await, Conflict);
    assert!(cx.exists(&version).await && cx.exists(&child).await);
}

pub async fn a_released_version_that_is_protected_again_stays(cx: Context) {
    let version = cx.version("one").await;
    let child = cx.active_on(&version).await;
    done(cx.snapshots.release(&version).await);
    for _ in 0..2 {
        done(cx.snapshots.protect(&version).await);
    }
    done(cx.snapshots.remove(&child).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    let found = done(cx.snapshots.get(&version).await);
    assert!(found.rooted);
    let missing = cx.key();
    refused(cx.snapshots.protect(&missing).await, NotFound);
}

pub async fn a_released_version_is_collected(cx: Context) {
    let version = cx.version("one").await;
    cx.end_lease(&cx.lease).await;
    done(cx.snapshots.release(&version).await);
    cx.collect().await;
    assert!(!cx.exists(&version).await);
}

pub async fn releasing_again_changes_nothing(cx: Context) {
    let version = cx.version("one").await;
    done(cx.snapshots.release(&version).await);
    done(cx.snapshots.release(&version).await);
    cx.end_lease(&cx.lease).await;
    cx.collect().await;
    done(cx.snapshots.release(&version).await);
    done(cx.snapshots.release(&cx.key()).await);
}

/// There is no capability for it: a backend that cannot merge must say so, and nothing else.
pub async fn layers_are_merged_or_that_is_unsupported(cx: Context) {
    let base = cx.fixture().base();
    let lower = cx.version("lower").await;
    let upper = cx.active_on(&lower).await;
    cx.fixture().put_file(&upper, "/upper", b"upper").await;
    let upper = cx.commit(&upper).await;
    let (name, given) = (cx.key(), labels([("flat", "1")]));
    for _ in 0..2 {
        let flattened = cx
            .snapshots
            .flatten(&cx.lease, &upper, &base, &name, &given)
            .await;
        if matches!(&flattened, Err(error) if error.kind() == Unsupported) {
            assert!(!cx.exists(&name).await);
            return;
        }
        done(flattened);
    }
    cx.end_lease(&cx.lease).await;
    done(cx.snapshots.release(&upper).await);
    done(cx.snapshots.release(&lower).await);
    cx.collect().await;
    assert!(!cx.exists(&lower).await && !cx.exists(&upper).await);
    let found = done(cx.snapshots.get(&name).await);
    assert_eq!(found.kind, SnapshotKind::Committed);
    assert_eq!((found.parent, found.labels), (Some(base), given));
    let (child, lease) = (cx.key(), cx.another_lease().await);
    let prepared = cx
        .snapshots
        .prepare(&lease, &child, Some(&name), &labels([]))
        .await;
    done(prepared);
    for (path, text) in [("/version", "lower"), ("/upper", "upper")] {
        let shown = cx.fixture().read_file(&child, path).await;
        assert_eq!(shown.as_deref(), Some(text.as_bytes()));
    }
}
