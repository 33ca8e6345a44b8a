//! This build of the server beside another one, in turns in the same run: what a change is worth is
//! seen on a machine that is never quiet.

use crate::api::Api;
use crate::idle::{self, Idle};
use crate::load::{self, Load};
use crate::paired::{SETTLE, WARM_UP};
use crate::server::{IMAGE, Server};
use crate::stats::{Samples, timed};
use anyhow::{Result, ensure};
use std::time::Duration;

/// What is compared, and the most that it may take of the other build's time.
const OPERATIONS: &[(Operation, &str, Option<f64>)] = &[
    (
        Operation::FirstCommand,
        "create to first command",
        Some(0.75),
    ),
    (Operation::Create, "create", None),
    (Operation::StopStart, "stop + start", None),
    (Operation::Rollback, "rollback, running", Some(0.8)),
    (Operation::SnapshotStop, "snapshot, stopping", None),
    (Operation::Command, "command", None),
];

/// How much of it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) idle_workspaces: usize,
    pub(crate) idle_window: Duration,
    pub(crate) load_workspaces: usize,
    pub(crate) load_rounds: usize,
}

/// An operation on both builds.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) target: Option<f64>,
    pub(crate) this: Samples,
    pub(crate) other: Samples,
}

/// What was compared, this build first.
#[derive(Debug)]
pub(crate) struct Against {
    pub(crate) rows: Vec<Row>,
    pub(crate) idle: (Idle, Idle),
    pub(crate) load: (Load, Load),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    FirstCommand,
    Create,
    StopStart,
    Rollback,
    SnapshotStop,
    Command,
}

/// Compares the two servers, which both run.
pub(crate) async fn measure(this: &Server, other: &Server, extent: Extent) -> Result<Against> {
    let mut rows = Vec::new();
    for &(operation, name, target) in OPERATIONS {
        println!("    {name}");
        let mut row = Row {
            name,
            target,
            this: Samples::default(),
            other: Samples::default(),
        };
        let sides = (
            Side::begin(&this.api, operation).await?,
            Side::begin(&other.api, operation).await?,
        );
        for round in 0..WARM_UP + extent.rounds {
            tokio::time::sleep(SETTLE).await;
            // What the first leaves to the disk, the second pays for.
            let (ours, theirs) = if round % 2 == 0 {
                let ours = sides.0.once().await?;
                tokio::time::sleep(SETTLE).await;
                (ours, sides.1.once().await?)
            } else {
                let theirs = sides.1.once().await?;
                tokio::time::sleep(SETTLE).await;
                (sides.0.once().await?, theirs)
            };
            if round >= WARM_UP {
                row.this.add(ours);
                row.other.add(theirs);
            }
        }
        sides.0.end().await?;
        sides.1.end().await?;
        rows.push(row);
    }
    println!("    {} idle workspaces", extent.idle_workspaces);
    let (workspaces, window) = (extent.idle_workspaces, extent.idle_window);
    let idle = (
        idle::measure(this, workspaces, window).await?,
        idle::measure(other, workspaces, window).await?,
    );
    println!("    memory");
    let (workspaces, rounds) = (extent.load_workspaces, extent.load_rounds);
    let load = (
        load::measure(this, workspaces, rounds).await?,
        load::measure(other, workspaces, rounds).await?,
    );
    Ok(Against { rows, idle, load })
}

/// One server's part in an operation.
struct Side<'a> {
    api: &'a Api,
    operation: Operation,
    /// The workspace that all rounds use, where they use one, and its version 1.
    bot: Option<(String, u64)>,
}

impl<'a> Side<'a> {
    async fn begin(api: &'a Api, operation: Operation) -> Result<Self> {
        let bot = match operation {
            Operation::FirstCommand | Operation::Create => None,
            Operation::StopStart
            | Operation::Rollback
            | Operation::SnapshotStop
            | Operation::Command => {
                let bot = api.new_bot().await?;
                api.create(&bot, IMAGE).await?;
                let version = api.snapshot(&bot).await?;
                Some((bot, version))
            }
        };
        Ok(Self {
            api,
            operation,
            bot,
        })
    }

    async fn once(&self) -> Result<Duration> {
        let Self { api, .. } = self;
        let Some((bot, version)) = &self.bot else {
            let bot = api.new_bot().await?;
            let work = async {
                let created = api.create(&bot, IMAGE).await?;
                if self.operation == Operation::FirstCommand {
                    api.exec(&bot, &["/bin/true"]).await?;
                }
                Ok(created)
            };
            let (all, created) = timed(work).await?;
            api.delete_bot(&bot).await?;
            return Ok(match self.operation {
                Operation::Create => created,
                _ => all,
            });
        };
        let work = async {
            match self.operation {
                Operation::StopStart => {
                    api.stop(bot).await?;
                    api.start(bot).await?;
                }
                Operation::Rollback => {
                    let kept = api.rollback(bot, *version).await?;
                    ensure!(kept, "the rollback made no safety version");
                }
                Operation::SnapshotStop => {
                    api.snapshot_by(bot, "stop").await?;
                }
                Operation::Command | Operation::FirstCommand | Operation::Create => {
                    api.exec(bot, &["/bin/true"]).await?;
                }
            }
            Ok(())
        };
        let (took, ()) = timed(work).await?;
        Ok(took)
    }

    async fn end(self) -> Result<()> {
        match &self.bot {
            Some((bot, _)) => self.api.delete_bot(bot).await,
            None => Ok(()),
        }
    }
}
