//! When to give up: the caller's wish, and the time that processes may be frozen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Asked wherever work could go on for long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop<'a> {
    cancelled: &'a AtomicBool,
    until: Option<Instant>,
}

impl<'a> Stop<'a> {
    pub(crate) fn new(cancelled: &'a AtomicBool) -> Self {
        Self {
            cancelled,
            until: None,
        }
    }

    /// Also stops at a time.
    pub(crate) fn until(self, until: Instant) -> Self {
        Self {
            until: Some(until),
            ..self
        }
    }

    /// Whether to give up.
    pub(crate) fn is_due(&self) -> bool {
        self.is_cancelled() || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether it is the caller's wish.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
