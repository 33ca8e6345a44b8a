//! The tables of commands, files and terminals.

use super::{Report, ms};
use crate::inside::Files;
use crate::paired::Pair;
use crate::stats::Samples;
use crate::terminals::Terminals;
use std::fmt::Write;

/// What was measured of them.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    if let Some(pair) = &report.command {
        command(&mut text, pair);
    }
    if let Some(measured) = &report.files {
        files(&mut text, measured);
    }
    if let Some(measured) = &report.terminals {
        terminals(&mut text, measured);
    }
    text
}

fn command(text: &mut String, pair: &Pair) {
    let _ = write!(
        text,
        "\n## Commands\n\n`POST /exec` of `true` in a running workspace, and in turns with it the floor: \
         `GET /healthz` and then `true` started on the host.\n\n\
         | n | p50 | p95 | floor p50 | floor p95 | ratio |\n|---|---|---|---|---|---|\n\
         | {} | {} | {} | {} | {} | {:.2} |\n",
        pair.server.len(),
        ms(pair.server.median()),
        ms(pair.server.p95()),
        ms(pair.bare.median()),
        ms(pair.bare.p95()),
        pair.ratio().unwrap_or(f64::NAN)
    );
}

fn files(text: &mut String, files: &Files) {
    let _ = write!(
        text,
        "\n## Files\n\nA file of {} MiB in the page cache, over HTTP on the loopback and by two `cat` with a \
         pipe between them inside the workspace; medians of {}, in turns.\n\n\
         | | MB/s | `cat`, MB/s | ratio of times |\n|---|---|---|---|\n",
        files.size >> 20,
        files.download.len()
    );
    let mut row = |name: &str, server: &Samples, cat: &Samples| {
        let (Some(server), Some(cat)) = (server.median(), cat.median()) else {
            return;
        };
        #[allow(clippy::cast_precision_loss, reason = "a size far below 2^52")]
        let rate = |milliseconds: f64| files.size as f64 / 1000.0 / milliseconds;
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.0} | {:.2} |",
            rate(server),
            rate(cat),
            server / cat
        );
    };
    row("download", &files.download, &files.cat_out);
    row("upload", &files.upload, &files.cat_in);
}

fn terminals(text: &mut String, terminals: &Terminals) {
    let _ = write!(
        text,
        "\n## {} terminals\n\nOpen at once in one workspace, each over its own WebSocket. *Open* is until the \
         shell's prompt came, *key* until a typed letter was shown, with all of them open.\n\n\
         | what | n | p50 | p95 |\n|---|---|---|---|\n",
        terminals.count
    );
    for (name, samples) in [("open", &terminals.open), ("key", &terminals.key)] {
        let (p50, p95) = (ms(samples.median()), ms(samples.p95()));
        let _ = writeln!(text, "| {name} | {} | {p50} | {p95} |", samples.len());
    }
    text.push_str("\n| memory, RSS, MiB | before | with all |\n|---|---|---|\n");
    for (name, (before, after)) in [("server", terminals.server), ("agent", terminals.agent)] {
        #[allow(clippy::cast_precision_loss, reason = "KiB far below 2^52")]
        let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
        let _ = writeln!(
            text,
            "| {name} | {:.1} | {:.1} |",
            mebibytes(before),
            mebibytes(after)
        );
    }
}
