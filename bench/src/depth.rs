//! A workspace with a long history: does it start and look files up as on its first day?

use crate::api::Api;
use crate::server::IMAGE;
use crate::stats::{Samples, timed};
use anyhow::{Context, Result};
use std::time::Duration;

/// How much history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// Snapshots of the stopped workspace.
    pub(crate) snapshots: usize,
    /// Rounds of rollback and snapshot after them.
    pub(crate) rounds: usize,
    /// Starts measured before and after.
    pub(crate) starts: usize,
    /// Lookups in each measurement.
    pub(crate) lookups: u32,
}

/// How a workspace behaves at one point of its history.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) start: Samples,
    /// A lookup of a path that does not exist.
    pub(crate) failed_lookup: Duration,
}

/// The case and its figures.
#[derive(Debug)]
pub(crate) struct Depth {
    pub(crate) counts: Counts,
    pub(crate) first: Point,
    pub(crate) after_snapshots: Point,
    pub(crate) end: Point,
    pub(crate) snapshots: Samples,
    pub(crate) rollbacks: Samples,
}

/// Makes the history and measures before, between and after.
pub(crate) async fn measure(api: &Api, counts: Counts) -> Result<Depth> {
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let first = point(api, &bot, counts, "first").await?;
    let mut snapshots = Samples::default();
    let mut last = 0;
    for number in 0..counts.snapshots {
        let (duration, version) = timed(api.snapshot(&bot))
            .await
            .with_context(|| format!("snapshot {}", number + 1))?;
        snapshots.add(duration);
        last = version;
    }
    api.start(&bot).await.context("start after the snapshots")?;
    let after_snapshots = point(api, &bot, counts, "middle").await?;
    let mut rollbacks = Samples::default();
    for round in 0..counts.rounds {
        // To old and new versions in turn.
        let target = if round % 2 == 0 { last } else { last / 2 + 1 };
        let (duration, _) = timed(api.rollback(&bot, target))
            .await
            .with_context(|| format!("rollback {}", round + 1))?;
        rollbacks.add(duration);
        api.snapshot(&bot).await?;
    }
    api.start(&bot).await.context("start at the end")?;
    let end = point(api, &bot, counts, "end").await?;
    api.delete_bot(&bot).await?;
    Ok(Depth {
        counts,
        first,
        after_snapshots,
        end,
        snapshots,
        rollbacks,
    })
}

/// Measures a running workspace and leaves it stopped.
async fn point(api: &Api, bot: &str, counts: Counts, name: &str) -> Result<Point> {
    // New names each time: the kernel remembers that a name does not exist, and overlayfs asks
    // every layer only the first time. The same loop with a name that exists is the shell's share.
    let line = |test: &str| {
        format!(
            "i=0; while [ $i -lt {} ]; do [ -e {test} ]; i=$((i+1)); done; true",
            counts.lookups
        )
    };
    api.shell(bot, &line("/")).await?;
    let shell = api.shell(bot, &line("/")).await?;
    let missing = api.shell(bot, &line(&format!("/nope-{name}-$i"))).await?;
    let mut start = Samples::default();
    for _ in 0..counts.starts {
        // So that the process listens to SIGTERM by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        api.stop(bot).await?;
        start.add(timed(api.start(bot)).await?.0);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    api.stop(bot).await?;
    Ok(Point {
        start,
        failed_lookup: missing.saturating_sub(shell) / counts.lookups.max(1),
    })
}
