//! Samples of one measurement and what the report says of them.

use std::time::{Duration, Instant};

/// Durations in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64() * 1000.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` of the samples are (nearest rank).
    fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among at most some thousand samples"
        )]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    pub(crate) fn p95(&self) -> Option<f64> {
        self.quantile(0.95)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Self {
        let mut samples = Self::default();
        for duration in durations {
            samples.add(duration);
        }
        samples
    }
}

/// How long some work takes.
pub(crate) async fn timed<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Duration, T)> {
    let began = Instant::now();
    let value = work.await?;
    Ok((began.elapsed(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let samples: Samples = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(samples.median(), Some(10.0));
        assert_eq!(samples.p95(), Some(19.0));
        assert_eq!(Samples::default().median(), None);
    }
}
