//! What workspaces use: processor, memory and the writable layer.
//!
//! Usage is read on request, from the kernel's counters; the percentage is the difference to an
//! earlier reading, so that no request waits between two. The writable layer is measured in the
//! background, at most once a minute, because that walks its files.

use crate::Result;
use crate::model::{StorageUsage, WorkspaceMetrics};
use crate::service::{Inner, Workspaces};
use botstead_authz::{Action, Actor};
use botstead_runtime::{ErrorKind, Usage};
use botstead_store::ContainerRecord;
use botstead_types::{BotId, ContainerId};
use chrono::{DateTime, Utc};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An earlier reading that is younger than this is too close for a percentage.
const MIN_SPAN: Duration = Duration::from_millis(500);
/// How often running workspaces are read without anybody asking.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// How long a measurement of the writable layer counts as new.
const STORAGE_FRESH_SECONDS: i64 = 60;

/// Earlier readings.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    bots: Mutex<HashMap<BotId, Sample>>,
}

#[derive(Debug, Default)]
struct Sample {
    running: bool,
    cpu: Option<(Instant, u64)>,
    percent: f64,
    storage: Option<StorageUsage>,
    measuring: bool,
}

impl Samples {
    fn table(&self) -> MutexGuard<'_, HashMap<BotId, Sample>> {
        self.bots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_running(&self, bot: BotId) {
        self.table().entry(bot).or_default().running = true;
    }

    /// The task ended: its counters begin at zero next time.
    pub(crate) fn forget_task(&self, bot: BotId) {
        if let Some(sample) = self.table().get_mut(&bot) {
            sample.running = false;
            sample.cpu = None;
            sample.percent = 0.0;
        }
    }

    pub(crate) fn forget(&self, bot: BotId) {
        self.table().remove(&bot);
    }

    /// Forgets bots that are none of these: an event may come after its bot was deleted.
    pub(crate) fn keep(&self, known: &HashSet<BotId>) {
        self.table().retain(|bot, _| known.contains(bot));
    }

    pub(crate) fn running(&self) -> u64 {
        self.table()
            .values()
            .filter(|sample| sample.running)
            .count() as u64
    }

    /// Takes a reading in and tells the percentage since the one before.
    fn percent(&self, bot: BotId, now: Instant, nanoseconds: u64) -> f64 {
        let mut table = self.table();
        let sample = table.entry(bot).or_default();
        match sample.cpu {
            Some((then, _)) if now.saturating_duration_since(then) < MIN_SPAN => {}
            Some((then, before)) => {
                let span = now.saturating_duration_since(then).as_nanos();
                let used = nanoseconds.saturating_sub(before);
                #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
                let percent = used as f64 * 100.0 / span as f64;
                sample.percent = percent;
                sample.cpu = Some((now, nanoseconds));
            }
            None => sample.cpu = Some((now, nanoseconds)),
        }
        sample.percent
    }

    /// The last measurement of the writable layer, and whether the caller should make a new one.
    fn storage(&self, bot: BotId, now: DateTime<Utc>) -> (Option<StorageUsage>, bool) {
        let mut table = self.table();
        let sample = table.entry(bot).or_default();
        let old = sample.storage.is_none_or(|storage| {
            (now - storage.sampled_at).num_seconds() >= STORAGE_FRESH_SECONDS
        });
        let measure = old && !sample.measuring;
        sample.measuring |= measure;
        (sample.storage, measure)
    }

    fn measured(&self, bot: BotId, storage: Option<StorageUsage>) {
        if let Some(sample) = self.table().get_mut(&bot) {
            sample.measuring = false;
            sample.storage = storage.or(sample.storage);
        }
    }
}

impl Workspaces {
    /// What the workspace uses. A bot without one, and a host that cannot tell, are no errors.
    ///
    /// # Errors
    /// `BotNotFound`; the runtime does not answer.
    pub async fn metrics(&self, actor: &Actor, bot: BotId) -> Result<WorkspaceMetrics> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ReadWorkspace, bot).await?;
        let backend = inner.runtime.backend.capabilities();
        let mut metrics = WorkspaceMetrics {
            backend: backend.backend.clone(),
            unsupported_reason: None,
            exists: false,
            task_running: false,
            usage: None,
            cpu_percent: 0.0,
            sampled_at: None,
            storage: None,
        };
        let Some(record) = inner.record(bot).await? else {
            return Ok(metrics);
        };
        metrics.exists = true;
        match inner.read_usage(bot, &record.container).await {
            Ok((usage, percent)) => {
                metrics.task_running = true;
                metrics.usage = Some(usage);
                metrics.cpu_percent = percent;
                metrics.sampled_at = Some(Utc::now());
            }
            Err(error) if error.is_not_found() => {}
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                metrics.unsupported_reason = Some(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        metrics.storage = inner.storage(&record);
        Ok(metrics)
    }
}

impl Inner {
    async fn read_usage(
        &self,
        bot: BotId,
        container: &ContainerId,
    ) -> Result<(Usage, f64), botstead_runtime::Error> {
        let usage = self.runtime.metrics.usage(container).await?;
        let percent = self
            .samples
            .percent(bot, Instant::now(), usage.cpu.usage_nanoseconds);
        Ok((usage, percent))
    }

    fn storage(self: &Arc<Self>, record: &ContainerRecord) -> Option<StorageUsage> {
        let (last, measure) = self.samples.storage(record.bot, Utc::now());
        if measure {
            let inner = Arc::clone(self);
            let (bot, key) = (record.bot, record.snapshot.clone());
            self.spawn(async move {
                let usage = inner.runtime.snapshots.usage(&key).await;
                let storage = usage.ok().map(|usage| StorageUsage {
                    used_bytes: usage.size_bytes,
                    sampled_at: Utc::now(),
                });
                inner.samples.measured(bot, storage);
            });
        }
        last
    }

    /// Reads what runs now and then, so that a request finds an earlier reading.
    pub(crate) async fn sample_usage(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SAMPLE_EVERY).await;
            let running: Vec<BotId> = {
                let table = self.samples.table();
                table
                    .iter()
                    .filter(|(_, sample)| sample.running)
                    .map(|(bot, _)| *bot)
                    .collect()
            };
            for bot in running {
                let container = ContainerId::for_bot(bot);
                match self.read_usage(bot, &container).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => self.samples.forget_task(bot),
                    Err(error) => {
                        tracing::debug!(%bot, error = %error.chain(), "cannot read usage");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentage_is_the_difference_between_two_readings() {
        let samples = Samples::default();
        let bot = BotId::generate();
        let start = Instant::now();
        assert_eq!(samples.percent(bot, start, 5_000_000_000), 0.0);
        let half = samples.percent(bot, start + Duration::from_secs(2), 6_000_000_000);
        assert!((half - 50.0).abs() < 0.001);
        let soon = samples.percent(bot, start + Duration::from_millis(2100), 9_000_000_000);
        assert!(
            (soon - 50.0).abs() < 0.001,
            "a reading too close changes nothing"
        );
        samples.forget_task(bot);
        assert_eq!(samples.percent(bot, start + Duration::from_secs(4), 1), 0.0);
    }

    #[test]
    fn storage_is_measured_by_one_at_a_time_and_at_most_once_a_minute() {
        let samples = Samples::default();
        let (bot, now) = (BotId::generate(), Utc::now());
        assert_eq!(samples.storage(bot, now), (None, true));
        assert_eq!(samples.storage(bot, now), (None, false));
        let storage = StorageUsage {
            used_bytes: 7,
            sampled_at: now,
        };
        samples.measured(bot, Some(storage));
        assert_eq!(samples.storage(bot, now), (Some(storage), false));
        let later = now + chrono::TimeDelta::seconds(60);
        assert_eq!(samples.storage(bot, later), (Some(storage), true));
    }
}
