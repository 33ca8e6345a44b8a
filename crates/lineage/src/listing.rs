//! What a client sees of a workspace's snapshots.

use crate::{Graph, Snapshot, Version};
use botstead_types::{VersionNumber, VersionSource};
use std::collections::{HashMap, HashSet};

/// Where a listed snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// It is a recorded version.
    Version(VersionSource),
    /// It is no recorded version of this workspace.
    ImageLayer,
}

impl Source {
    /// The word that stands for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version(source) => source.as_str(),
            Self::ImageLayer => "image_layer",
        }
    }
}

/// A listed snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The version's display name, else `Version N`, else the runtime's name.
    pub name: String,
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// The version, when it is one.
    pub version: Option<&'a Version>,
}

impl<'a> Entry<'a> {
    fn new(snapshot: &'a Snapshot, version: Option<&'a Version>) -> Self {
        let mut entry = Self {
            name: String::new(),
            snapshot,
            version,
        };
        entry.name = match (entry.display_name(), version) {
            (Some(name), _) => name.to_owned(),
            (None, Some(version)) => format!("Version {}", version.number),
            (None, None) => snapshot.key.to_string(),
        };
        entry
    }

    /// The name that the user gave the version; a blank one counts as none.
    pub fn display_name(&self) -> Option<&'a str> {
        self.version
            .and_then(|version| version.name.as_deref())
            .filter(|name| !name.trim().is_empty())
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        match self.version {
            Some(version) => Source::Version(version.source),
            None => Source::ImageLayer,
        }
    }

    /// Whether it is a recorded version.
    pub fn managed(&self) -> bool {
        self.version.is_some()
    }
}

/// A listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing<'a> {
    /// By the snapshots' creation time, then by name.
    pub entries: Vec<Entry<'a>>,
    /// Recorded versions whose snapshot the runtime does not have: for a warning and a metric.
    /// Their records stay.
    pub missing: Vec<VersionNumber>,
}

/// The lineage of a workspace, and every recorded version that is not on it but exists.
/// `versions` are all of the workspace's. Work is proportional to the lineage and the versions.
pub fn listing<'a>(
    lineage: &[&'a Snapshot],
    all: &Graph<'a>,
    versions: &'a [Version],
) -> Listing<'a> {
    assemble(lineage, versions, |name| all.get(name))
}

fn assemble<'a>(
    lineage: &[&'a Snapshot],
    versions: &'a [Version],
    mut look_up: impl FnMut(&str) -> Option<&'a Snapshot>,
) -> Listing<'a> {
    let mut recorded: HashMap<&str, Vec<&Version>> = HashMap::with_capacity(versions.len());
    for version in versions {
        let key = version.snapshot.as_str().trim();
        recorded.entry(key).or_default().push(version);
    }
    let mut listing = Listing::default();
    let mut seen = HashSet::new();
    for &snapshot in lineage {
        let key = snapshot.key.as_str().trim();
        if !seen.insert(key) {
            continue;
        }
        match recorded.get(key) {
            None => listing.entries.push(Entry::new(snapshot, None)),
            Some(versions) => {
                let entries = versions.iter().map(|v| Entry::new(snapshot, Some(v)));
                listing.entries.extend(entries);
            }
        }
    }
    for version in versions {
        if seen.contains(version.snapshot.as_str().trim()) {
            continue;
        }
        match look_up(version.snapshot.as_str()) {
            Some(snapshot) => listing.entries.push(Entry::new(snapshot, Some(version))),
            None => listing.missing.push(version.number),
        }
    }
    listing.entries.sort_by(|a, b| {
        let order = |e: &Entry<'a>| (e.snapshot.created_at, e.version.map(|v| v.number));
        let (a_time, a_number) = order(a);
        let (b_time, b_number) = order(b);
        a_time
            .cmp(&b_time)
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.snapshot.key.cmp(&b.snapshot.key))
            .then_with(|| a_number.cmp(&b_number))
    });
    listing
}

#[cfg(test)]
mod tests;
