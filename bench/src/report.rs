//! The tables of docs/BENCHMARKS.md.

mod inside;
mod many;
mod versions;

use crate::against::Against;
use crate::depth::{Depth, Point};
use crate::export::Export;
use crate::fleet::{AT_A_TIME, Fleet, Memory};
use crate::freeze::Freeze;
use crate::idle::Idle;
use crate::inside::Files;
use crate::load::Load;
use crate::machine::Machine;
use crate::paired::Pair;
use crate::stats::Samples;
use crate::terminals::Terminals;
use std::fmt::Write;

/// The most that an operation may take of the bare sequence's time.
const MOST: f64 = 1.3;
/// The most that the median of a read may take, in ms.
const MOST_READ: f64 = 5.0;

const INTRODUCTION: &str = "\
# Benchmarks

<!-- Written by `cargo xtask bench`; what is said here is in bench/src/report.rs. -->

`cargo xtask bench` starts a release build of the server with a containerd of its own and measures
through HTTP. Times are in ms: medians, and in the column p95 the value below which 95 % of the
measurements are.
";

const PAIRED: &str = "
## Operations against the bare containerd sequence

*Bare* is the sequence of containerd calls that any service must make, in the same run, on the same
containerd and in turns with the server: the server's own OCI spec, a network namespace wired by the
same driver, namespace and snapshot made at the same time and wired while the task is created; no
database, no HTTP, no leases. *Ratio* is the server's median over the bare one; the target is 1.3.

| operation | n | p50 | p95 | bare p50 | bare p95 | ratio | target |
|---|---|---|---|---|---|---|---|
";

const PAIRED_NOTES: &str = "
- create to first command: from `POST /container` until `POST /exec` of `true` was answered, which is
  when a bot can begin, both over a connection that was used before and is kept alive. Bare: as for create, that is until the task runs, without any command.
- create: from `POST /container` until its `complete` event arrived, the image being local. Bare:
  namespace and snapshot, container, task and wiring, start.
- stop + start: the two calls one after the other. Bare: SIGTERM, wait, delete the task, remove the
  network; namespace, task and wiring, start.
- rollback, running: to version 1, the present state being kept as a version. Bare: stop, commit,
  prepare, update the container, start.
- rollback, stopped: of a workspace that has not run since its version, so that nothing is kept and
  no task is involved; what remains is the durable record of the operation. Bare: prepare, update,
  remove the old snapshot.
- snapshot, live: the workspace goes on. Bare: what a runtime alone offers, stop, commit, prepare, update the
  container, start.
- snapshot, stopping: the workspace is stopped for it and runs again at the answer. Bare: the same.
";

/// What was measured; what was not asked for is absent.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) pairs: Vec<PairRow>,
    pub(crate) freezes: Vec<Freeze>,
    pub(crate) exports: Vec<Export>,
    pub(crate) command: Option<Pair>,
    pub(crate) files: Option<Files>,
    pub(crate) terminals: Option<Terminals>,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) idle: Option<Idle>,
    pub(crate) load: Option<Load>,
    pub(crate) depth: Option<Depth>,
    pub(crate) against: Option<Against>,
    /// The server's resident memory in KiB, at first and at last.
    pub(crate) ends: Option<(u64, u64)>,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct PairRow {
    pub(crate) name: &'static str,
    /// Whether the target holds for it.
    pub(crate) target: bool,
    pub(crate) pair: Pair,
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

impl Report {
    /// The whole document.
    pub(crate) fn render(&self, machine: &Machine) -> String {
        let mut text = format!("{INTRODUCTION}\nMeasured: {machine}.\n");
        if !self.pairs.is_empty() {
            text.push_str(PAIRED);
            for row in &self.pairs {
                text.push_str(&row.render());
            }
            text.push_str(PAIRED_NOTES);
        }
        text.push_str(&versions::render(self));
        text.push_str(&inside::render(self));
        if let Some(fleet) = &self.fleet {
            text.push_str(&render_fleet(fleet));
        }
        if let Some(idle) = &self.idle {
            many::idle(&mut text, idle);
        }
        if let Some(load) = &self.load {
            many::load(&mut text, load);
        }
        if let Some(depth) = &self.depth {
            text.push_str(&render_depth(depth));
        }
        if let Some(ends) = self.ends {
            many::ends(&mut text, ends);
        }
        if let Some(against) = &self.against {
            many::against(&mut text, against);
        }
        text
    }
}

impl PairRow {
    pub(crate) fn render(&self) -> String {
        let Pair { server, bare } = &self.pair;
        let ratio = self.pair.ratio().unwrap_or(f64::NAN);
        format!(
            "| {} | {} | {} | {} | {} | {} | {ratio:.2} | {} |\n",
            self.name,
            server.len(),
            ms(server.median()),
            ms(server.p95()),
            ms(bare.median()),
            ms(bare.p95()),
            if self.target {
                verdict(ratio <= MOST)
            } else {
                "-"
            }
        )
    }
}

fn render_fleet(fleet: &Fleet) -> String {
    let count = fleet.workspaces;
    let mut text = format!(
        "\n## {count} workspaces\n\nReads are one call after the other to all of them in turn, while \
         all run; the target is a median under {MOST_READ} ms.\n\n\
         | what | n | p50 | p95 | target |\n|---|---|---|---|---|\n"
    );
    let row = |name: &str, samples: &Samples, target: &str| {
        let (p50, p95) = (ms(samples.median()), ms(samples.p95()));
        format!(
            "| {name} | {} | {p50} | {p95} | {target} |\n",
            samples.len()
        )
    };
    let name = format!("create, {AT_A_TIME} at a time, each");
    text.push_str(&row(&name, &fleet.each, "-"));
    for (name, samples) in &fleet.reads {
        let met = samples.median().is_some_and(|median| median < MOST_READ);
        text.push_str(&row(name, samples, verdict(met)));
    }
    let _ = write!(
        text,
        "\nAll {count}, created {AT_A_TIME} at a time, were there after {:.2} s.\n\n\
         | memory with {count} workspaces | RSS, MiB | PSS, MiB |\n|---|---|---|\n",
        fleet.total.as_secs_f64()
    );
    for (name, memory) in [
        ("server", fleet.server),
        ("containerd", fleet.containerd),
        ("all shims", fleet.shims),
    ] {
        let Memory {
            resident,
            proportional,
        } = memory;
        let _ = writeln!(
            text,
            "| {name} | {} | {} |",
            resident >> 10,
            proportional >> 10
        );
    }
    text
}

fn render_depth(depth: &Depth) -> String {
    let counts = depth.counts;
    let mut text = format!(
        "\n## A long history\n\n{} snapshots of a stopped workspace, then {} rounds of rollback and \
         snapshot. *Start* is `POST /start` (median of {}); *failed lookup* is a `[ -e path ]` of a \
         path that does not exist and was never asked for, less the shell's own share, over {} of \
         them.\n\n| | start, ms | failed lookup, us |\n|---|---|---|\n",
        counts.snapshots, counts.rounds, counts.starts, counts.lookups
    );
    let mut row = |name: &str, point: &Point| {
        let lookup = point.failed_lookup.as_secs_f64() * 1e6;
        let _ = writeln!(
            text,
            "| {name} | {} | {lookup:.1} |",
            ms(point.start.median())
        );
    };
    row("at first", &depth.first);
    row("after the snapshots", &depth.after_snapshots);
    row("at the end", &depth.end);
    let _ = write!(
        text,
        "\nA snapshot of the stopped workspace took {} ms (p95 {}), a rollback {} ms (p95 {}).\n",
        ms(depth.snapshots.median()),
        ms(depth.snapshots.p95()),
        ms(depth.rollbacks.median()),
        ms(depth.rollbacks.p95())
    );
    text
}
