//! One case each: what a copy has, what it must not have, and what it must not miss.
//!
//! Needs root and BOTSTEAD_TEST_AGENT. LIVE_COPY_TEST_ROUNDS makes the cases that go by chance take more
//! rounds than 15.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "what this host cannot do")]

mod everything;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
mod unseen;

#[test]
#[ignore = "what the children of the other tests do"]
fn child() {
    support::child(&[
        ("idle", |_| support::changed::idle()),
        ("map", |_| unseen::map_and_store()),
        ("map-briefly", |_| unseen::map_briefly()),
        ("same-tick", |_| unseen::change_in_the_same_tick()),
        ("grow", |_| unseen::grow()),
        ("nameless", |_| unseen::keep_what_has_no_name()),
        ("in-flight", |_| unseen::keep_in_flight()),
        ("copied-up", |_| {
            unseen::send_into_a_file_that_was_copied_up();
        }),
        ("alias", |_| unseen::write_by_a_name_that_is_gone()),
        ("pipe", |_| shapes::wait_at_a_pipe()),
    ]);
}
