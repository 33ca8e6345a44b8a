//! The macro that emits the suite's tests.

/// Emits one `#[tokio::test]` for every promise, in a module for every port. The argument is an
/// asynchronous function without parameters that makes a [`crate::conformance::Fixture`]; after a
/// semicolon, the modules that are wanted can be named: `conformance_tests!(new; network);`.
#[macro_export]
macro_rules! conformance_tests {
    ($new:expr) => {
        $crate::conformance_tests!(
            $new; snapshots, copies, trees, channels, leases, containers, tasks, images, metrics, network, issues
        );
    };
    ($new:expr; $($module:ident),+ $(,)?) => {
        $($crate::conformance_tests!(@port $new, $module);)+
    };
    (@tests $new:expr, $module:ident, $($test:ident,)+) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[tokio::test]
                async fn $test() {
                    $crate::conformance::run($new, $crate::conformance::$module::$test).await;
                }
            )+
        }
    };
    (@port $new:expr, snapshots) => {
        $crate::conformance_tests!(
            @tests $new, snapshots,
            a_prepared_snapshot_is_active_and_has_its_parent_and_labels,
            preparing_again_already_exists,
            preparing_tells_how_it_is_mounted,
            a_snapshot_may_have_no_parent,
            those_with_a_label_are_found,
            a_missing_parent_is_not_found,
            an_active_snapshot_is_no_parent,
            a_child_shows_its_parents_files,
            a_childs_changes_stay_its_own,
            a_commit_frees_the_key,
            committing_again_is_not_found,
            committing_a_key_that_was_prepared_anew_already_exists,
            a_missing_key_is_not_found,
            a_list_has_every_snapshot_once,
            labels_are_replaced,
            replacing_labels_does_not_end_protection,
            usage_grows_with_the_files,
            an_active_snapshot_tells_its_mounts,
            a_removed_snapshot_is_gone,
            a_parent_is_not_removed,
            a_released_version_is_collected,
            a_released_version_that_is_protected_again_stays,
            releasing_again_changes_nothing,
            layers_are_merged_or_that_is_unsupported,
        );
    };
    (@port $new:expr, copies) => {
        $crate::conformance_tests!(
            @tests $new, copies,
            a_copy_is_what_is_there_and_its_source_goes_on,
            a_copy_outlives_its_lease,
            copying_again_changes_nothing,
            a_released_copy_is_collected,
            what_is_not_active_is_not_copied,
            a_copy_that_would_not_fit_is_refused,
            a_cancelled_copy_leaves_nothing,
            a_running_task_goes_on_while_it_is_copied,
            a_copy_of_a_task_that_ended_is_no_different,
        );
    };
    (@port $new:expr, trees) => {
        $crate::conformance_tests!(
            @tests $new, trees,
            layers_are_told_from_the_bottom_up,
            an_opened_snapshot_shows_its_files,
            an_opened_snapshot_stays_while_it_is_released_and_collected,
            what_is_written_to_an_opened_snapshot_is_its_own,
            a_committed_snapshot_is_opened_for_looking_only,
            what_is_missing_is_not_opened,
        );
    };
    (@port $new:expr, channels) => {
        $crate::conformance_tests!(
            @tests $new, channels,
            a_task_with_a_channel_is_listed,
            removing_a_channel_again_changes_nothing,
            connecting_to_what_does_not_listen_is_refused,
        );
    };
    (@port $new:expr, leases) => {
        $crate::conformance_tests!(
            @tests $new, leases,
            making_a_lease_again_changes_nothing,
            deleting_a_lease_again_changes_nothing,
            an_active_snapshot_outlives_its_lease,
            a_version_outlives_its_lease,
            an_active_snapshot_outlives_its_container,
            a_lease_protects_its_own_only,
            what_is_protected_protects_its_parents,
        );
    };
    (@port $new:expr, containers) => {
        $crate::conformance_tests!(
            @tests $new, containers,
            a_record_has_what_it_was_made_from,
            making_it_again_already_exists,
            what_cannot_run_is_refused,
            a_device_that_the_host_lacks_is_refused,
            a_list_has_every_record_by_id,
            a_switch_replaces_the_record,
            a_switched_container_runs_the_new_way,
            a_switch_leaves_both_snapshots,
            a_container_with_a_task_is_neither_switched_nor_deleted,
            deleting_a_record_leaves_its_snapshot,
            a_missing_record_is_not_found,
        );
    };
    (@port $new:expr, tasks) => {
        $crate::conformance_tests!(
            @tests $new, tasks,
            a_task_is_created_then_running_then_stopped_then_gone,
            creating_it_again_already_exists,
            starting_it_again_conflicts,
            a_task_runs_on_mounts_that_the_caller_knows,
            a_container_that_does_not_exist_has_no_task,
            a_program_that_does_not_exist_leaves_nothing,
            an_exit_code_is_told,
            a_wait_that_began_before_the_end_sees_it,
            a_signal_to_what_ended_is_not_found,
            a_running_task_is_not_deleted,
            a_task_that_never_started_is_deleted,
            a_container_runs_again_after_its_task_was_deleted,
            a_list_has_every_task_once,
            a_stop_asks_first,
            a_stop_kills_what_does_not_listen,
            stopping_again_changes_nothing,
            starts_and_exits_are_told,
            a_command_runs_in_a_running_task,
        );
    };
    (@port $new:expr, images) => {
        $crate::conformance_tests!(
            @tests $new, images,
            a_missing_image_is_not_found,
            a_local_image_is_found_by_its_digest,
            an_import_makes_the_image_local,
            images_are_listed_page_by_page,
            an_imported_image_is_unpacked_once,
            importing_again_changes_nothing,
            an_images_own_name_counts,
            an_archive_that_is_none_is_refused,
            a_wrong_digest_is_corrupt,
            a_deleted_image_leaves_what_was_made_from_it,
            a_pull_makes_the_image_local,
            an_image_that_the_registry_lacks_is_not_found,
            a_registry_that_does_not_answer_is_unavailable,
            a_pull_ends_within_a_second_of_its_cancellation,
        );
    };
    (@port $new:expr, metrics) => {
        $crate::conformance_tests!(
            @tests $new, metrics,
            a_running_task_tells_what_it_uses,
            what_does_not_run_uses_nothing,
        );
    };
    (@port $new:expr, network) => {
        $crate::conformance_tests!(
            @tests $new, network,
            the_gateway_is_in_the_subnet,
            preparing_the_host_again_changes_nothing,
            a_namespace_is_made_once,
            a_connected_container_is_up,
            what_is_not_connected_is_broken,
            another_address_is_not_up,
            an_address_outside_the_subnet_is_refused,
            a_missing_namespace_cannot_be_connected,
            removing_it_leaves_the_others,
        );
    };
    (@port $new:expr, issues) => {
        $crate::conformance_tests!(
            @tests $new, issues,
            a_version_off_the_active_chain_survives_a_rollback,
            a_neighbours_delete_between_commit_and_switch_takes_nothing,
            a_commit_alone_protects,
            a_version_has_the_labels_of_its_commit,
            a_released_parent_goes_with_its_last_child,
            a_rebuilt_container_finds_its_data,
            a_record_that_names_a_missing_snapshot_is_readable,
            an_exited_task_keeps_its_record,
            a_failed_start_can_be_mended,
        );
    };
}
