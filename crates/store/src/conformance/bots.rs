//! Promises of [`crate::Bots`].

use super::samples::{add_bot, add_bot_of, add_user, at, bot, object};
use super::{Fixture, STRANGE_CURSORS, assert_kind, request, walk};
use crate::{BotPatch, BotStatus, ErrorKind};
use botstead_types::{BotId, UserId};
use serde_json::json;

/// What was written is what is read.
pub async fn a_bot_reads_back(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let owner = add_user(&store, "owner").await;
    for status in [
        BotStatus::Creating,
        BotStatus::Ready,
        BotStatus::Deleting,
        BotStatus::Error,
    ] {
        let mut written = bot(owner.id);
        written.status = status;
        written.display_name = None;
        written.is_active = false;
        store.bots.create(&written).await.unwrap();
        assert_eq!(store.bots.get(written.id).await.unwrap(), written);
    }
}

/// `NotFound` when the owner does not exist, and nothing is written.
pub async fn a_bot_needs_its_owner(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let orphan = bot(UserId::generate());
    assert_kind(store.bots.create(&orphan).await, ErrorKind::NotFound);
    assert_kind(store.bots.get(orphan.id).await, ErrorKind::NotFound);
}

/// An id is used once; names are not unique.
pub async fn ids_are_unique(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let first = add_bot(&store).await;
    let mut second = bot(first.owner);
    store.bots.create(&second).await.unwrap();
    second.id = first.id;
    second.name = "other".to_owned();
    assert_kind(store.bots.create(&second).await, ErrorKind::AlreadyExists);
    assert_eq!(store.bots.get(first.id).await.unwrap(), first);
}

/// `NotFound` from everything that names a bot.
pub async fn what_is_missing_is_not_found(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let id = BotId::generate();
    assert_kind(store.bots.get(id).await, ErrorKind::NotFound);
    assert_kind(
        store.bots.update(id, &BotPatch::default()).await,
        ErrorKind::NotFound,
    );
}

/// A patch touches the fields that it names and no other.
pub async fn updates_are_partial(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = add_bot(&store).await;
    let patches = [
        BotPatch {
            name: Some("renamed".to_owned()),
            ..BotPatch::default()
        },
        BotPatch {
            display_name: Some(None),
            ..BotPatch::default()
        },
        BotPatch {
            is_active: Some(false),
            ..BotPatch::default()
        },
        BotPatch {
            status: Some(BotStatus::Error),
            ..BotPatch::default()
        },
        BotPatch::default(),
    ];
    for patch in patches {
        let returned = store.bots.update(expected.id, &patch).await.unwrap();
        if let Some(name) = &patch.name {
            expected.name.clone_from(name);
        }
        if let Some(name) = &patch.display_name {
            expected.display_name.clone_from(name);
        }
        expected.is_active = patch.is_active.unwrap_or(expected.is_active);
        expected.status = patch.status.unwrap_or(expected.status);
        assert!(returned.updated_at >= expected.updated_at);
        expected.updated_at = returned.updated_at;
        assert_eq!(returned, expected);
        assert_eq!(store.bots.get(expected.id).await.unwrap(), expected);
    }
}

/// Metadata is merged by its top-level keys; `null` removes one.
pub async fn metadata_keys_are_merged(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await;
    let patch = |value| BotPatch {
        metadata: Some(object(value)),
        ..BotPatch::default()
    };
    for (given, expected) in [
        (
            json!({"new": "x"}),
            json!({"workspace": {"image": "debian"}, "kept": [1, null], "new": "x"}),
        ),
        (
            json!({"workspace": {"gpu": true}, "absent": null}),
            json!({"workspace": {"gpu": true}, "kept": [1, null], "new": "x"}),
        ),
        (
            json!({"workspace": null, "new": null}),
            json!({"kept": [1, null]}),
        ),
        (json!({}), json!({"kept": [1, null]})),
    ] {
        store.bots.update(bot.id, &patch(given)).await.unwrap();
        let read = store.bots.get(bot.id).await.unwrap();
        assert_eq!(read.metadata.to_map().unwrap(), object(expected));
    }
}

/// Updates of different keys at the same time are all there afterwards.
pub async fn concurrent_updates_keep_each_other(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let id = add_bot(&store).await.id;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        tasks.spawn(async move {
            let patch = BotPatch {
                metadata: Some(object(json!({ format!("key-{n}"): n }))),
                ..BotPatch::default()
            };
            store.bots.update(id, &patch).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let metadata = store.bots.get(id).await.unwrap().metadata.to_map().unwrap();
    for n in 0..20 {
        assert_eq!(metadata.get(&format!("key-{n}")), Some(&json!(n)));
    }
}

/// Pages have every bot exactly once, oldest first, while others are added.
pub async fn pages_walk_all_bots_once(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let owner = add_user(&store, "owner").await.id;
    let mut expected = Vec::new();
    for n in 0..23 {
        let mut bot = bot(owner);
        bot.created_at = at(100 - n / 4);
        store.bots.create(&bot).await.unwrap();
        expected.push((bot.created_at, bot.id));
    }
    expected.sort();
    let walked = walk(
        4,
        async |page| store.bots.list(None, &page).await,
        async || {
            let mut bot = bot(owner);
            bot.created_at = at(1_000);
            store.bots.create(&bot).await.unwrap();
        },
    )
    .await;
    let walked: Vec<_> = walked
        .iter()
        .map(|bot| (bot.created_at, bot.id))
        .take(expected.len())
        .collect();
    assert_eq!(walked, expected);
}

/// With an owner, pages have the owner's bots and no others.
pub async fn pages_of_an_owner_have_no_other_bots(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let ann = add_user(&store, "ann").await.id;
    let bert = add_user(&store, "bert").await.id;
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.push(add_bot_of(&store, ann).await.id);
        add_bot_of(&store, bert).await;
    }
    expected.sort();
    for limit in [1, 3, 7, 100] {
        let walked = walk(
            limit,
            async |page| store.bots.list(Some(ann), &page).await,
            async || {},
        )
        .await;
        let walked: Vec<_> = walked.iter().map(|bot| bot.id).collect();
        assert_eq!(walked, expected, "pages of {limit}");
    }
    let nobody = store
        .bots
        .list(Some(UserId::generate()), &request(5, None))
        .await
        .unwrap();
    assert_eq!((nobody.items, nobody.next_cursor), (Vec::new(), None));
}

/// `InvalidArgument` for a cursor that no page gave.
pub async fn strange_cursors_are_refused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    for cursor in STRANGE_CURSORS {
        let page = request(1, Some((*cursor).into()));
        assert_kind(
            store.bots.list(None, &page).await,
            ErrorKind::InvalidArgument,
        );
    }
}
