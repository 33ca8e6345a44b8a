//! The tables of live copies and exports.

use super::{Report, ms, verdict};
use crate::export::Export;
use crate::freeze::{Freeze, Pass};
use std::fmt::Write;

/// What was measured of them.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    if !report.freezes.is_empty() {
        freezes(&mut text, &report.freezes);
    }
    if !report.exports.is_empty() {
        exports(&mut text, &report.exports);
    }
    text
}

fn freezes(text: &mut String, freezes: &[Freeze]) {
    text.push_str(
        "\n## How long a live snapshot stands everybody still\n\nA copy of an upper directory by the crate \
         that the server uses; what is dirty was written right before the freeze. *Total* is the whole copy, during \
         which processes run. The targets, for the 95th percentile: with the feed 10 ms for 10 dirty files and 40 ms for \
         1,000, with the walk 60 ms up to 20,000 files. Stop and recreate, in the same run: the row *snapshot, \
         stopping* above.\n\n\
         | files | dirty | n | feed p50 | feed p95 | target | feed total | walk p50 | walk p95 | target | walk total |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for freeze in freezes {
        text.push_str(&freeze.render());
    }
    for freeze in freezes {
        for (name, pass) in [("feed", &freeze.feed), ("walk", &freeze.walk)] {
            if let Some(reason) = &pass.failed {
                let _ = writeln!(
                    text,
                    "\n{} files, {} dirty, {name}: {reason}",
                    freeze.files, freeze.dirty
                );
            }
        }
    }
}

impl Freeze {
    pub(crate) fn render(&self) -> String {
        let judged = |pass: &Pass| match (pass.most, pass.freeze.p95()) {
            (Some(most), Some(p95)) => verdict(p95 <= most),
            _ => "-",
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            self.files,
            self.dirty,
            self.feed.freeze.len(),
            ms(self.feed.freeze.median()),
            ms(self.feed.freeze.p95()),
            judged(&self.feed),
            ms(self.feed.total.median()),
            ms(self.walk.freeze.median()),
            ms(self.walk.freeze.p95()),
            judged(&self.walk),
            ms(self.walk.total.median()),
        )
    }
}

fn exports(text: &mut String, exports: &[Export]) {
    text.push_str(
        "\n## Exports\n\n`POST /data/export` over HTTP on the loopback, and in turns with it `tar` piped into the program on \
         the host, on the same tree, with the program's own level. An export reads a picture of one moment: one of a workspace \
         that runs has to be made first, by a live copy of what its versions do not hold, here of all of it; a workspace that \
         is stopped and equals its newest version is one already. *Before* is until the archive begins to come, *export* from then on, \
         *ratio* that of its time to the pipe's, for which the target is 1.2. *Whole* is all of the call, *tools* what takes as \
         long to the same end without a server: the pipe, and `cp -a` of the tree before it where the workspace runs. The pipe alone \
         reads files of different moments then.\n\n\
         | workspace | pipe into | n | MiB | before, ms | export, MB/s | pipe, MB/s | ratio | target | whole, ms | tools, ms | whole to tools | \
         whole to the pipe alone | export, MiB | pipe, MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for export in exports {
        let ratio = export.stream.ratio().unwrap_or(f64::NAN);
        #[allow(clippy::cast_precision_loss, reason = "a size far below 2^52")]
        let rate = |milliseconds: Option<f64>| {
            export.size as f64 / 1000.0 / milliseconds.unwrap_or(f64::NAN)
        };
        let (whole, pipe) = (export.whole.server.median(), export.stream.bare.median());
        let to_pipe = whole
            .zip(pipe)
            .map_or(f64::NAN, |(whole, pipe)| whole / pipe);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {ratio:.2} | {} | {} | {} | {:.2} | {to_pipe:.2} | {} | {} |",
            if export.running {
                "running"
            } else {
                "equal to a version"
            },
            export.pipe,
            export.stream.server.len(),
            export.size >> 20,
            ms(export.before.median()),
            rate(export.stream.server.median()),
            rate(pipe),
            verdict(ratio <= 1.2),
            ms(whole),
            ms(export.whole.bare.median()),
            export.whole.ratio().unwrap_or(f64::NAN),
            export.packed >> 20,
            export.pipe_packed >> 20
        );
    }
}
