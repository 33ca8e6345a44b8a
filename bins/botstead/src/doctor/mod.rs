//! `botstead doctor`: what this host has and lacks, and what to do about it.
//!
//! Looks only: nothing is changed, and the files of the disk check have no names.

mod archives;
mod cgroups;
mod containerd;
mod disk;
mod firewall;
mod kernel;
mod programs;
mod unrecorded;

use crate::config::Config;
use serde::Serialize;
use std::fmt::Write;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The server runs, with less than it could have.
    Warn,
    /// The server or its workspaces cannot run.
    Fail,
}

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, such as `cgroups`.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do; none when it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            detail: detail.into(),
            advice: None,
        }
    }

    fn warn(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            advice: Some(advice.into()),
            ..Self::ok(name, detail)
        }
    }

    fn fail(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(name, detail, advice)
        }
    }
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which things depend on one another.
    pub checks: Vec<Check>,
}

/// Looks at this host.
pub async fn examine(config: &Config) -> Report {
    let mut checks = vec![
        kernel::privileges(),
        kernel::version(),
        kernel::overlayfs(),
        kernel::namespaces(),
        kernel::openat2(),
        kernel::fanotify(),
        kernel::inotify(),
        cgroups::check(),
        containerd::check(config).await,
        programs::runc(config),
        programs::agent(config),
        firewall::forward_policy(),
        firewall::own_table(config),
        firewall::ip_forward(),
    ];
    checks.extend(disk::check(config));
    checks.push(unrecorded::check(config).await);
    checks.push(archives::check(config).await);
    Report { checks }
}

impl Report {
    /// Whether something is missing without which the server or its workspaces cannot run.
    pub fn failed(&self) -> bool {
        self.checks.iter().any(|c| c.status == Status::Fail)
    }

    /// `{"ok":..,"checks":[{"name","status","detail","advice"?}]}` and a line break.
    pub fn to_json(&self) -> String {
        let json = serde_json::json!({ "ok": !self.failed(), "checks": self.checks });
        format!("{json:#}\n")
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let width = self.checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let status = match check.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            let (name, detail) = (check.name, &check.detail);
            let _ = writeln!(text, "{status:<4}  {name:<width$}  {detail}");
            if let Some(advice) = &check.advice {
                let _ = writeln!(text, "{:<4}  {:<width$}  -> {advice}", "", "");
            }
        }
        let count = |status| self.checks.iter().filter(|c| c.status == status).count();
        let (warnings, failures) = (count(Status::Warn), count(Status::Fail));
        let _ = writeln!(text, "\n{failures} failed, {warnings} warnings");
        text
    }
}

/// The numbers at the beginning of a version, such as `[1, 6, 20]` of `1.6.20~ds1`.
fn version_numbers(text: &str) -> Vec<u64> {
    let text = text.trim_start_matches('v');
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text[..end]
        .split('.')
        .map_while(|n| n.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_up_to_their_suffix() {
        for (text, numbers) in [
            ("1.6.20~ds1", vec![1, 6, 20]),
            ("v2.1.9", vec![2, 1, 9]),
            ("6.18.0-rc1", vec![6, 18, 0]),
            ("6.1", vec![6, 1]),
            ("unknown", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(version_numbers(text), numbers, "{text}");
        }
    }

    #[test]
    fn a_report_fails_only_on_failures() {
        let mut report = Report {
            checks: vec![
                Check::ok("a", "fine"),
                Check::warn("bcd", "slow", "buy a disk"),
            ],
        };
        assert!(!report.failed());
        assert_eq!(
            report.to_table(),
            "ok    a    fine\nwarn  bcd  slow\n           -> buy a disk\n\n0 failed, 1 warnings\n"
        );
        report.checks.push(Check::fail("e", "gone", "install it"));
        assert!(report.failed());
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(
            json["checks"][0],
            serde_json::json!({"name":"a","status":"ok","detail":"fine"})
        );
        assert_eq!(json["checks"][2]["advice"], "install it");
    }

    #[tokio::test]
    async fn this_host_is_examined_without_trace() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: root.path().join("not/there/yet"),
            ..Config::default()
        };
        let report = examine(&config).await;
        let names: std::collections::BTreeSet<_> = report.checks.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), report.checks.len(), "{names:?}");
        for check in &report.checks {
            assert_eq!(
                check.status == Status::Ok,
                check.advice.is_none(),
                "{check:?}"
            );
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
