//! Why a step ended early, within the crate.

use crate::Error;
use crate::report::Reason;
use crate::stop::Stop;

/// The result of a step.
pub(crate) type Step<T> = Result<T, Halt>;

/// Why it ended early.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The copy failed.
    Failed(Error),
    /// The processes may not be frozen any longer; it can be tried again.
    OutOfTime,
    /// The change feed cannot be used; the walk can.
    Feed(Reason),
}

impl Halt {
    /// After [`Stop::is_due`].
    pub(crate) fn stopped(stop: Stop<'_>) -> Self {
        if stop.is_cancelled() {
            Self::Failed(Error::Cancelled)
        } else {
            Self::OutOfTime
        }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
