//! What another thread sees of a running export or import, and how it ends one.

use crate::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What another thread sees of a running export or import, and how it ends one.
///
/// Numbers only grow. One `Progress` counts what it is given to: an import that checks and then applies
/// counts its entries twice, unless each stage gets its own.
#[derive(Debug, Default)]
pub struct Progress {
    cancelled: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the work with [`Error::Cancelled`], within the reading of some hundred kilobytes. Once
    /// cancelled, it stays so.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Entries done.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes done: of files' data when exporting, of the unpacked archive when importing.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn entry(&self) {
        self.entries.fetch_add(1, Relaxed);
    }

    /// Counts bytes, and is the place where work ends.
    pub(crate) fn advance(&self, bytes: usize) -> Result<(), Error> {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if self.cancelled.load(Relaxed) {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}
