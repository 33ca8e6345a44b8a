//! Which versions may go.

use crate::Version;
use botstead_types::{VersionNumber, VersionSource};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How many of the versions that nobody asked for are kept, the latest of each source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionRules {
    /// Of those from before a command.
    pub pre_exec: usize,
    /// Of those from before a rollback.
    pub rollback: usize,
    /// Of those from before an import.
    pub import: usize,
    /// Of those from before a change of image.
    pub image: usize,
}

impl Default for RetentionRules {
    fn default() -> Self {
        Self {
            pre_exec: 20,
            rollback: 5,
            import: 5,
            image: 5,
        }
    }
}

impl RetentionRules {
    /// How many of a source are kept; `None` is all of them.
    fn limit(&self, source: VersionSource) -> Option<usize> {
        match source {
            VersionSource::Manual | VersionSource::Inherited | VersionSource::Recovered => None,
            VersionSource::PreExec => Some(self.pre_exec),
            VersionSource::Rollback => Some(self.rollback),
            VersionSource::Import => Some(self.import),
            VersionSource::Image => Some(self.image),
        }
    }
}

/// The versions of a workspace that may be deleted, by number. Never among them: those that a user
/// asked for, pinned ones, the one that a fork began from, those that were recovered, and the head. A pinned version and the
/// head count among the latest of their source all the same.
pub fn retention(
    versions: &[Version],
    head: Option<VersionNumber>,
    rules: &RetentionRules,
) -> Vec<VersionNumber> {
    let mut latest_first: Vec<_> = versions.iter().collect();
    latest_first.sort_by_key(|version| std::cmp::Reverse(version.number));
    let mut seen: HashMap<VersionSource, usize> = HashMap::new();
    let mut expired = Vec::new();
    for version in latest_first {
        let Some(limit) = rules.limit(version.source) else {
            continue;
        };
        let seen = seen.entry(version.source).or_default();
        *seen += 1;
        if *seen > limit && !version.pinned && head != Some(version.number) {
            expired.push(version.number);
        }
    }
    expired.reverse();
    expired
}
