//! Descriptors on the runtime.

use nix::sys::signalfd::SignalFd;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// What owns one descriptor, always the same, and closes it when it is dropped and not before.
pub(crate) trait Owning: AsRawFd {}

impl Owning for OwnedFd {}
impl Owning for SignalFd {}

/// Puts a non-blocking descriptor onto the runtime. Must be called there.
///
/// # Errors
/// It cannot be waited for, or there are too many.
pub(crate) fn register<T: Owning>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what is `Owning` keeps its one descriptor open as long as it lives, and `AsyncFd` owns
    // it from here on.
    #[allow(unsafe_code, reason = "tokio's safe constructors are deprecated")]
    let registered = unsafe { AsyncFd::register(descriptor) };
    Ok(registered?)
}
