//! Promises of [`crate::Transactions`], and of the store as a whole.

use super::samples::{add_bot, apply, at, container, event, number, operation, user, version};
use super::{Fixture, assert_kind, request};
use crate::{BotPatch, Change, ContainerPatch, ErrorKind, OperationState, VersionPatch};
use std::time::{Duration, Instant};

/// When a change in the middle or at the end fails, none of the others are there.
pub async fn a_failed_change_undoes_all(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await;
    let begun = operation(bot.id);
    store.operations.begin(&begun, false).await.unwrap();
    let good = vec![
        Change::InsertContainer(Box::new(container(bot.id))),
        Change::InsertVersion(Box::new(version(bot.id, 4))),
        Change::PatchBot(
            bot.id,
            BotPatch {
                name: Some("renamed".to_owned()),
                ..BotPatch::default()
            },
        ),
        Change::FinishOperation {
            id: begun.id,
            state: OperationState::Succeeded,
            error: None,
        },
        Change::AppendEvent(event(bot.id, 1)),
    ];
    let bad = [
        (
            Change::PatchVersion(bot.id, number(99), VersionPatch::default()),
            ErrorKind::NotFound,
        ),
        (
            Change::PatchContainer(super::samples::bot(bot.owner).id, Box::default()),
            ErrorKind::NotFound,
        ),
        (
            Change::InsertVersion(Box::new(version(super::samples::bot(bot.owner).id, 1))),
            ErrorKind::NotFound,
        ),
    ];
    for position in [0, 2, good.len()] {
        for (change, kind) in &bad {
            let mut changes = good.clone();
            changes.insert(position, change.clone());
            assert_kind(store.transactions.apply(changes).await, *kind);
            assert_kind(store.containers.get(bot.id).await, ErrorKind::NotFound);
            assert_eq!(store.versions.list(bot.id).await.unwrap(), []);
            assert_eq!(store.bots.get(bot.id).await.unwrap(), bot);
            let read = store.operations.get(bot.id, begun.id).await.unwrap();
            assert_eq!(read, begun);
            let events = store.events.list(bot.id, &request(10, None)).await;
            assert_eq!(events.unwrap().items, []);
        }
    }
    // The counter was put back as well.
    let next = store.operations.begin(&operation(bot.id), true).await;
    assert_eq!(next.unwrap().version, Some(number(1)));
    store.transactions.apply(good).await.unwrap();
}

/// Later changes see what earlier ones of the same transaction did.
pub async fn changes_apply_in_order(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let dirty = |dirty| {
        let patch = ContainerPatch {
            dirty: Some(dirty),
            ..ContainerPatch::default()
        };
        Change::PatchContainer(bot, Box::new(patch))
    };
    let insert = || Change::InsertContainer(Box::new(container(bot)));
    let changes = vec![
        insert(),
        dirty(true),
        Change::DeleteContainer(bot),
        insert(),
        dirty(true),
        dirty(false),
    ];
    store.transactions.apply(changes).await.unwrap();
    assert!(!store.containers.get(bot).await.unwrap().dirty);
    assert_kind(
        store.transactions.apply(vec![dirty(true), insert()]).await,
        ErrorKind::AlreadyExists,
    );
    assert!(!store.containers.get(bot).await.unwrap().dirty);
}

/// No changes are done at once.
pub async fn no_changes_are_no_failure(fixture: &mut dyn Fixture) {
    fixture
        .store()
        .transactions
        .apply(Vec::new())
        .await
        .unwrap();
}

/// With a bot go its container's row, versions, operations, events and address, and nothing of
/// another bot; deleting it again is no failure.
pub async fn deleting_a_bot_removes_all_of_it(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = [add_bot(&store).await, add_bot(&store).await];
    for bot in &bots {
        let changes = vec![
            Change::InsertContainer(Box::new(container(bot.id))),
            Change::InsertVersion(Box::new(version(bot.id, 1))),
            Change::AppendEvent(event(bot.id, 1)),
        ];
        store.transactions.apply(changes).await.unwrap();
        store
            .operations
            .begin(&operation(bot.id), false)
            .await
            .unwrap();
        let subnet = "10.9.0.0/24".parse().unwrap();
        let gateway = "10.9.0.1".parse().unwrap();
        store
            .addresses
            .assign(bot.id, subnet, gateway)
            .await
            .unwrap();
    }
    for _ in 0..2 {
        apply(&store, Change::DeleteBot(bots[0].id)).await.unwrap();
    }
    assert_kind(store.bots.get(bots[0].id).await, ErrorKind::NotFound);
    for (bot, left) in [(bots[0].id, 0), (bots[1].id, 1)] {
        let page = request(10, None);
        let containers = store.containers.get(bot).await.is_ok();
        assert_eq!(usize::from(containers), left);
        assert_eq!(store.versions.list(bot).await.unwrap().len(), left);
        let operations = store.operations.list(bot, &page).await.unwrap();
        assert_eq!(operations.items.len(), left);
        let events = store.events.list(bot, &page).await.unwrap();
        assert_eq!(events.items.len(), left);
        let addresses = store.addresses.list().await.unwrap();
        let addresses = addresses.iter().filter(|address| address.bot == bot);
        assert_eq!(addresses.count(), left);
    }
    // The owner stays, and owns nothing more.
    store.users.create(&user("admin")).await.unwrap();
    store.users.delete(bots[0].owner).await.unwrap();
}

/// Transactions at the same time all apply.
pub async fn concurrent_transactions_all_apply(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 1..=50 {
        let store = store.clone();
        tasks.spawn(async move {
            let changes = vec![
                Change::InsertVersion(Box::new(version(bot, n))),
                Change::AppendEvent(event(bot, n)),
            ];
            store.transactions.apply(changes).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(store.versions.list(bot).await.unwrap().len(), 50);
    let events = store.events.list(bot, &request(100, None)).await.unwrap();
    assert_eq!(events.items.len(), 50);
}

/// What was answered is there after the database was opened again.
pub async fn changes_are_durable(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await;
    let record = container(bot.id);
    let begun = store.operations.begin(&operation(bot.id), true).await;
    let changes = vec![
        Change::InsertContainer(Box::new(record.clone())),
        Change::AppendEvent(event(bot.id, 1)),
    ];
    store.transactions.apply(changes).await.unwrap();
    fixture.reopen().await;
    let store = fixture.store();
    assert_eq!(store.bots.get(bot.id).await.unwrap(), bot);
    assert_eq!(store.containers.get(bot.id).await.unwrap(), record);
    assert_eq!(
        store.operations.unfinished().await.unwrap(),
        [begun.unwrap()]
    );
    let events = store.events.list(bot.id, &request(10, None)).await.unwrap();
    assert_eq!(events.items.len(), 1);
}

/// A caller who goes away in the middle of a transaction leaves it whole or undone, and the next
/// one is not kept waiting.
pub async fn an_abandoned_transaction_leaves_no_lock(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    for n in 1..=30_u64 {
        let number = i64::try_from(n).unwrap();
        let changes = vec![
            Change::InsertVersion(Box::new(version(bot, number))),
            Change::AppendEvent(event(bot, number)),
        ];
        let patience = Duration::from_micros(n * 150);
        let _ = tokio::time::timeout(patience, store.transactions.apply(changes)).await;
    }
    let began = Instant::now();
    apply(&store, Change::AppendEvent(event(bot, 1_000)))
        .await
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "a lock was left");
    let versions = store.versions.list(bot).await.unwrap().len();
    let events = store.events.list(bot, &request(100, None)).await.unwrap();
    assert_eq!(events.items.len(), versions + 1);
}

/// Reads go on while another writer's transaction is open, and do not see it.
pub async fn reads_do_not_wait_for_a_writer(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut bot = add_bot(&store).await;
    bot.created_at = at(1);
    let record = version(bot.id, 1);
    apply(&store, Change::InsertVersion(Box::new(record.clone())))
        .await
        .unwrap();
    let writer = fixture.hold_writer().await;
    let reads = async {
        assert_eq!(store.bots.get(bot.id).await.unwrap(), bot);
        assert_eq!(store.versions.list(bot.id).await.unwrap(), [record]);
        assert_eq!(store.containers.list().await.unwrap(), []);
        assert_eq!(store.operations.unfinished().await.unwrap(), []);
        assert_eq!(store.addresses.list().await.unwrap(), []);
        store.users.get(bot.owner).await.unwrap();
        store.events.list(bot.id, &request(10, None)).await.unwrap();
        store.health.ping().await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(2), reads)
        .await
        .expect("a read waited for the writer");
    // It does hold the lock: a write waits, and goes on when it is gone.
    let mut write = std::pin::pin!(apply(&store, Change::AppendEvent(event(bot.id, 1))));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut write).await;
    assert!(early.is_err(), "the writer held nothing");
    drop(writer);
    write.await.unwrap();
}

/// The database answers.
pub async fn the_database_answers(fixture: &mut dyn Fixture) {
    fixture.store().health.ping().await.unwrap();
}
