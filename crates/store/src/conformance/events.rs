//! Promises of [`crate::Events`] and of the change that adds them.

use super::samples::{add_bot, apply, event};
use super::{Fixture, STRANGE_CURSORS, assert_kind, request, walk};
use crate::{Change, ErrorKind};
use botstead_types::BotId;

/// What was recorded is what is read, newest first; later events have larger numbers.
pub async fn events_read_back_newest_first(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let other = add_bot(&store).await.id;
    for n in 0..5 {
        apply(&store, Change::AppendEvent(event(bot, n)))
            .await
            .unwrap();
        apply(&store, Change::AppendEvent(event(other, n)))
            .await
            .unwrap();
    }
    let page = store.events.list(bot, &request(100, None)).await.unwrap();
    assert_eq!(page.next_cursor, None);
    assert!(
        page.items.is_sorted_by(|a, b| a.id > b.id),
        "the numbers do not fall"
    );
    let events: Vec<_> = page.items.into_iter().map(|event| event.event).collect();
    let expected: Vec<_> = (0..5).rev().map(|n| event(bot, n)).collect();
    assert_eq!(events, expected);
}

/// An event of a bot that is gone is no failure, and the changes beside it apply.
pub async fn events_of_deleted_bots_are_dropped(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let gone = BotId::generate();
    store
        .transactions
        .apply(vec![
            Change::AppendEvent(event(gone, 1)),
            Change::AppendEvent(event(bot, 2)),
        ])
        .await
        .unwrap();
    let page = request(100, None);
    assert_eq!(store.events.list(gone, &page).await.unwrap().items, []);
    assert_eq!(store.events.list(bot, &page).await.unwrap().items.len(), 1);
}

/// At least the newest 1,000 of each bot are kept, whatever others record.
pub async fn the_newest_thousand_are_kept(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let quiet = add_bot(&store).await.id;
    let noisy = add_bot(&store).await.id;
    for n in 0..10 {
        apply(&store, Change::AppendEvent(event(quiet, n)))
            .await
            .unwrap();
    }
    for batch in 0..15 {
        let events = (0..100).map(|n| Change::AppendEvent(event(noisy, batch * 100 + n)));
        store.transactions.apply(events.collect()).await.unwrap();
    }
    for (bot, last, least) in [(noisy, 1_499, 1_000), (quiet, 9, 10)] {
        let events = walk(
            100,
            async |page| store.events.list(bot, &page).await,
            async || {},
        )
        .await;
        assert!(events.len() >= least, "only {} are left", events.len());
        for (event, n) in events.iter().zip((0..=last).rev()).take(least) {
            assert_eq!(event.event, super::samples::event(bot, n));
        }
    }
}

/// Pages have every event exactly once while others are added.
pub async fn pages_walk_all_events_once(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let changes = (0..23).map(|n| Change::AppendEvent(event(bot, n)));
    store.transactions.apply(changes.collect()).await.unwrap();
    let walked = walk(
        4,
        async |page| store.events.list(bot, &page).await,
        async || {
            apply(&store, Change::AppendEvent(event(bot, 1_000)))
                .await
                .unwrap();
        },
    )
    .await;
    let walked: Vec<_> = walked.into_iter().map(|event| event.event).collect();
    let expected: Vec<_> = (0..23).rev().map(|n| event(bot, n)).collect();
    assert_eq!(walked, expected);
}

/// `InvalidArgument` for a cursor that no page gave.
pub async fn strange_cursors_are_refused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    for cursor in STRANGE_CURSORS {
        let page = request(1, Some((*cursor).into()));
        assert_kind(
            store.events.list(bot, &page).await,
            ErrorKind::InvalidArgument,
        );
    }
}
