//! The runtime ports on containerd 1.6, 1.7 and 2.x.

mod client;
mod flatten;
pub mod images;
mod op;
