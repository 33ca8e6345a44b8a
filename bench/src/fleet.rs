//! Many workspaces: creating them side by side, reading while they are there, and memory.

use crate::api::Api;
use crate::server::{IMAGE, Server, memory};
use crate::stats::{Samples, timed};
use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::time::{Duration, Instant};

/// Creations at a time.
pub(crate) const AT_A_TIME: usize = 8;

/// What was measured with the fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) workspaces: usize,
    pub(crate) total: Duration,
    pub(crate) each: Samples,
    /// Read calls by what the report calls them.
    pub(crate) reads: Vec<(&'static str, Samples)>,
    pub(crate) server: Memory,
    pub(crate) containerd: Memory,
    /// All shims together.
    pub(crate) shims: Memory,
}

/// KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) proportional: u64,
}

impl Memory {
    fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let (resident, proportional) = memory(*pid)?;
            sum.resident += resident;
            sum.proportional += proportional;
        }
        Ok(sum)
    }
}

/// So many bots with a workspace that runs.
pub(crate) async fn create_all(api: &Api, workspaces: usize) -> Result<Vec<String>> {
    let mut bots = Vec::new();
    for _ in 0..workspaces {
        bots.push(api.new_bot().await?);
    }
    stream::iter(&bots)
        .map(|bot| api.create(bot, IMAGE))
        .buffer_unordered(AT_A_TIME)
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(bots)
}

pub(crate) async fn delete_all(api: &Api, bots: &[String]) -> Result<()> {
    stream::iter(bots)
        .map(|bot| api.delete_bot(bot))
        .buffer_unordered(4)
        .try_for_each(async |()| Ok(()))
        .await
}

/// Creates the fleet, measures with it and removes it.
pub(crate) async fn measure(server: &Server, workspaces: usize, reads: usize) -> Result<Fleet> {
    let api = &server.api;
    let mut bots = Vec::new();
    for _ in 0..workspaces {
        bots.push(api.new_bot().await?);
    }
    let began = Instant::now();
    let each: Vec<Duration> = stream::iter(&bots)
        .map(|bot| api.create(bot, IMAGE))
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await?;
    let total = began.elapsed();
    // A version each, so that lists have something to show.
    stream::iter(&bots)
        .map(|bot| api.snapshot(bot))
        .buffer_unordered(4)
        .try_for_each(async |_| Ok(()))
        .await?;
    let fleet = Fleet {
        workspaces,
        total,
        each: each.into_iter().collect(),
        reads: vec![
            ("GET", read(api, &bots, "", reads).await?),
            ("GET metrics", read(api, &bots, "/metrics", reads).await?),
            (
                "GET snapshots",
                read(api, &bots, "/snapshots", reads).await?,
            ),
        ],
        server: Memory::of(&[server.pid()])?,
        containerd: Memory::of(&[server.containerd_pid().await?])?,
        shims: Memory::of(&server.shims()?)?,
    };
    delete_all(api, &bots).await?;
    Ok(fleet)
}

/// One call after the other, to the workspaces in turn.
async fn read(api: &Api, bots: &[String], what: &str, count: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    for bot in bots.iter().cycle().take(count) {
        let (duration, _) = timed(api.get(bot, what)).await?;
        samples.add(duration);
    }
    Ok(samples)
}
