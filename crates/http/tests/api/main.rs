//! The API over a real socket: every route's way to success, and how it fails.

// Clippy takes only functions with #[test] for tests; these modules are nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acknowledgements;
mod bodies;
mod broken;
mod connections;
mod container;
mod files;
mod head;
mod hostile;
mod log;
mod messages;
mod people;
mod preserved;
mod queries;
mod rules;
mod sessions;
mod sign_in;
mod stalled;
mod support;
mod uploads;
