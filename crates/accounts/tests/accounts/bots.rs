//! Bots: whose they are, what they keep, how large they may be.

use crate::{Fixture, code};
use botstead_accounts::{BotUpdate, ErrorKind, METADATA_LIMIT, NewBot};
use botstead_authz::Actor;
use botstead_store::{BotPatch, BotStatus, Change};
use botstead_types::{BotId, PageRequest};
use serde_json::{Map, Value, json};

fn metadata(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn a_bot_exists_for_its_owner_and_for_admins_only() {
    let f = Fixture::new().await;
    let (a, ann, bob) = (&f.accounts, f.ann.actor(), f.bob.actor());
    let bot = a.create_bot(&ann, NewBot::default()).await.unwrap();
    assert_eq!(
        (bot.owner, bot.status, bot.is_active),
        (f.ann.id, BotStatus::Ready, true)
    );
    assert!(bot.name.starts_with("bot-"), "{}", bot.name);
    let theirs = a.create_bot(&bob, NewBot::default()).await.unwrap();
    assert_ne!(bot.name, theirs.name);

    for actor in [ann, f.admin.actor(), Actor::System] {
        assert_eq!(a.bot(&actor, bot.id).await.unwrap(), bot, "{actor:?}");
    }
    assert_eq!(code(a.bot(&bob, bot.id).await), "bot_not_found");
    assert_eq!(code(a.bot(&bob, BotId::generate()).await), "bot_not_found");
    let rename = BotUpdate {
        name: Some("mine".into()),
        ..BotUpdate::default()
    };
    assert_eq!(
        code(a.update_bot(&bob, bot.id, rename).await),
        "bot_not_found"
    );
    assert_eq!(a.bot(&ann, bot.id).await.unwrap().name, bot.name);

    let page = PageRequest::default();
    assert_eq!(
        a.bots(&ann, &page).await.unwrap().items,
        std::slice::from_ref(&bot)
    );
    assert_eq!(
        a.bots(&bob, &page).await.unwrap().items,
        std::slice::from_ref(&theirs)
    );
    let all = a.bots(&f.admin.actor(), &page).await.unwrap().items;
    assert_eq!(all, [bot, theirs]);
    let unowned = a.create_bot(&Actor::System, NewBot::default()).await;
    assert_eq!(code(unowned), "invalid_request");
}

#[tokio::test]
async fn a_bot_keeps_what_an_update_does_not_name() {
    let f = Fixture::new().await;
    let (a, ann) = (&f.accounts, f.ann.actor());
    let bot = NewBot {
        name: Some("  helper ".into()),
        display_name: Some("Helper".into()),
        metadata: metadata(json!({"a": 1, "b": {"c": 2}, "none": null})),
    };
    let bot = a.create_bot(&ann, bot).await.unwrap();
    assert_eq!(bot.name, "helper");
    assert_eq!(
        Value::from(bot.metadata.to_map().unwrap()),
        json!({"a": 1, "b": {"c": 2}})
    );
    assert_eq!(a.bot(&ann, bot.id).await.unwrap(), bot);

    let update = BotUpdate {
        metadata: Some(metadata(
            json!({"a": null, "workspace": {"image": "debian"}}),
        )),
        is_active: Some(false),
        ..BotUpdate::default()
    };
    let updated = a.update_bot(&ann, bot.id, update).await.unwrap();
    let expected = json!({"b": {"c": 2}, "workspace": {"image": "debian"}});
    assert_eq!(Value::from(updated.metadata.to_map().unwrap()), expected);
    assert_eq!(
        (updated.name, updated.display_name),
        (bot.name, bot.display_name)
    );
    assert!(!updated.is_active);

    for update in [
        BotUpdate {
            name: Some(String::new()),
            ..BotUpdate::default()
        },
        BotUpdate {
            display_name: Some(Some("x".repeat(129))),
            ..BotUpdate::default()
        },
        BotUpdate {
            metadata: Some(metadata(json!({"workspace": {"image": 7}}))),
            ..BotUpdate::default()
        },
    ] {
        let refused = a.update_bot(&ann, bot.id, update.clone()).await;
        assert_eq!(code(refused), "invalid_request", "{update:?}");
    }
}

#[tokio::test]
async fn metadata_is_bounded_as_a_whole() {
    let f = Fixture::new().await;
    let (a, ann) = (&f.accounts, f.ann.actor());
    let text = |bytes: usize| Value::from("x".repeat(bytes));
    // {"a":"..."} has 8 bytes around the text.
    let with = |bytes| NewBot {
        metadata: metadata(json!({ "a": text(bytes) })),
        ..NewBot::default()
    };
    let over = a.create_bot(&ann, with(METADATA_LIMIT - 7)).await;
    let error = over.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        ("metadata_too_large", ErrorKind::TooLarge)
    );
    let bot = a.create_bot(&ann, with(METADATA_LIMIT - 8)).await.unwrap();

    let set = |value: Value| BotUpdate {
        metadata: Some(metadata(value)),
        ..BotUpdate::default()
    };
    let more = a.update_bot(&ann, bot.id, set(json!({"b": 1}))).await;
    assert_eq!(code(more), "metadata_too_large");
    let swapped = a.update_bot(&ann, bot.id, set(json!({"a": null, "b": text(1000)})));
    assert_eq!(swapped.await.unwrap().metadata.to_map().unwrap().len(), 1);
}

/// What is kept and cannot be read again would be there for ever.
#[tokio::test]
async fn metadata_that_cannot_be_read_again_is_refused() {
    let f = Fixture::new().await;
    let (a, ann) = (&f.accounts, f.ann.actor());
    let bot = a.create_bot(&ann, NewBot::default()).await.unwrap();
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let own = "$serde_json::private::RawValue";
    for bad in [
        json!({"a": {own: "x"}}),
        json!({"a": {"b": 1, own: "[1]"}}),
        json!({"a": deep}),
    ] {
        let metadata = metadata(bad);
        let new = NewBot {
            metadata: metadata.clone(),
            ..NewBot::default()
        };
        assert_eq!(code(a.create_bot(&ann, new).await), "invalid_request");
        let update = BotUpdate {
            metadata: Some(metadata),
            ..BotUpdate::default()
        };
        assert_eq!(
            code(a.update_bot(&ann, bot.id, update).await),
            "invalid_request"
        );
    }
    assert_eq!(a.bot(&ann, bot.id).await.unwrap().metadata.text(), "{}");
}

#[tokio::test]
async fn a_bot_that_is_being_deleted_does_not_change() {
    let f = Fixture::new().await;
    let ann = f.ann.actor();
    let bot = f
        .accounts
        .create_bot(&ann, NewBot::default())
        .await
        .unwrap();
    let patch = BotPatch {
        status: Some(BotStatus::Deleting),
        ..BotPatch::default()
    };
    f.store.bots.update(bot.id, &patch).await.unwrap();
    let rename = || BotUpdate {
        name: Some("new".into()),
        ..BotUpdate::default()
    };
    let refused = f.accounts.update_bot(&ann, bot.id, rename()).await;
    assert_eq!(code(refused), "bot_deleting");
    f.store
        .transactions
        .apply(vec![Change::DeleteBot(bot.id)])
        .await
        .unwrap();
    let gone = f.accounts.update_bot(&ann, bot.id, rename()).await;
    assert_eq!(code(gone), "bot_not_found");
}
