//! The chain of snapshots beneath a workspace.

use crate::Snapshot;
use std::collections::{HashMap, HashSet};

/// All snapshots of a runtime, by name. Names are compared without the white space around them.
#[derive(Debug)]
pub struct Graph<'a> {
    by_name: HashMap<&'a str, &'a Snapshot>,
}

impl<'a> Graph<'a> {
    /// Indexes snapshots, in one pass. Of two with the same name the first counts.
    pub fn new(all: &'a [Snapshot]) -> Self {
        let mut by_name = HashMap::with_capacity(all.len());
        for snapshot in all {
            by_name
                .entry(snapshot.key.as_str().trim())
                .or_insert(snapshot);
        }
        Self { by_name }
    }

    /// The snapshot of that name.
    pub fn get(&self, name: &str) -> Option<&'a Snapshot> {
        self.by_name.get(name.trim()).copied()
    }
}

/// The snapshot from which a lineage should begin does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound {
    /// Its name; empty when none was given.
    pub root: String,
}

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot {:?} does not exist", self.root)
    }
}

impl std::error::Error for NotFound {}

/// The chain from the snapshot `root` through its parents to the base layer, `root` first.
///
/// A parent that is missing ends the chain with what is known, and a cycle ends it at the first
/// repeat: what one broken record hides must not hide the rest. Work is proportional to the
/// chain, not to the graph.
///
/// # Errors
/// [`NotFound`] when `root` is empty or not in the graph.
pub fn lineage<'a>(root: &str, all: &Graph<'a>) -> Result<Vec<&'a Snapshot>, NotFound> {
    walk(root, |name| all.get(name))
}

fn walk<'a>(
    root: &str,
    mut look_up: impl FnMut(&str) -> Option<&'a Snapshot>,
) -> Result<Vec<&'a Snapshot>, NotFound> {
    let root = root.trim();
    let not_found = || NotFound {
        root: root.to_owned(),
    };
    if root.is_empty() {
        return Err(not_found());
    }
    let mut next = look_up(root);
    if next.is_none() {
        return Err(not_found());
    }
    let mut chain = Vec::new();
    let mut seen = HashSet::new();
    while let Some(snapshot) = next {
        if !seen.insert(snapshot.key.as_str().trim()) {
            break;
        }
        chain.push(snapshot);
        next = snapshot
            .parent
            .as_ref()
            .and_then(|parent| look_up(parent.as_str()));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::SnapshotKind;

    fn snapshot(key: &str, parent: Option<&str>) -> Snapshot {
        Snapshot {
            key: key.parse().unwrap(),
            parent: parent.map(|parent| parent.parse().unwrap()),
            kind: SnapshotKind::Committed,
            labels: Default::default(),
            created_at: Default::default(),
            updated_at: Default::default(),
        }
    }

    /// `given` is lines of `key parent`.
    fn check(root: &str, given: &[(&str, Option<&str>)], expected: Option<&[&str]>) {
        let all: Vec<_> = given.iter().map(|(k, p)| snapshot(k, *p)).collect();
        let graph = Graph::new(&all);
        let found = lineage(root, &graph).ok();
        let names: Option<Vec<_>> =
            found.map(|chain| chain.iter().map(|snapshot| snapshot.key.as_str()).collect());
        assert_eq!(names.as_deref(), expected, "from {root:?} in {given:?}");
    }

    #[test]
    fn a_lineage_goes_to_the_base() {
        let given = [("a", Some("b")), ("c", None), ("b", Some("c")), ("x", None)];
        check("a", &given, Some(&["a", "b", "c"]));
        check("c", &given, Some(&["c"]));
    }

    #[test]
    fn names_are_trimmed() {
        check(
            " a\t",
            &[("a ", Some(" b")), ("b", None)],
            Some(&["a ", "b"]),
        );
    }

    #[test]
    fn a_missing_root_is_not_found() {
        check("", &[("a", None)], None);
        check("   ", &[("a", None)], None);
        check("b", &[("a", None)], None);
        check("b", &[("a", Some("b"))], None);
    }

    #[test]
    fn a_missing_parent_ends_the_chain() {
        check(
            "a",
            &[("a", Some("b")), ("b", Some("gone"))],
            Some(&["a", "b"]),
        );
    }

    #[test]
    fn a_cycle_ends_the_chain_at_the_first_repeat() {
        check("a", &[("a", Some("a"))], Some(&["a"]));
        check(
            "a",
            &[("a", Some("b")), ("b", Some("a"))],
            Some(&["a", "b"]),
        );
        check(
            "a",
            &[("a", Some("b")), ("b", Some("c")), ("c", Some("b "))],
            Some(&["a", "b", "c"]),
        );
    }

    #[test]
    fn work_is_proportional_to_the_chain() {
        let all: Vec<_> = (0..10_000)
            .map(|i| {
                let parent = (i % 100 != 0).then(|| (i - 1).to_string());
                snapshot(&i.to_string(), parent.as_deref())
            })
            .collect();
        let graph = Graph::new(&all);
        let mut look_ups = 0;
        let chain = walk("9999", |name| {
            look_ups += 1;
            graph.get(name)
        });
        assert_eq!(chain.unwrap().len(), 100);
        assert_eq!(look_ups, 100);
    }
}
