//! The conformance suite: one named test per promise of the traits.
//!
//! An implementation runs it with [`store_conformance!`](crate::store_conformance), which takes
//! the name of an async function that makes a [`Fixture`] with an empty store:
//!
//! ```ignore
//! async fn fresh() -> MyFixture { .. }
//! botstead_store::store_conformance!(fresh);
//! ```
//!
//! The tests need `tokio` with its macros and the multi-threaded runtime.
#![allow(
    clippy::unwrap_used,
    reason = "this module is test code; a failed unwrap is a failed test"
)]

pub mod addresses;
pub mod bots;
pub mod containers;
pub mod events;
pub mod images;
pub mod operations;
pub mod samples;
pub mod transactions;
pub mod users;
pub mod versions;

use crate::{ErrorKind, Result, Store};
use async_trait::async_trait;
use botstead_types::{Page, PageRequest};

/// A store under test.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The store.
    fn store(&self) -> Store;

    /// Closes the database and opens it again, as after a restart of the server.
    async fn reopen(&mut self);

    /// Begins a transaction of another writer that has written and stays open until what is
    /// returned is dropped.
    async fn hold_writer(&self) -> Box<dyn Send>;
}

/// Asserts that an operation failed, and how.
#[track_caller]
pub(crate) fn assert_kind<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(value) => panic!("expected {kind:?}, got {value:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

/// A page of at most `limit` items after `cursor`.
pub(crate) fn request(limit: u32, cursor: Option<String>) -> PageRequest {
    PageRequest { limit, cursor }
}

/// Walks all pages and returns their items; `between` runs after each page.
pub(crate) async fn walk<T>(
    limit: u32,
    list: impl AsyncFn(PageRequest) -> Result<Page<T>>,
    between: impl AsyncFn(),
) -> Vec<T> {
    let mut all = Vec::new();
    let mut cursor = None;
    // A walk that does not end would otherwise hang the suite.
    for _ in 0..1_000 {
        let page = list(request(limit, cursor)).await.unwrap();
        assert!(page.items.len() <= limit as usize, "a page is too large");
        all.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
        between().await;
    }
    panic!("the pages do not end");
}

/// Cursors that no page gave.
pub(crate) const STRANGE_CURSORS: &[&str] = &[
    "",
    "1",
    "users.1.x",
    "bots.1.x",
    "operations.1.x",
    "events.x",
    "events.+1",
    "' OR 1=1 --",
    "\u{0}",
];

/// Emits the tests: `store_conformance!(factory)`, where `factory` is the name of an async
/// function in scope that makes a [`Fixture`] with an empty store.
#[macro_export]
macro_rules! store_conformance {
    ($factory:ident) => {
        $crate::store_conformance! {
            @groups $factory;
            users {
                an_account_reads_back
                names_are_unique_without_regard_to_case
                an_account_is_found_by_its_name_in_any_case
                what_is_missing_is_not_found
                updates_are_partial
                the_last_active_admin_stays
                concurrent_demotions_leave_an_admin
                an_owner_of_bots_is_not_deleted
                pages_walk_all_accounts_once
                strange_cursors_are_refused
            }
            bots {
                a_bot_reads_back
                a_bot_needs_its_owner
                ids_are_unique
                what_is_missing_is_not_found
                updates_are_partial
                metadata_keys_are_merged
                concurrent_updates_keep_each_other
                pages_walk_all_bots_once
                pages_of_an_owner_have_no_other_bots
                strange_cursors_are_refused
            }
            containers {
                a_container_reads_back
                a_bot_has_one_container
                a_container_needs_its_bot
                what_is_missing_is_not_found
                updates_are_partial
                deleting_what_is_not_there_is_no_failure
                containers_are_listed_by_bot
            }
            images {
                a_configuration_is_kept_once
                a_configuration_in_use_is_not_collected
            }
            versions {
                a_version_reads_back
                versions_are_listed_by_number
                snapshots_of_all_versions_are_listed
                numbers_are_unique_per_bot
                what_is_missing_is_not_found
                updates_are_partial
                history_survives_the_container
                deleting_what_is_not_there_is_no_failure
            }
            operations {
                an_operation_reads_back
                an_id_is_used_once
                an_operation_needs_its_bot
                another_bots_operation_is_not_found
                reserved_numbers_count_from_one_per_bot
                a_failed_begin_reserves_nothing
                a_beginning_and_its_changes_are_one
                numbers_are_never_reused
                numbers_of_inserted_versions_are_used_up
                concurrent_begins_get_distinct_numbers
                progress_is_recorded
                the_end_is_recorded
                operations_of_deleted_bots_end_without_failure
                unfinished_operations_come_oldest_first
                old_finished_operations_are_forgotten
                pages_walk_all_operations_once
                strange_cursors_are_refused
            }
            events {
                events_read_back_newest_first
                events_of_deleted_bots_are_dropped
                the_newest_thousand_are_kept
                pages_walk_all_events_once
                strange_cursors_are_refused
            }
            addresses {
                reserved_addresses_are_never_assigned
                an_address_stays
                a_full_subnet_is_exhausted
                a_released_address_rests
                a_released_address_is_used_before_the_subnet_is_full
                an_address_outside_of_the_subnet_is_replaced
                concurrent_assignments_are_distinct
                concurrent_assignments_to_one_bot_agree
                an_address_needs_its_bot
                a_subnet_without_hosts_is_exhausted
            }
            transactions {
                a_failed_change_undoes_all
                changes_apply_in_order
                no_changes_are_no_failure
                deleting_a_bot_removes_all_of_it
                concurrent_transactions_all_apply
                changes_are_durable
                an_abandoned_transaction_leaves_no_lock
                reads_do_not_wait_for_a_writer
                the_database_answers
            }
        }
    };
    (@groups $factory:ident; $($group:ident { $($promise:ident)+ })+) => {
        $(mod $group {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let mut fixture = super::$factory().await;
                    $crate::conformance::$group::$promise(&mut fixture).await;
                }
            )+
        })+
    };
}
