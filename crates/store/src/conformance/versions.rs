//! Promises of [`crate::Versions`] and of the changes that concern them.

use super::samples::{add_bot, apply, container, image, number, version};
use super::{Fixture, assert_kind};
use crate::{Change, ErrorKind, VersionPatch, VersionRecord, VersionSnapshot};
use botstead_types::{BotId, VersionSource};

fn insert(record: &VersionRecord) -> Change {
    Change::InsertVersion(Box::new(record.clone()))
}

/// What was written is what is read, whatever it was made for.
pub async fn a_version_reads_back(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    for (n, source) in (1..).zip(VersionSource::ALL) {
        let mut written = version(bot, n);
        written.source = *source;
        if n % 2 == 0 {
            written.name = None;
            written.parent = None;
            written.size_bytes = None;
            written.pinned = false;
        }
        apply(&store, insert(&written)).await.unwrap();
        let read = store.versions.get(bot, written.number).await.unwrap();
        assert_eq!(read, written);
    }
}

/// All versions of one bot, by number and not by text; of others, none.
pub async fn versions_are_listed_by_number(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let other = add_bot(&store).await.id;
    let mut expected: Vec<_> = (1..=12).map(|n| version(bot, n)).collect();
    // The image changed twice and came back.
    for record in &mut expected[4..8] {
        record.image = image("alpine");
    }
    for record in expected.iter().rev() {
        apply(&store, insert(record)).await.unwrap();
    }
    apply(&store, insert(&version(other, 1))).await.unwrap();
    assert_eq!(store.versions.list(bot).await.unwrap(), expected);
    let nobody = store.versions.list(BotId::generate()).await.unwrap();
    assert_eq!(nobody, Vec::new());
}

/// The snapshots of all bots' versions, each with its bot, number and pin.
pub async fn snapshots_of_all_versions_are_listed(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = Vec::new();
    for numbers in [1..=2, 1..=1] {
        let bot = add_bot(&store).await.id;
        for n in numbers {
            let mut record = version(bot, n);
            record.pinned = n == 2;
            apply(&store, insert(&record)).await.unwrap();
            expected.push(VersionSnapshot {
                bot,
                number: record.number,
                snapshot: record.snapshot,
                pinned: record.pinned,
            });
        }
    }
    let all = store.versions.snapshots().await.unwrap();
    for one in &expected {
        assert_eq!(all.iter().filter(|found| *found == one).count(), 1);
    }
}

/// `AlreadyExists` for a number that the bot has; `NotFound` without the bot.
pub async fn numbers_are_unique_per_bot(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let first = version(add_bot(&store).await.id, 1);
    apply(&store, insert(&first)).await.unwrap();
    let mut second = version(first.bot, 1);
    second.name = Some("other".to_owned());
    assert_kind(
        apply(&store, insert(&second)).await,
        ErrorKind::AlreadyExists,
    );
    assert_kind(
        apply(&store, insert(&version(BotId::generate(), 1))).await,
        ErrorKind::NotFound,
    );
    assert_eq!(store.versions.list(first.bot).await.unwrap(), [first]);
}

/// `NotFound` for a number or a bot that is not there, also from an empty patch.
pub async fn what_is_missing_is_not_found(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    apply(&store, insert(&version(bot, 1))).await.unwrap();
    let pin = VersionPatch {
        pinned: Some(true),
        ..VersionPatch::default()
    };
    for (bot, n) in [(bot, 2), (BotId::generate(), 1)] {
        assert_kind(
            store.versions.get(bot, number(n)).await,
            ErrorKind::NotFound,
        );
        for patch in [&pin, &VersionPatch::default()] {
            assert_kind(
                apply(&store, Change::PatchVersion(bot, number(n), patch.clone())).await,
                ErrorKind::NotFound,
            );
        }
    }
}

/// A patch touches the fields that it names and no other, and no other version.
pub async fn updates_are_partial(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let mut expected = version(bot, 1);
    let other = version(bot, 2);
    apply(&store, insert(&expected)).await.unwrap();
    apply(&store, insert(&other)).await.unwrap();
    let patches = [
        VersionPatch {
            name: Some(Some("renamed".to_owned())),
            ..VersionPatch::default()
        },
        VersionPatch {
            pinned: Some(false),
            ..VersionPatch::default()
        },
        VersionPatch {
            size_bytes: Some(7),
            ..VersionPatch::default()
        },
        VersionPatch {
            name: Some(None),
            ..VersionPatch::default()
        },
        VersionPatch {
            parent: Some(Some(number(7))),
            ..VersionPatch::default()
        },
        VersionPatch {
            parent: Some(None),
            ..VersionPatch::default()
        },
        VersionPatch::default(),
    ];
    for patch in patches {
        apply(
            &store,
            Change::PatchVersion(bot, expected.number, patch.clone()),
        )
        .await
        .unwrap();
        expected.name = patch.name.unwrap_or(expected.name);
        expected.pinned = patch.pinned.unwrap_or(expected.pinned);
        expected.parent = patch.parent.unwrap_or(expected.parent);
        expected.size_bytes = patch.size_bytes.or(expected.size_bytes);
        let read = store.versions.list(bot).await.unwrap();
        assert_eq!(read, [expected.clone(), other.clone()]);
    }
}

/// Removing the container's row leaves the versions, and a new row finds them.
pub async fn history_survives_the_container(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let insert_container = || Change::InsertContainer(Box::new(container(bot)));
    let versions: Vec<_> = (1..=3).map(|n| version(bot, n)).collect();
    apply(&store, insert_container()).await.unwrap();
    for record in &versions {
        apply(&store, insert(record)).await.unwrap();
    }
    apply(&store, Change::DeleteContainer(bot)).await.unwrap();
    assert_eq!(store.versions.list(bot).await.unwrap(), versions);
    apply(&store, insert_container()).await.unwrap();
    fixture.reopen().await;
    let store = fixture.store();
    assert_eq!(store.versions.list(bot).await.unwrap(), versions);
}

/// Deleting is done when there is nothing, and takes nothing else along.
pub async fn deleting_what_is_not_there_is_no_failure(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    for n in 1..=3 {
        apply(&store, insert(&version(bot, n))).await.unwrap();
    }
    for _ in 0..2 {
        apply(&store, Change::DeleteVersion(bot, number(2)))
            .await
            .unwrap();
        let left = store.versions.list(bot).await.unwrap();
        let left: Vec<_> = left.iter().map(|version| version.number.get()).collect();
        assert_eq!(left, [1, 3]);
    }
}
