//! Freezing processes and letting them go on, with the promise that nobody stays frozen. The port, and
//! its implementation for control groups; what is done in between is not known here.

mod cgroup;
mod guard;

use crate::Error;
pub use cgroup::CgroupFreezer;
pub use guard::Guard;
use std::time::{Duration, Instant};

/// Freezes all processes that may change a tree.
pub trait Freezer {
    /// Freezes them and waits until all stand still, no longer than `deadline`.
    ///
    /// Those that were frozen already, by someone who paused them, stay so afterwards.
    ///
    /// # Errors
    /// After any of them nobody is left frozen that was not before.
    fn freeze(&self, deadline: Duration) -> Result<Box<dyn Frozen>, FreezeError>;

    /// The processes as of now, as the caller's process namespace numbers them.
    ///
    /// # Errors
    /// [`Error::Group`].
    fn processes(&self) -> Result<Vec<u32>, Error>;
}

/// Why processes were not frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// Not all stood still in time. Another attempt may succeed.
    #[error("the processes did not freeze within {waited:?}")]
    Slow {
        /// How long was waited.
        waited: Duration,
    },
    /// It cannot be done.
    #[error("the processes cannot be frozen")]
    Failed(#[from] Error),
}

/// Processes that stand still. Dropping it lets them go on.
pub trait Frozen {
    /// All of them. None can begin while it lives.
    ///
    /// # Errors
    /// [`Error::Group`].
    fn processes(&self) -> Result<Vec<u32>, Error>;

    /// When they were told to stand still, and for how long that is safe. Absent when someone else had
    /// frozen them before.
    fn since(&self) -> Option<(Instant, Duration)>;

    /// Lets them go on, unless someone else had frozen them before, and tells whether they stood still
    /// all the time.
    ///
    /// # Errors
    /// [`Error::Group`]; then the guard lets them go on.
    fn thaw(self: Box<Self>) -> Result<Thaw, Error>;
}

/// Whether processes stood still until they were let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thaw {
    /// They did.
    InTime {
        /// For so long at most; zero when someone else had frozen them.
        frozen: Duration,
    },
    /// The guard may have let them go before.
    TooLate,
    /// Someone else let them go before.
    Interfered,
}
