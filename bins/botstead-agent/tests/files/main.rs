//! The service `Files` over a real socket, on real files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod archive;
mod changes;
mod copy;
mod hostile;
mod list;
mod load;
mod race;
mod read;
mod search;
mod support;
mod users;
mod watch;
mod write;
