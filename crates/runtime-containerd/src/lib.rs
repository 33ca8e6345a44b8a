//! The runtime ports on containerd 1.6, 1.7 and 2.x.

#[allow(
    dead_code,
    reason = "the containers, tasks and snapshots that use the rest are on their way"
)]
mod client;
pub mod images;
mod op;
