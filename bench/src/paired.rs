//! The server against the bare sequence, in turns, so that noise meets both alike.

use crate::api::Api;
use crate::bare::Bare;
use crate::server::IMAGE;
use crate::stats::{Samples, timed};
use anyhow::{Result, ensure};
use std::time::Duration;

/// Rounds before the measured ones.
pub(crate) const WARM_UP: usize = 2;

/// The samples of both sides.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    pub(crate) server: Samples,
    pub(crate) bare: Samples,
}

impl Pair {
    pub(crate) fn add(&mut self, round: usize, server: Duration, bare: Duration) {
        if round >= WARM_UP {
            self.server.add(server);
            self.bare.add(bare);
        }
    }

    /// How many times the bare sequence's median the server's is.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.server.median()? / self.bare.median()?)
    }
}

/// Before each round: a process that was started a moment ago may not listen to SIGTERM yet, and the
/// collector and the kernel clean up behind the last round. Longer than the server keeps moves between
/// control groups quick after a start, 250 ms: the other side would profit.
pub(crate) const SETTLE: Duration = Duration::from_millis(300);

/// Runs the two sides one after the other, in another order each round: what the first leaves to
/// the disk, the second pays for.
macro_rules! in_turns {
    ($round:expr, $server:expr, $bare:expr) => {{
        tokio::time::sleep(SETTLE).await;
        if $round % 2 == 0 {
            let server = $server;
            tokio::time::sleep(SETTLE).await;
            (server, $bare)
        } else {
            let bare = $bare;
            tokio::time::sleep(SETTLE).await;
            ($server, bare)
        }
    }};
}

/// From nothing to a running container, the image being local.
pub(crate) async fn create(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    let mut pair = Pair::default();
    for round in 0..WARM_UP + rounds {
        let bot = api.new_bot().await?;
        let (server, (floor, container)) = in_turns!(
            round,
            api.create(&bot, IMAGE).await?,
            timed(bare.create()).await?
        );
        pair.add(round, server, floor);
        bare.delete(container).await?;
        api.delete_bot(&bot).await?;
    }
    Ok(pair)
}

/// Stops and starts the same workspace.
pub(crate) async fn stop_start(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    let mut pair = Pair::default();
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let container = bare.create().await?;
    for round in 0..WARM_UP + rounds {
        let over_http = async {
            api.stop(&bot).await?;
            api.start(&bot).await
        };
        let directly = async {
            bare.stop(&container).await?;
            bare.start(&container).await
        };
        let ((server, ()), (floor, ())) =
            in_turns!(round, timed(over_http).await?, timed(directly).await?);
        pair.add(round, server, floor);
    }
    bare.delete(container).await?;
    api.delete_bot(&bot).await?;
    Ok(pair)
}

/// Snapshots of a running workspace that goes on.
pub(crate) async fn snapshot(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    snapshots(api, bare, rounds, "live").await
}

/// Snapshots of a running workspace, which is stopped for each and runs again afterwards.
pub(crate) async fn snapshot_stop(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    snapshots(api, bare, rounds, "stop").await
}

async fn snapshots(api: &Api, bare: &mut Bare, rounds: usize, mode: &str) -> Result<Pair> {
    let mut pair = Pair::default();
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let mut container = bare.create().await?;
    for round in 0..WARM_UP + rounds {
        let directly = async {
            bare.stop(&container).await?;
            let version = bare.commit(&container).await?;
            bare.switch(&mut container, &version).await?;
            bare.start(&container).await
        };
        let ((server, _), (floor, ())) = in_turns!(
            round,
            timed(api.snapshot_by(&bot, mode)).await?,
            timed(directly).await?
        );
        pair.add(round, server, floor);
    }
    bare.delete(container).await?;
    api.delete_bot(&bot).await?;
    Ok(pair)
}

/// Rollbacks of a running workspace to its version 1. It has run since, so each keeps the present
/// state as a version first.
pub(crate) async fn rollback(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    let mut pair = Pair::default();
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let target = api.snapshot(&bot).await?;
    let mut container = bare.create().await?;
    bare.stop(&container).await?;
    let bare_target = bare.commit(&container).await?;
    bare.switch(&mut container, &bare_target).await?;
    bare.start(&container).await?;
    for round in 0..WARM_UP + rounds {
        let directly = async {
            bare.stop(&container).await?;
            bare.commit(&container).await?;
            bare.switch(&mut container, &bare_target).await?;
            bare.start(&container).await
        };
        let ((server, kept), (floor, ())) = in_turns!(
            round,
            timed(api.rollback(&bot, target)).await?,
            timed(directly).await?
        );
        ensure!(kept, "the rollback made no safety version");
        pair.add(round, server, floor);
    }
    bare.delete(container).await?;
    api.delete_bot(&bot).await?;
    Ok(pair)
}

/// Rollbacks of a stopped workspace that has not run since its version was made: nothing needs to
/// be kept, and no task is ended or started.
pub(crate) async fn rollback_stopped(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    let mut pair = Pair::default();
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    api.stop(&bot).await?;
    let target = api.snapshot(&bot).await?;
    let mut container = bare.create().await?;
    bare.stop(&container).await?;
    let bare_target = bare.commit(&container).await?;
    bare.switch(&mut container, &bare_target).await?;
    for round in 0..WARM_UP + rounds {
        let directly = async {
            let old = Bare::active(&container).to_owned();
            bare.switch(&mut container, &bare_target).await?;
            bare.remove_snapshot(&old).await
        };
        let ((server, kept), (floor, ())) = in_turns!(
            round,
            timed(api.rollback(&bot, target)).await?,
            timed(directly).await?
        );
        ensure!(
            !kept,
            "the rollback made a safety version of an unchanged workspace"
        );
        pair.add(round, server, floor);
    }
    bare.delete_stopped(container).await?;
    api.delete_bot(&bot).await?;
    Ok(pair)
}
