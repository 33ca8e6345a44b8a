//! What a machine tells of its checks, line by line, and the table of all machines.

use super::Debian;
use serde::Deserialize;
use std::fmt::{self, Write as _};

/// A line that the guest writes as JSON.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Line {
    /// A check ended.
    Check(Check),
    /// The machine is what it should be.
    Boot { boot: u32, kernel: String },
    /// Every check of every boot was run.
    Finished { finished: bool },
}

/// A check that ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    name: String,
    ok: bool,
    seconds: u64,
    /// Why it failed, else what it saw, if anything is worth it.
    detail: String,
}

impl Line {
    /// Nothing when it is no line of the checks.
    pub(super) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(check) => check.fmt(f),
            Self::Boot { boot, kernel } => write!(f, "boot {boot}: {kernel}"),
            Self::Finished { .. } => f.write_str("all checks were run"),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        write!(f, "{mark} {:>5} s  {}", self.seconds, self.name)?;
        for line in self.detail.lines() {
            write!(f, "\n               {line}")?;
        }
        Ok(())
    }
}

/// What one machine told.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    checks: Vec<Check>,
    /// Whether it came to the end.
    pub(super) finished: bool,
}

impl Outcome {
    pub(super) fn add(&mut self, line: Line) {
        match line {
            Line::Check(check) => self.checks.push(check),
            Line::Boot { .. } => {}
            Line::Finished { finished } => self.finished = finished,
        }
    }

    /// Whether the machine came to the end, ran something, and nothing failed.
    pub(super) fn is_good(&self) -> bool {
        self.finished && !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    fn result(&self, name: &str) -> String {
        match self.checks.iter().find(|check| check.name == name) {
            Some(check) if check.ok => format!("{} s", check.seconds),
            Some(_) => "FAIL".to_owned(),
            None => "-".to_owned(),
        }
    }
}

/// One row for each check, one column for each machine, and the reasons of failures below.
pub(super) fn table(outcomes: &[(Debian, Outcome)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for check in outcomes.iter().flat_map(|(_, outcome)| &outcome.checks) {
        if !names.contains(&check.name.as_str()) {
            names.push(&check.name);
        }
    }
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}", "");
    // Writing to a string cannot fail.
    for (release, _) in outcomes {
        let _ = write!(text, " {:>9}", release.name());
    }
    text.push('\n');
    for name in &names {
        let _ = write!(text, "{name:width$}");
        for (_, outcome) in outcomes {
            let _ = write!(text, " {:>9}", outcome.result(name));
        }
        text.push('\n');
    }
    for (release, outcome) in outcomes {
        for check in outcome.checks.iter().filter(|check| !check.ok) {
            let _ = write!(text, "\n{release}: {check}\n");
        }
        if !outcome.finished {
            let _ = write!(
                text,
                "\n{release}: the machine did not come to the end; see its console.log\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.add(Line::parse(line).unwrap());
        }
        outcome
    }

    const GOOD: &str = r#"{"name": "limits", "ok": true, "seconds": 3, "detail": ""}"#;
    const BAD: &str = r#"{"name": "kills", "ok": false, "seconds": 4, "detail": "one\ntwo"}"#;
    const BOOT: &str = r#"{"boot": 1, "kernel": "6.1"}"#;
    const END: &str = "{\"finished\": true}\r";

    #[test]
    fn only_a_whole_run_without_a_failure_is_good() {
        assert!(outcome(&[BOOT, GOOD, END]).is_good());
        assert!(!outcome(&[BOOT, GOOD, BAD, END]).is_good());
        assert!(!outcome(&[BOOT, GOOD]).is_good(), "the machine ended early");
        assert!(!outcome(&[BOOT, END]).is_good(), "nothing was run");
        assert!(Line::parse("[    0.1] serial8250: ttyS1").is_none());
    }

    #[test]
    fn the_table_has_every_check_and_the_reasons() {
        let table = table(&[
            (Debian::Bookworm, outcome(&[GOOD, BAD, END])),
            (Debian::Trixie, outcome(&[GOOD])),
        ]);
        let rows: Vec<_> = table.lines().collect();
        assert_eq!(rows[0], "        bookworm    trixie");
        assert_eq!(rows[1], "limits       3 s       3 s");
        assert_eq!(rows[2], "kills       FAIL         -");
        assert!(table.contains("bookworm: FAIL     4 s  kills\n               one\n"));
        assert!(table.contains("trixie: the machine did not come to the end"));
    }
}
