//! The directories that are watched, as a tree: a watch tells its number and a name only.

use std::collections::{HashMap, HashSet};

/// The number that the kernel gives a watch.
pub(super) type Watch = i32;

#[derive(Debug)]
struct Node {
    parent: Option<Watch>,
    name: Vec<u8>,
    children: HashMap<Vec<u8>, Watch>,
}

/// Watched directories.
#[derive(Debug)]
pub(super) struct Tree {
    top: Watch,
    nodes: HashMap<Watch, Node>,
}

impl Tree {
    pub(super) fn new(top: Watch) -> Self {
        let node = Node {
            parent: None,
            name: Vec::new(),
            children: HashMap::new(),
        };
        Self {
            top,
            nodes: HashMap::from([(top, node)]),
        }
    }

    pub(super) fn top(&self) -> Watch {
        self.top
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn contains(&self, watch: Watch) -> bool {
        self.nodes.contains_key(&watch)
    }

    pub(super) fn child(&self, parent: Watch, name: &[u8]) -> Option<Watch> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    /// The path of a name in a directory below the top; of the directory itself without a name.
    /// `None` when the directory is not watched any more.
    pub(super) fn path(&self, directory: Watch, name: &[u8]) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut node = self.nodes.get(&directory)?;
        while let Some(parent) = node.parent {
            names.push(node.name.as_slice());
            node = self.nodes.get(&parent)?;
        }
        names.reverse();
        if !name.is_empty() {
            names.push(name);
        }
        Some(names.join(&b'/'))
    }

    /// Adds a directory, or moves it where its watch was elsewhere, with what is below it. What had
    /// the name is given back to be unwatched.
    pub(super) fn insert(&mut self, parent: Watch, name: &[u8], watch: Watch) -> Vec<Watch> {
        if watch == self.top || !self.nodes.contains_key(&parent) {
            return Vec::new();
        }
        let replaced = match self.child(parent, name) {
            Some(old) if old == watch => return Vec::new(),
            Some(old) => self.remove(old),
            None => Vec::new(),
        };
        // A directory does not go below itself; who makes it seem so is racing.
        if self.is_below(parent, watch) {
            return replaced;
        }
        self.detach(watch);
        let node = self.nodes.entry(watch).or_insert_with(|| Node {
            parent: None,
            name: Vec::new(),
            children: HashMap::new(),
        });
        node.parent = Some(parent);
        node.name = name.to_vec();
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children.insert(name.to_vec(), watch);
        }
        replaced
    }

    /// Forgets a directory and what is below it, and gives back all of them.
    pub(super) fn remove(&mut self, watch: Watch) -> Vec<Watch> {
        if watch == self.top {
            return Vec::new();
        }
        self.detach(watch);
        let mut removed = Vec::new();
        let mut waiting = vec![watch];
        while let Some(watch) = waiting.pop() {
            if let Some(node) = self.nodes.remove(&watch) {
                waiting.extend(node.children.into_values());
                removed.push(watch);
            }
        }
        removed
    }

    /// Forgets what was not seen, the top excepted.
    pub(super) fn retain(&mut self, seen: &HashSet<Watch>) -> Vec<Watch> {
        let gone: Vec<Watch> = self
            .nodes
            .keys()
            .filter(|watch| **watch != self.top && !seen.contains(watch))
            .copied()
            .collect();
        gone.into_iter()
            .flat_map(|watch| self.remove(watch))
            .collect()
    }

    fn is_below(&self, mut watch: Watch, ancestor: Watch) -> bool {
        loop {
            if watch == ancestor {
                return true;
            }
            match self.nodes.get(&watch).and_then(|node| node.parent) {
                Some(parent) => watch = parent,
                None => return false,
            }
        }
    }

    fn detach(&mut self, watch: Watch) {
        let Some(node) = self.nodes.get(&watch) else {
            return;
        };
        let (parent, name) = (node.parent, node.name.clone());
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(&parent))
            && parent.children.get(&name) == Some(&watch)
        {
            parent.children.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new(1);
        assert!(tree.insert(1, b"a", 2).is_empty());
        assert!(tree.insert(2, b"b", 3).is_empty());
        assert!(tree.insert(1, b"c", 4).is_empty());
        tree
    }

    #[test]
    fn paths_follow_moves() {
        let mut tree = tree();
        assert_eq!(tree.path(3, b"x"), Some(b"a/b/x".to_vec()));
        assert_eq!(tree.path(1, b""), Some(b"".to_vec()));
        assert!(tree.insert(4, b"d", 2).is_empty());
        assert_eq!(tree.path(3, b"x"), Some(b"c/d/b/x".to_vec()));
        assert_eq!(tree.child(1, b"a"), None);
    }

    #[test]
    fn what_goes_takes_what_is_below_along() {
        let mut tree = tree();
        let mut removed = tree.remove(2);
        removed.sort_unstable();
        assert_eq!(removed, [2, 3]);
        assert_eq!(tree.path(3, b""), None);
        assert!(tree.remove(1).is_empty(), "the top stays");
        assert_eq!(tree.insert(1, b"c", 5), [4], "another one of the same name");
        assert_eq!(tree.len(), 2);
    }

    #[test]
    fn nothing_goes_below_itself() {
        let mut tree = tree();
        tree.insert(3, b"loop", 2);
        assert_eq!(tree.path(3, b""), Some(b"a/b".to_vec()));
        let mut gone = tree.retain(&HashSet::from([4]));
        gone.sort_unstable();
        assert_eq!(gone, [2, 3]);
    }
}
