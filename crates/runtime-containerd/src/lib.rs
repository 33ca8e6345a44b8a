//! The runtime ports on containerd 1.6, 1.7 and 2.x.

mod client;
pub mod daemon;
pub mod images;
mod op;
