//! Reading the answers of registries at a pace: one that sends a byte now and then keeps every timeout
//! between two bytes, and whoever waits for it waits for ever.

use super::http::broken;
use super::retry::Fault;
use crate::op::Op;
use botstead_runtime::ErrorKind;
use bytes::Bytes;
use reqwest::{Response, Url};
use std::time::{Duration, Instant};

/// The least that a registry must send in each `read_timeout`.
pub(super) const SLOWEST: u64 = 64 << 10;

/// An answer whose body is read. It fails when it comes too slowly.
#[derive(Debug)]
pub(super) struct Reading {
    response: Response,
    pace: Pace,
}

impl Reading {
    /// `window` is how long less than [`SLOWEST`] may take.
    pub(super) fn of(response: Response, window: Duration) -> Self {
        Self {
            response,
            pace: Pace::new(window),
        }
    }

    pub(super) fn response(&self) -> &Response {
        &self.response
    }

    /// The next piece; none at the end. Failures can be others later; `from` is whom they speak of.
    pub(super) async fn chunk(&mut self, op: &Op, from: &Url) -> Result<Option<Bytes>, Fault> {
        let began = Instant::now();
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|error| broken(op, from, error))?;
        if let Some(chunk) = &chunk
            && !self.pace.keeps(began.elapsed(), chunk.len() as u64)
        {
            let reason = format!(
                "the registry sends less than {} KiB in {} s; try again later, or use another registry that \
                 has it",
                SLOWEST >> 10,
                self.pace.window.as_secs()
            );
            return Err(Fault::transient(op.fail(ErrorKind::Unavailable, reason)));
        }
        Ok(chunk)
    }
}

/// What came in the present window. Only waiting for the other side counts: what is done with the pieces
/// takes its own time.
#[derive(Debug)]
struct Pace {
    window: Duration,
    waited: Duration,
    received: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self {
            window,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// Counts a piece; false when the window is over and too little came.
    fn keeps(&mut self, waited: Duration, received: u64) -> bool {
        self.waited += waited;
        self.received += received;
        if self.waited < self.window {
            return true;
        }
        let enough = self.received >= SLOWEST;
        (self.waited, self.received) = (Duration::ZERO, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_must_have_enough() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(second * 10);
        // Fast once does not help later.
        assert!(pace.keeps(second, 1 << 30));
        for _ in 0..9 {
            assert!(pace.keeps(second, 1));
        }
        for _ in 0..9 {
            assert!(pace.keeps(second, 1));
        }
        assert!(!pace.keeps(second, 1));
        for _ in 0..100 {
            assert!(pace.keeps(second, SLOWEST / 10 + 1));
        }
        // A window that is over with one piece.
        assert!(pace.keeps(second * 20, SLOWEST));
        assert!(!pace.keeps(second * 20, SLOWEST - 1));
    }
}
