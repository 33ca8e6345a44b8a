//! What the caller decides about a copy, and is told meanwhile.

use crate::freezer::Frozen;
use crate::report::{Progress, SecondPass};
use std::error::Error;
use std::time::Duration;

/// What the caller decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to find the last changes. [`SecondPass::Feed`] when
    /// [`ChangeFeed::probe`](crate::ChangeFeed::probe) succeeded; it may still come out as the walk, which
    /// the report says.
    pub second_pass: SecondPass,
    /// While the processes run, what changed is copied again and again until the freeze is estimated to
    /// be this short, or it gets no shorter.
    pub freeze_target: Duration,
    /// A freeze that takes longer than this, or half of the guard's time, is given up.
    pub freeze_limit: Duration,
    /// How long the first attempt waits until all processes stand still; each further one waits twice as
    /// long.
    pub freeze_deadline: Duration,
    /// How often to freeze before giving up. At least once.
    pub attempts: u32,
    /// How often to copy what changed, between two attempts, at most.
    pub rounds: u32,
    /// How much memory all copies of this process may take for what they remember of their trees, in
    /// bytes: some 200 per entry. A copy that would take more is given up, but each has a 64th of it
    /// for itself.
    pub memory_limit: u64,
    /// Whether the copy is on the disk at the end. One that is only read and goes soon need not be.
    pub durable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            second_pass: SecondPass::Feed,
            freeze_target: Duration::from_millis(8),
            freeze_limit: Duration::from_secs(1),
            freeze_deadline: Duration::from_millis(50),
            attempts: 5,
            rounds: 5,
            memory_limit: 1 << 30,
            durable: true,
        }
    }
}

/// Who is told what happens. `()` is nobody.
pub trait Observer {
    /// Called for every entry copied while the processes run, and at the begin of every phase. Has to
    /// be quick.
    fn progress(&mut self, progress: Progress) {
        let _ = progress;
    }

    /// Called when the copy is complete but for what is remembered, and before the processes go on. The
    /// time that it takes is part of the freeze.
    ///
    /// It may be called again: an attempt that turns out to have taken too long is repeated.
    ///
    /// # Errors
    /// End the copy with [`Error::BeforeThaw`](crate::Error::BeforeThaw).
    fn before_thaw(&mut self, frozen: &dyn Frozen) -> Result<(), Box<dyn Error + Send + Sync>> {
        let _ = frozen;
        Ok(())
    }
}

impl Observer for () {}
