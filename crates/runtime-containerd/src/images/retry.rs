//! Trying again what can succeed later.

use super::config::RegistryConfig;
use crate::op::Op;
use botstead_runtime::Error;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

const MAX_PAUSE: Duration = Duration::from_secs(10);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// A failure, and whether the same can succeed later.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) transient: bool,
    /// How long the registry asks to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Fault {
    pub(super) fn transient(error: Error) -> Self {
        Self {
            error,
            transient: true,
            retry_after: None,
        }
    }
}

/// For good, unless said otherwise.
impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self {
            error,
            transient: false,
            retry_after: None,
        }
    }
}

/// The attempts at one thing.
#[derive(Debug)]
pub(super) struct Attempts {
    left: u32,
    all: u32,
    pause: Duration,
    first_pause: Duration,
}

impl Attempts {
    pub(super) fn new(config: &RegistryConfig, attempts: u32) -> Self {
        let all = attempts.max(1);
        Self {
            left: all,
            all,
            pause: config.backoff,
            first_pause: config.backoff,
        }
    }

    /// Says that the last attempt got on, so that they are counted afresh.
    pub(super) fn progressed(&mut self) {
        self.left = self.all;
        self.pause = self.first_pause;
    }

    /// Waits before the next attempt, or gives the failure back when there is none.
    pub(super) async fn next(&mut self, op: &Op, fault: Fault) -> Result<(), Error> {
        self.left -= 1;
        if !fault.transient || self.left == 0 {
            return Err(fault.error);
        }
        let pause = fault
            .retry_after
            .map_or_else(|| jitter(self.pause), |asked| asked.min(MAX_RETRY_AFTER));
        tracing::debug!(?op, error = %fault.error.chain(), ?pause, "trying again");
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Between half of it and all of it, so that many clients of one registry do not come back at once.
fn jitter(pause: Duration) -> Duration {
    // Each `RandomState` has keys of its own: random enough to spread clients.
    let random = RandomState::new().hash_one(0u8) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_runtime::ErrorKind;

    fn fault(op: &Op) -> Fault {
        Fault::transient(op.fail(ErrorKind::Unavailable, "try later"))
    }

    #[tokio::test]
    async fn attempts_end_and_progress_renews_them() {
        let op = Op::new("pull image", "a");
        let config = RegistryConfig {
            backoff: Duration::from_millis(1),
            ..RegistryConfig::default()
        };
        let mut attempts = Attempts::new(&config, 2);
        assert!(attempts.next(&op, fault(&op)).await.is_ok());
        attempts.progressed();
        assert!(attempts.next(&op, fault(&op)).await.is_ok());
        assert!(attempts.next(&op, fault(&op)).await.is_err());
    }

    #[tokio::test]
    async fn what_is_final_is_not_tried_again() {
        let op = Op::new("pull image", "a");
        let mut attempts = Attempts::new(&RegistryConfig::default(), 4);
        let fault = Fault::from(op.fail(ErrorKind::NotFound, "no"));
        assert!(attempts.next(&op, fault).await.is_err());
    }

    #[test]
    fn pauses_vary_within_bounds() {
        let pause = Duration::from_secs(1);
        for _ in 0..100 {
            let varied = jitter(pause);
            assert!(varied >= pause / 2 && varied <= pause, "{varied:?}");
        }
    }
}
