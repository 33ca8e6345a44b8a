//! The tables of what does nothing, of what load leaves, and of another build.

use super::{ms, verdict};
use crate::against::{Against, Row};
use crate::idle::Idle;
use crate::load::{Load, REST};
use std::fmt::Write;

/// The most that idle workspaces may take of a core, in percent.
const MOST_IDLE: f64 = 1.0;

/// What idle workspaces cost.
pub(super) fn idle(text: &mut String, idle: &Idle) {
    let _ = write!(
        text,
        "\n## {} idle workspaces\n\nProcessor time while nobody asks for anything, over {} s, as a share of \
         one core; the target is under {MOST_IDLE} % for server and containerd together.\n\n{IDLE_HEAD}",
        idle.workspaces,
        idle.window.as_secs()
    );
    idle_row(text, "this build", idle);
}

const IDLE_HEAD: &str = "| | server, % | containerd, % | all shims, % | all agents, % | target |\n\
                         |---|---|---|---|---|---|\n";

fn idle_row(text: &mut String, name: &str, idle: &Idle) {
    let _ = writeln!(
        text,
        "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
        idle.server,
        idle.containerd,
        idle.shims,
        idle.agents,
        verdict(idle.server + idle.containerd < MOST_IDLE)
    );
}

/// What load leaves in the server's memory.
pub(super) fn load(text: &mut String, load: &Load) {
    let _ = write!(
        text,
        "\n## Memory after load\n\n{} workspaces at once, {} times each: 32 MiB up and down, 3,000 files made and \
         listed, 20,000 lines of output, an export, a version. *After* is {} s after all of them were \
         deleted.\n\n{LOAD_HEAD}",
        load.workspaces,
        load.rounds,
        REST.as_secs()
    );
    load_row(text, "this build", load);
}

const LOAD_HEAD: &str = "| server, RSS, MiB | before | most | after |\n|---|---|---|---|\n";

fn load_row(text: &mut String, name: &str, load: &Load) {
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {} |",
        load.before >> 10,
        load.most >> 10,
        load.after >> 10
    );
}

/// The server's memory at both ends of the run.
pub(super) fn ends(text: &mut String, (first, last): (u64, u64)) {
    let _ = write!(
        text,
        "\n## The server's memory over this run\n\nResident, after its start and after everything that is on \
         this page and a rest of {} s.\n\n| server, RSS, MiB | start | end |\n|---|---|---|\n| this build | {} | {} |\n",
        REST.as_secs(),
        first >> 10,
        last >> 10
    );
}

/// Another build.
pub(super) fn against(text: &mut String, against: &Against) {
    text.push_str(
        "\n## Against another build\n\nTwo servers, each with a containerd of its own and a client whose \
         connections are kept alive, in turns in one run; *ratio* is this build's median over the other's.\n\n\
         | operation | n | p50 | p95 | other p50 | other p95 | ratio | target |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in &against.rows {
        text.push_str(&operation(row));
    }
    let (this, other) = &against.idle;
    let _ = write!(
        text,
        "\n{} idle workspaces, over {} s:\n\n{IDLE_HEAD}",
        this.workspaces,
        this.window.as_secs()
    );
    idle_row(text, "this build", this);
    idle_row(text, "the other", other);
    let (this, other) = &against.load;
    let _ = write!(
        text,
        "\nThe load of *Memory after load*, with {} workspaces, {} times each:\n\n{LOAD_HEAD}",
        this.workspaces, this.rounds
    );
    load_row(text, "this build", this);
    load_row(text, "the other", other);
}

fn operation(row: &Row) -> String {
    let Row { this, other, .. } = row;
    let ratio = this.median().zip(other.median()).map(|(a, b)| a / b);
    let ratio = ratio.unwrap_or(f64::NAN);
    let target = row.target.map_or_else(
        || "-".to_owned(),
        |most| format!("{most}: {}", verdict(ratio <= most)),
    );
    format!(
        "| {} | {} | {} | {} | {} | {} | {ratio:.2} | {target} |\n",
        row.name,
        this.len(),
        ms(this.median()),
        ms(this.p95()),
        ms(other.median()),
        ms(other.p95()),
    )
}
