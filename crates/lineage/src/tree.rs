//! The history of a workspace.

use crate::Version;
use botstead_types::VersionNumber;
use std::collections::BTreeMap;

/// A version in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// The version.
    pub version: &'a Version,
    /// The version that it grew from, where that still exists.
    pub parent: Option<VersionNumber>,
    /// The versions that grew from it, by number.
    pub children: Vec<VersionNumber>,
    /// Whether the active state grew from it.
    pub is_head: bool,
}

/// The versions of a workspace as a forest, which branches where a rollback was made.
///
/// It is flat, because a history can be deeper than a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree<'a> {
    /// The version that the active state grew from, where that still exists.
    pub head: Option<VersionNumber>,
    /// Every version, by number: parents before their children.
    pub nodes: Vec<Node<'a>>,
}

impl<'a> Tree<'a> {
    /// The versions that grew from none that exists, by number.
    pub fn roots(&self) -> impl Iterator<Item = &Node<'a>> {
        self.nodes.iter().filter(|node| node.parent.is_none())
    }

    /// A version's node.
    pub fn get(&self, number: VersionNumber) -> Option<&Node<'a>> {
        let found = self
            .nodes
            .binary_search_by_key(&number, |node| node.version.number);
        found.ok().map(|index| &self.nodes[index])
    }
}

/// The history of `versions`, with `head` marked. A version whose parent is unknown, as after its
/// deletion, is a root; so is one whose parent is not older than itself, which no history makes
/// and which could close a circle. Of two with one number the first counts.
pub fn tree(versions: &[Version], head: Option<VersionNumber>) -> Tree<'_> {
    let mut nodes: BTreeMap<VersionNumber, Node<'_>> = BTreeMap::new();
    for version in versions {
        nodes.entry(version.number).or_insert_with(|| Node {
            version,
            parent: version.parent.filter(|parent| *parent < version.number),
            children: Vec::new(),
            is_head: head == Some(version.number),
        });
    }
    let numbers: Vec<_> = nodes.keys().copied().collect();
    for number in numbers {
        let Some(parent) = nodes.get(&number).and_then(|node| node.parent) else {
            continue;
        };
        match nodes.get_mut(&parent) {
            Some(parent) => parent.children.push(number),
            None => {
                if let Some(node) = nodes.get_mut(&number) {
                    node.parent = None;
                }
            }
        }
    }
    Tree {
        head: head.filter(|head| nodes.contains_key(head)),
        nodes: nodes.into_values().collect(),
    }
}
