//! Copying an active snapshot while its task runs.

use crate::cgroup::freezer_path;
use crate::commits::commit_filled;
use crate::config::ContainerdConfig;
use crate::feed::Feed;
use crate::layers::Leased;
use botstead_live_copy::{
    CgroupFreezer, Error as CopyError, FreezeError, Freezer, Frozen, Guard, Options, capture,
};
use botstead_runtime::{CopyReport, Error, ErrorKind, Result, SnapshotCopy};
use botstead_types::SnapshotKey;
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How copies are made on this host.
#[derive(Debug)]
pub(crate) struct Copies {
    config: Arc<ContainerdConfig>,
    feed: Feed,
}

impl Copies {
    pub(crate) fn new(config: Arc<ContainerdConfig>, feed: Feed) -> Self {
        Self { config, feed }
    }

    /// Makes the committed copy. Whatever happens, nothing but it is left. `estimate` is how many bytes
    /// the copy may take; it is only awaited where the disk may have no room for them.
    pub(crate) async fn commit(
        &self,
        snapshots: &Leased<'_>,
        copy: &SnapshotCopy,
        parent: Option<&SnapshotKey>,
        upper: PathBuf,
        estimate: impl Future<Output = Result<u64>>,
        cancel: &CancellationToken,
    ) -> Result<CopyReport> {
        self.require_space(snapshots, &upper, estimate, copy.reserve_bytes)
            .await?;
        let copying = format!("{}-copying", copy.name);
        let made = async {
            let target = snapshots.prepare(&copying, parent).await?;
            let filled = (copying.as_str(), target.clone());
            let report = self.copy(snapshots, copy, upper, target, cancel).await?;
            commit_filled(snapshots, filled, parent, &copy.name, &copy.labels).await?;
            Ok(report)
        };
        let made = made.await;
        if made.is_err() {
            snapshots.remove(&copying).await;
        }
        made
    }

    /// Refuses before anything is copied what would leave less than the reserve.
    async fn require_space(
        &self,
        snapshots: &Leased<'_>,
        upper: &Path,
        estimate: impl Future<Output = Result<u64>>,
        reserve: u64,
    ) -> Result<()> {
        let Ok(stat) = statvfs(upper) else {
            // Running out later is reported then.
            return Ok(());
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        // No part of what the filesystem holds is larger than all of it; to ask is to look at every file.
        if free >= used.saturating_mul(stat.f_frsize).saturating_add(reserve) {
            return Ok(());
        }
        let estimate = estimate.await?;
        if free >= estimate.saturating_add(reserve) || shares_blocks(upper) {
            return Ok(());
        }
        let reason = format!(
            "the copy takes about {estimate} bytes, {free} are free and {reserve} must stay so"
        );
        Err(snapshots.op.fail(ErrorKind::ResourceExhausted, reason))
    }

    async fn copy(
        &self,
        snapshots: &Leased<'_>,
        copy: &SnapshotCopy,
        upper: PathBuf,
        target: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<CopyReport> {
        let group = copy
            .container
            .as_ref()
            .and_then(|container| freezer_path(&self.config.cgroup(container)));
        let guard = self.config.guard.clone();
        let (feed, durable) = (self.feed.clone(), copy.durable);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut copied = tokio::task::spawn_blocking(move || {
            let freezer: Box<dyn Freezer> = match group {
                Some(group) => Box::new(CgroupFreezer::new(group, Guard::new(guard))?),
                None => Box::new(Nobody),
            };
            let options = Options {
                second_pass: feed.second_pass(upper.parent().unwrap_or(&upper)),
                durable,
                ..Options::default()
            };
            capture(
                &upper,
                &target,
                freezer.as_ref(),
                &options,
                &mut (),
                &stopped,
            )
        });
        let copied = tokio::select! {
            copied = &mut copied => copied,
            () = cancel.cancelled() => {
                stop.store(true, Ordering::Relaxed);
                copied.await
            }
        };
        let copied = copied.map_err(|error| {
            snapshots
                .op
                .fail_with(ErrorKind::Internal, "copying broke off", error)
        })?;
        let report = copied.map_err(|error| failed(snapshots, error))?;
        Ok(CopyReport {
            freeze: report.freeze,
            total: report.total,
            copied_bytes: report.copied_bytes,
            files: report.files,
        })
    }
}

fn failed(snapshots: &Leased<'_>, error: CopyError) -> Error {
    let (kind, reason) = match &error {
        full if full.is_disk_full() => return snapshots.op.disk_full(error),
        CopyError::Cancelled => return snapshots.op.cancelled(),
        CopyError::TooManyEntries { .. } => (
            ErrorKind::ResourceExhausted,
            "it has too many files to be copied while it runs; stop it first".to_owned(),
        ),
        error if error.is_temporary() => (ErrorKind::Unavailable, error.to_string()),
        _ => (ErrorKind::Internal, "it cannot be copied".to_owned()),
    };
    snapshots.op.fail_with(kind, reason, error)
}

/// Whether a copy on this filesystem shares its blocks, and so needs none of its own.
fn shares_blocks(upper: &Path) -> bool {
    let folder = upper.parent().unwrap_or(upper);
    let file = || tempfile::tempfile_in(folder).ok();
    let (Some(mut from), Some(to)) = (file(), file()) else {
        return false;
    };
    use std::io::Write;
    from.write_all(&[1; 4096]).is_ok() && rustix::fs::ioctl_ficlone(&to, &from).is_ok()
}

/// The freezer of a tree that nobody writes to.
struct Nobody;

impl Freezer for Nobody {
    fn freeze(&self, _: Duration) -> Result<Box<dyn Frozen>, FreezeError> {
        Ok(Box::new(Nobody))
    }

    fn processes(&self) -> Result<Vec<u32>, CopyError> {
        Ok(Vec::new())
    }
}

impl Frozen for Nobody {
    fn processes(&self) -> Result<Vec<u32>, CopyError> {
        Ok(Vec::new())
    }

    fn since(&self) -> Option<(std::time::Instant, Duration)> {
        None
    }

    fn thaw(self: Box<Self>) -> Result<botstead_live_copy::Thaw, CopyError> {
        Ok(botstead_live_copy::Thaw::InTime {
            frozen: Duration::ZERO,
        })
    }
}
