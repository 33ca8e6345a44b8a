//! Promises of [`crate::Operations`] and of the changes that concern them.

use super::samples::{add_bot, apply, at, number, operation, version};
use super::{Fixture, STRANGE_CURSORS, assert_kind, request, walk};
use crate::{
    BotPatch, BotStatus, Change, ErrorKind, Operation, OperationError, OperationKind,
    OperationState, Store,
};
use botstead_types::{BotId, OperationId};
use serde_json::json;
use std::collections::HashSet;
use std::net::Ipv4Addr;

async fn reserve(store: &Store, bot: BotId) -> u32 {
    let begun = store.operations.begin(&operation(bot), true).await.unwrap();
    begun.version.unwrap().get()
}

fn finish(id: OperationId, state: OperationState) -> Change {
    Change::FinishOperation {
        id,
        state,
        error: None,
    }
}

/// What was begun is what is returned and read, whatever its kind.
pub async fn an_operation_reads_back(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    for kind in [
        OperationKind::Create,
        OperationKind::Start,
        OperationKind::Stop,
        OperationKind::Snapshot,
        OperationKind::Rollback,
        OperationKind::Fork,
        OperationKind::Import,
        OperationKind::Restore,
        OperationKind::RestorePath,
        OperationKind::ChangeImage,
        OperationKind::DeleteVersion,
        OperationKind::Delete,
        OperationKind::DeleteBot,
    ] {
        let mut given = operation(bot);
        given.kind = kind;
        given.version = Some(number(7));
        let begun = store.operations.begin(&given, false).await.unwrap();
        assert_eq!(begun, given);
        assert_eq!(store.operations.get(bot, given.id).await.unwrap(), given);
    }
}

/// `AlreadyExists` for an id that is taken, and what was written stays.
pub async fn an_id_is_used_once(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let first = operation(add_bot(&store).await.id);
    store.operations.begin(&first, false).await.unwrap();
    let mut second = first.clone();
    second.step = "other".to_owned();
    assert_kind(
        store.operations.begin(&second, false).await,
        ErrorKind::AlreadyExists,
    );
    let read = store.operations.get(first.bot, first.id).await.unwrap();
    assert_eq!(read, first);
}

/// `NotFound` when the bot does not exist, with and without a number.
pub async fn an_operation_needs_its_bot(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    for reserve_version in [true, false] {
        let orphan = operation(BotId::generate());
        assert_kind(
            store.operations.begin(&orphan, reserve_version).await,
            ErrorKind::NotFound,
        );
    }
    assert_eq!(store.operations.unfinished().await.unwrap(), []);
}

/// An operation is only found together with its bot.
pub async fn another_bots_operation_is_not_found(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let begun = operation(add_bot(&store).await.id);
    let other = add_bot(&store).await.id;
    store.operations.begin(&begun, false).await.unwrap();
    for (bot, id) in [(other, begun.id), (begun.bot, OperationId::generate())] {
        assert_kind(store.operations.get(bot, id).await, ErrorKind::NotFound);
    }
}

/// The numbers of a bot are 1, 2, 3; those of another begin at 1 too.
pub async fn reserved_numbers_count_from_one_per_bot(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let other = add_bot(&store).await.id;
    for expected in 1..=3 {
        assert_eq!(reserve(&store, bot).await, expected);
    }
    let mut given = operation(other);
    given.version = Some(number(99));
    let begun = store.operations.begin(&given, true).await.unwrap();
    assert_eq!(begun.version, Some(number(1)), "the given number was used");
    let read = store.operations.get(other, given.id).await.unwrap();
    assert_eq!(read, begun);
}

/// The counter and the operation are written together or not at all.
pub async fn a_failed_begin_reserves_nothing(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let first = operation(add_bot(&store).await.id);
    store.operations.begin(&first, true).await.unwrap();
    assert_kind(
        store.operations.begin(&first, true).await,
        ErrorKind::AlreadyExists,
    );
    assert_eq!(reserve(&store, first.bot).await, 2);
}

/// What changes with the beginning is there with the operation, or neither is.
pub async fn a_beginning_and_its_changes_are_one(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await;
    let creating = || {
        let patch = BotPatch {
            status: Some(BotStatus::Creating),
            ..BotPatch::default()
        };
        Change::PatchBot(bot.id, patch)
    };
    let address = |subnet: &str| Change::AssignAddress {
        bot: bot.id,
        subnet: subnet.parse().unwrap(),
        gateway: Ipv4Addr::new(10, 9, 0, 1),
    };
    let failed = operation(bot.id);
    let full = vec![creating(), address("10.9.0.0/31")];
    assert_kind(
        store.operations.begin_with(&failed, true, full).await,
        ErrorKind::ResourceExhausted,
    );
    let read = store.operations.get(bot.id, failed.id).await;
    assert_kind(read, ErrorKind::NotFound);
    assert_eq!(store.bots.get(bot.id).await.unwrap(), bot);
    assert_eq!(store.addresses.list().await.unwrap(), []);

    let begun = operation(bot.id);
    let changes = vec![creating(), address("10.9.0.0/24")];
    let written = store.operations.begin_with(&begun, true, changes).await;
    assert_eq!(written.unwrap().version, Some(number(1)));
    let shown = store.bots.get(bot.id).await.unwrap();
    assert_eq!(shown.status, BotStatus::Creating);
    let assigned = store.addresses.list().await.unwrap();
    assert_eq!(assigned.len(), 1);
    let (subnet, gateway) = ("10.9.0.0/24".parse().unwrap(), Ipv4Addr::new(10, 9, 0, 1));
    let again = store.addresses.assign(bot.id, subnet, gateway).await;
    assert_eq!(again.unwrap(), assigned[0].address);
}

/// A number is not given out again: not after its operation failed or was forgotten, not after
/// its version was deleted, not after a restart.
pub async fn numbers_are_never_reused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let failed = store.operations.begin(&operation(bot), true).await.unwrap();
    apply(&store, finish(failed.id, OperationState::Failed))
        .await
        .unwrap();
    let later = failed.updated_at + chrono::TimeDelta::days(100_000);
    assert_eq!(store.operations.forget_finished(later).await.unwrap(), 1);
    assert_eq!(reserve(&store, bot).await, 2);
    apply(&store, Change::InsertVersion(Box::new(version(bot, 2))))
        .await
        .unwrap();
    apply(&store, Change::DeleteVersion(bot, number(2)))
        .await
        .unwrap();
    apply(&store, Change::DeleteContainer(bot)).await.unwrap();
    fixture.reopen().await;
    assert_eq!(reserve(&fixture.store(), bot).await, 3);
}

/// The number of a version that was added without reserving it is not given out afterwards.
pub async fn numbers_of_inserted_versions_are_used_up(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    apply(&store, Change::InsertVersion(Box::new(version(bot, 5))))
        .await
        .unwrap();
    apply(&store, Change::InsertVersion(Box::new(version(bot, 3))))
        .await
        .unwrap();
    assert_eq!(reserve(&store, bot).await, 6);
}

/// Operations that begin at the same time get distinct numbers without gaps.
pub async fn concurrent_begins_get_distinct_numbers(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        tasks.spawn(async move { reserve(&store, bot).await });
    }
    let mut numbers = HashSet::new();
    while let Some(number) = tasks.join_next().await {
        numbers.insert(number.unwrap());
    }
    assert_eq!(numbers, (1..=50).collect());
}

/// Steps are recorded; the input changes only where one is given.
pub async fn progress_is_recorded(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = operation(add_bot(&store).await.id);
    store.operations.begin(&expected, false).await.unwrap();
    for (step, input) in [
        ("first", None),
        ("second", Some(json!([1]))),
        ("third", None),
    ] {
        let change = Change::AdvanceOperation {
            id: expected.id,
            step: step.to_owned(),
            input: input.clone(),
        };
        apply(&store, change).await.unwrap();
        step.clone_into(&mut expected.step);
        expected.input = input.unwrap_or(expected.input);
        let read = store.operations.get(expected.bot, expected.id).await;
        let read = read.unwrap();
        assert!(read.updated_at >= expected.updated_at);
        expected.updated_at = read.updated_at;
        assert_eq!(read, expected);
    }
}

/// The end is recorded with its error and touches nothing else.
pub async fn the_end_is_recorded(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let error = OperationError {
        code: "no_space".to_owned(),
        message: "the disk is full; nothing was changed".to_owned(),
    };
    for (state, error) in [
        (OperationState::Succeeded, None),
        (OperationState::Failed, Some(error)),
        (OperationState::Cancelled, None),
    ] {
        let mut expected = operation(bot);
        store.operations.begin(&expected, false).await.unwrap();
        let change = Change::FinishOperation {
            id: expected.id,
            state,
            error: error.clone(),
        };
        apply(&store, change).await.unwrap();
        let read = store.operations.get(bot, expected.id).await.unwrap();
        expected.state = state;
        expected.error = error;
        expected.updated_at = read.updated_at;
        assert_eq!(read, expected);
    }
    let running = operation(bot);
    store.operations.begin(&running, false).await.unwrap();
    assert_kind(
        apply(&store, finish(running.id, OperationState::Running)).await,
        ErrorKind::InvalidArgument,
    );
}

/// After its bot was deleted an operation ends without a change, and cannot go on.
pub async fn operations_of_deleted_bots_end_without_failure(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let begun = operation(add_bot(&store).await.id);
    store.operations.begin(&begun, false).await.unwrap();
    let changes = vec![
        Change::DeleteBot(begun.bot),
        finish(begun.id, OperationState::Succeeded),
    ];
    store.transactions.apply(changes).await.unwrap();
    let advance = Change::AdvanceOperation {
        id: begun.id,
        step: "next".to_owned(),
        input: None,
    };
    assert_kind(apply(&store, advance).await, ErrorKind::NotFound);
}

/// The running ones of all bots, oldest first, and no others.
pub async fn unfinished_operations_come_oldest_first(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = [add_bot(&store).await.id, add_bot(&store).await.id];
    let mut begun: Vec<Operation> = Vec::new();
    for (n, age) in [30, 10, 20, 40, 0].into_iter().enumerate() {
        let mut operation = operation(bots[n % 2]);
        operation.created_at = at(age);
        begun.push(store.operations.begin(&operation, false).await.unwrap());
    }
    apply(&store, finish(begun[2].id, OperationState::Failed))
        .await
        .unwrap();
    begun.remove(2);
    begun.sort_by_key(|operation| operation.created_at);
    fixture.reopen().await;
    let unfinished = fixture.store().operations.unfinished().await.unwrap();
    assert_eq!(unfinished, begun);
}

/// Finished operations go by the time they were last written; running ones never do.
pub async fn old_finished_operations_are_forgotten(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let states = [
        (OperationState::Succeeded, 10),
        (OperationState::Failed, 19),
        (OperationState::Cancelled, 20),
        (OperationState::Running, 10),
    ];
    let mut ids = Vec::new();
    for (state, written) in states {
        let mut operation = operation(bot);
        operation.state = state;
        operation.updated_at = at(written);
        ids.push(operation.id);
        store.operations.begin(&operation, false).await.unwrap();
    }
    assert_eq!(store.operations.forget_finished(at(20)).await.unwrap(), 2);
    assert_eq!(store.operations.forget_finished(at(20)).await.unwrap(), 0);
    let left = store.operations.list(bot, &request(100, None)).await;
    let left: HashSet<_> = left.unwrap().items.iter().map(|left| left.id).collect();
    assert_eq!(left, HashSet::from([ids[2], ids[3]]));
}

/// Pages have every operation of a bot exactly once, newest first, while others are added.
pub async fn pages_walk_all_operations_once(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    let other = operation(add_bot(&store).await.id);
    store.operations.begin(&other, false).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..23 {
        let mut operation = operation(bot);
        operation.created_at = at(100 + n / 4);
        store.operations.begin(&operation, false).await.unwrap();
        expected.push((operation.created_at, operation.id));
    }
    expected.sort();
    expected.reverse();
    let walked = walk(
        4,
        async |page| store.operations.list(bot, &page).await,
        async || {
            let mut operation = operation(bot);
            operation.created_at = at(1_000);
            store.operations.begin(&operation, false).await.unwrap();
        },
    )
    .await;
    let walked: Vec<_> = walked
        .iter()
        .map(|operation| (operation.created_at, operation.id))
        .collect();
    assert_eq!(walked, expected);
}

/// `InvalidArgument` for a cursor that no page gave.
pub async fn strange_cursors_are_refused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bot(&store).await.id;
    for cursor in STRANGE_CURSORS {
        let page = request(1, Some((*cursor).into()));
        assert_kind(
            store.operations.list(bot, &page).await,
            ErrorKind::InvalidArgument,
        );
    }
}
