//! The names of an archive as a tree: what each is, and whether they can all stand together.
//!
//! Held in memory while an archive is checked and applied: some 30 bytes for each and its last part.

use crate::error::Refusal;
use crate::format::{Kind, Member};
use crate::limits::{Limit, Limits, MOST_NAMES};
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

/// A name's number in the tree.
pub(crate) type Node = u32;
/// The archive's own root, which may have an entry like any directory.
pub(crate) const ROOT: Node = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Directory,
    Symlink,
    Other,
}

#[derive(Debug)]
struct Name {
    parent: Node,
    /// Its last part, in `bytes`.
    start: u32,
    /// Which file it is a name of, by its place in `files` from 1 on; 0 where it is the only one.
    file: u32,
    length: u8,
    what: What,
    /// Whether it has an entry of its own, and whether that came before those beneath.
    own: bool,
    own_first: bool,
    /// Whether there is something beneath it.
    full: bool,
}

/// A directory that was named within another name before it had an entry of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Implied {
    pub(crate) node: Node,
    /// The name that it was within, and its entry's number.
    pub(crate) leaf: Node,
    pub(crate) number: u64,
}

/// The directories on the way to the name that was looked for last: the next is mostly near it.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    path: Vec<u8>,
    /// Where each directory's part of the path ends, and its node.
    chain: Vec<(usize, Node)>,
}

impl Trail {
    /// Keeps what is also on the way to `path`; how much of that is done, and the node there.
    fn turn(&mut self, path: &[u8]) -> (usize, Node) {
        let same = self.path.iter().zip(path).take_while(|(a, b)| a == b);
        let same = same.count();
        let on_the_way = |end: usize| end <= same && path.get(end) == Some(&b'/');
        let kept = self.chain.partition_point(|(end, _)| on_the_way(*end));
        self.chain.truncate(kept);
        self.path.clear();
        self.path.extend_from_slice(path);
        self.chain.last().copied().unwrap_or((0, ROOT))
    }

    fn push(&mut self, end: usize, node: Node) {
        self.chain.push((end, node));
    }
}

/// All names so far.
#[derive(Debug)]
pub(crate) struct Names {
    names: Vec<Name>,
    bytes: Vec<u8>,
    /// By parent and last part.
    table: HashTable<Node>,
    hasher: RandomState,
    /// How many names each file has now that has had several.
    files: Vec<u32>,
    implied: Vec<Implied>,
    /// How many of them were told.
    told: usize,
    entries: u64,
    trail: Trail,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self {
            names: vec![Name {
                parent: ROOT,
                start: 0,
                file: 0,
                length: 0,
                what: What::Directory,
                own: false,
                own_first: false,
                full: false,
            }],
            bytes: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            files: Vec::new(),
            implied: Vec::new(),
            told: 0,
            entries: 0,
            trail: Trail::default(),
        }
    }

    /// Adds the entry of this number; its node.
    pub(crate) fn add(
        &mut self,
        member: &Member,
        number: u64,
        limits: &Limits,
    ) -> Result<Node, Refusal> {
        if member.name.len() > limits.name_bytes {
            return Err(Refusal::Limit(Limit::NameBytes(limits.name_bytes)));
        }
        let name = clean(&member.name)?;
        let mut linked = None;
        match member.kind {
            Kind::HardLink => {
                let target = link_target(&member.link)?;
                let mut trail = std::mem::take(&mut self.trail);
                let found = self.find(&target, &mut trail);
                self.trail = trail;
                let missing = match member.link.first() {
                    Some(b'/') => Refusal::LinkOutside,
                    _ => Refusal::LinkMissing,
                };
                let Some(found) = found.filter(|found| !self.is_directory(*found)) else {
                    return Err(missing);
                };
                if target == name {
                    // What GNU tar writes of a file that is named twice: it stays what it is.
                    self.entries += 1;
                    return Ok(found);
                }
                linked = Some(found);
            }
            Kind::Symlink => target(&member.link)?,
            _ => {}
        }
        self.entries += 1;
        let node = self.place(&name, member.kind, number, limits)?;
        if let Some(first) = linked {
            self.link(first, node);
        }
        let implied = self.names.len() as u64 - 1;
        if self.entries.max(implied) > limits.entries {
            return Err(Refusal::Limit(Limit::Entries(limits.entries)));
        }
        Ok(node)
    }

    fn place(
        &mut self,
        name: &[u8],
        kind: Kind,
        number: u64,
        limits: &Limits,
    ) -> Result<Node, Refusal> {
        let what = match kind {
            Kind::Directory => What::Directory,
            Kind::Symlink => What::Symlink,
            _ => What::Other,
        };
        let before = self.implied.len();
        if name.is_empty() {
            // Nothing but a directory can stand in the root's place.
            if what != What::Directory {
                return Err(Refusal::EmptyName);
            }
            self.names[0].own = true;
            return Ok(ROOT);
        }
        let (mut done, mut node) = self.trail.turn(name);
        while done < name.len() {
            let (start, end) = next_part(name, done);
            let (part, last) = (&name[start..end], end == name.len());
            done = end;
            match (self.child(node, part), last) {
                (Some(found), false) => match self.names[found as usize].what {
                    What::Directory => node = found,
                    What::Symlink => return Err(Refusal::BeneathLink),
                    What::Other => return Err(Refusal::BeneathFile),
                },
                (Some(found), true) => {
                    let name = &mut self.names[found as usize];
                    if name.full && what != What::Directory {
                        return Err(Refusal::Duplicate);
                    }
                    // The later entry wins, as with an archive that was appended to.
                    name.what = what;
                    name.own = true;
                    node = found;
                    self.unlink(node);
                }
                (None, false) => {
                    node = self.insert(node, part, What::Directory, false, limits)?;
                    self.implied.push(Implied {
                        node,
                        leaf: node,
                        number,
                    });
                }
                (None, true) => node = self.insert(node, part, what, true, limits)?,
            }
            if !last || what == What::Directory {
                self.trail.push(end, node);
            }
        }
        for implied in &mut self.implied[before..] {
            implied.leaf = node;
        }
        Ok(node)
    }

    fn insert(
        &mut self,
        parent: Node,
        part: &[u8],
        what: What,
        own: bool,
        limits: &Limits,
    ) -> Result<Node, Refusal> {
        let beyond = Refusal::Limit(Limit::Entries(limits.entries));
        let node = Node::try_from(self.names.len()).map_err(|_| beyond)?;
        if self.bytes.len() + part.len() > MOST_NAMES {
            return Err(Refusal::Limit(Limit::Names(MOST_NAMES)));
        }
        self.names[parent as usize].full = true;
        self.names.push(Name {
            parent,
            // Neither can be too much: see the limit above, and `clean`.
            start: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
            file: 0,
            length: u8::try_from(part.len()).unwrap_or(u8::MAX),
            what,
            own,
            own_first: own,
            full: false,
        });
        self.bytes.extend_from_slice(part);
        let hash = self.hasher.hash_one((parent, part));
        let Self {
            names,
            bytes,
            table,
            hasher,
            ..
        } = self;
        table.insert_unique(hash, node, |node| {
            let name = &names[*node as usize];
            hasher.hash_one((name.parent, last_part(bytes, name)))
        });
        Ok(node)
    }

    /// A name becomes one of another's file.
    fn link(&mut self, first: Node, node: Node) {
        let mut file = self.names[first as usize].file;
        if file == 0 {
            self.files.push(1);
            // There are no more of them than names.
            file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
            self.names[first as usize].file = file;
        }
        self.files[file as usize - 1] += 1;
        self.names[node as usize].file = file;
    }

    /// A name is no more one of a file's.
    fn unlink(&mut self, node: Node) {
        let file = std::mem::take(&mut self.names[node as usize].file);
        if file > 0 {
            self.files[file as usize - 1] -= 1;
        }
    }

    /// How many names the file of this name has so far.
    pub(crate) fn links(&self, node: Node) -> u32 {
        match self.names[node as usize].file {
            0 => 1,
            file => self.files[file as usize - 1],
        }
    }

    fn child(&self, parent: Node, part: &[u8]) -> Option<Node> {
        let hash = self.hasher.hash_one((parent, part));
        let found = self.table.find(hash, |node| {
            let name = &self.names[*node as usize];
            name.parent == parent && last_part(&self.bytes, name) == part
        });
        found.copied()
    }

    /// The node of a clean name.
    pub(crate) fn find(&self, name: &[u8], trail: &mut Trail) -> Option<Node> {
        let (mut done, mut node) = trail.turn(name);
        while done < name.len() {
            let (start, end) = next_part(name, done);
            node = self.child(node, &name[start..end])?;
            if self.is_directory(node) {
                trail.push(end, node);
            }
            done = end;
        }
        Some(node)
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn implied(&self) -> &[Implied] {
        &self.implied
    }

    /// How many directories were implied since this was asked last.
    pub(crate) fn take_implied(&mut self) -> usize {
        let before = std::mem::replace(&mut self.told, self.implied.len());
        self.implied.len() - before
    }

    /// How many names there are, the root included.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn parent(&self, node: Node) -> Node {
        self.names[node as usize].parent
    }

    /// Its last part.
    pub(crate) fn part(&self, node: Node) -> &[u8] {
        last_part(&self.bytes, &self.names[node as usize])
    }

    pub(crate) fn is_directory(&self, node: Node) -> bool {
        self.names[node as usize].what == What::Directory
    }

    /// Whether it was there, with an entry of its own, before anything beneath it.
    pub(crate) fn own_first(&self, node: Node) -> bool {
        self.names[node as usize].own_first
    }

    /// The directory of this name at the top of the archive, if everything is in it and it has an
    /// entry of its own, and the root itself has none.
    pub(crate) fn only_folder(&self, name: &[u8]) -> Option<Node> {
        if self.names[0].own {
            return None;
        }
        let node = self.child(ROOT, name)?;
        let folder = &self.names[node as usize];
        let mut at_top = self.names.iter().skip(1).filter(|name| name.parent == ROOT);
        let only = at_top.nth(1).is_none();
        (only && folder.own && folder.what == What::Directory).then_some(node)
    }

    /// The way from `top` to a name beneath it.
    pub(crate) fn path(&self, top: Node, node: Node) -> Vec<u8> {
        let mut chain = Vec::new();
        let mut at = node;
        while at != top && at != ROOT {
            let name = &self.names[at as usize];
            chain.push(last_part(&self.bytes, name));
            at = name.parent;
        }
        chain.reverse();
        chain.join(&b'/')
    }
}

fn last_part<'a>(bytes: &'a [u8], name: &Name) -> &'a [u8] {
    &bytes[name.start as usize..][..name.length.into()]
}

/// Where the next part of a clean name is, when what is before `done` was gone through.
fn next_part(name: &[u8], done: usize) -> (usize, usize) {
    let start = if done == 0 { 0 } else { done + 1 };
    let length = name[start..].iter().position(|byte| *byte == b'/');
    (start, length.map_or(name.len(), |length| start + length))
}

/// The parts of a name that matter.
fn parts(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

/// A name without what does not matter; empty for the root itself.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    if name.is_empty() {
        return Err(Refusal::EmptyName);
    }
    if name.contains(&0) {
        return Err(Refusal::ZeroInName);
    }
    if name[0] == b'/' {
        return Err(Refusal::AbsoluteName);
    }
    let mut clean = Vec::with_capacity(name.len());
    for part in parts(name) {
        if part == b".." {
            return Err(Refusal::UpwardName);
        }
        if part.len() > 255 {
            return Err(Refusal::LongName);
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

/// The name that a hard link leads to. An absolute one means the archive's own root: other programs leave
/// the slash there when they take it from the names.
pub(crate) fn link_target(link: &[u8]) -> Result<Vec<u8>, Refusal> {
    let slashes = link.iter().take_while(|byte| **byte == b'/').count();
    clean(&link[slashes..]).map_err(|_| Refusal::LinkOutside)
}

/// A symbolic link's target may be anything that the kernel takes: it is never followed.
fn target(link: &[u8]) -> Result<(), Refusal> {
    if link.contains(&0) {
        return Err(Refusal::ZeroInName);
    }
    if link.is_empty() || link.len() > 4095 {
        return Err(Refusal::LinkTarget);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
