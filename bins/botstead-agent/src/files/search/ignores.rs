//! What `.gitignore` and `.ignore` files leave out.

use crate::files::entry::kind;
use crate::files::path::InsidePath;
use crate::files::root::{Root, open_name, stat_at, stat_fd};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Those of a directory, the first one with an opinion decides.
const NAMES: [&[u8]; 2] = [b".ignore", b".gitignore"];

/// Larger files are left unread, and further ones when those in force have this many bytes together:
/// each becomes a set of automata.
const MOST_BYTES: usize = 256 << 10;
const MOST_BYTES_TOGETHER: usize = 1 << 20;

/// A byte order mark, which is no part of the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// How far up above the place of a search files are looked for.
const MOST_ABOVE: usize = 64;

/// The rules of one file.
#[derive(Debug)]
struct Rules {
    /// How deep the walk was when they were read; 0 above and at the place.
    depth: usize,
    /// How much of an absolute path stands before what the rules are about.
    base: usize,
    bytes: usize,
    rules: Gitignore,
}

/// The rules in force where a walk is.
#[derive(Debug, Default)]
pub(super) struct Ignores {
    rules: Vec<Rules>,
}

impl Ignores {
    /// The rules above a place: up to the top of the repository that it is in, or the root.
    pub(super) fn above(root: &Root, place: &[u8]) -> Self {
        let mut ignores = Self::default();
        let mut above = Vec::new();
        let mut path = InsidePath::parse(place).unwrap_or_else(|_| InsidePath::root());
        let open = |path: &InsidePath| root.open_at(path, OFlags::PATH | OFlags::DIRECTORY);
        let is_top = |directory: &OwnedFd| stat_at(directory, b".git").is_ok();
        while above.len() < MOST_ABOVE && open(&path).is_ok_and(|here| !is_top(&here)) {
            let Some((parent, _)) = path.split() else {
                break;
            };
            let Ok(directory) = open(&parent) else {
                break;
            };
            above.push((directory, parent.absolute().to_vec()));
            path = parent;
        }
        for (directory, path) in above.iter().rev() {
            ignores.enter(directory, path, 0);
        }
        ignores
    }

    /// Reads the rules of a directory that the walk goes into.
    pub(super) fn enter(&mut self, directory: &OwnedFd, path: &[u8], depth: usize) {
        let base = path.len() + usize::from(path.last() != Some(&b'/'));
        // Those of a repository that are not in its tree come before all that are.
        if let Some(info) = info_of_repository(directory) {
            self.add(&info, b"exclude", depth, base);
        }
        for name in NAMES.iter().rev() {
            self.add(directory, name, depth, base);
        }
    }

    fn add(&mut self, directory: &OwnedFd, name: &[u8], depth: usize, base: usize) {
        let together: usize = self.rules.iter().map(|rules| rules.bytes).sum();
        if together >= MOST_BYTES_TOGETHER {
            return;
        }
        // One that cannot be read or is no text rules nothing, as in git.
        if let Some((rules, bytes)) = read(directory, name) {
            self.rules.push(Rules {
                depth,
                base,
                bytes,
                rules,
            });
        }
    }

    /// Forgets the rules of directories that the walk has left, which is at this depth now.
    pub(super) fn leave(&mut self, depth: usize) {
        while self.rules.last().is_some_and(|rules| rules.depth > depth) {
            self.rules.pop();
        }
    }

    /// Whether the entry at an absolute path is left out.
    pub(super) fn ignores(&self, path: &[u8], is_directory: bool) -> bool {
        // The last ones are the nearest.
        for rules in self.rules.iter().rev() {
            let Some(below) = path.get(rules.base..) else {
                continue;
            };
            let below = Path::new(OsStr::from_bytes(below));
            match rules.rules.matched(below, is_directory) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }
}

/// The folder with a repository's own settings, where one begins here.
fn info_of_repository(directory: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let git = open_name(directory, b".git", flags).ok()?;
    open_name(git, b"info", flags).ok()
}

fn read(directory: &OwnedFd, name: &[u8]) -> Option<(Gitignore, usize)> {
    let file = open_name(directory, name, OFlags::RDONLY).ok()?;
    if kind(&stat_fd(&file).ok()?) != FileType::RegularFile {
        return None;
    }
    let mut text = Vec::new();
    let most = MOST_BYTES as u64 + 1;
    File::from(file).take(most).read_to_end(&mut text).ok()?;
    if text.len() > MOST_BYTES {
        return None;
    }
    let mut builder = GitignoreBuilder::new("");
    let lines = text.strip_prefix(MARK).unwrap_or(&text);
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A line that is no glob rules nothing.
        if let Ok(line) = std::str::from_utf8(line) {
            let _ = builder.add_line(None, line);
        }
    }
    let rules = builder.build().ok()?;
    (!rules.is_empty()).then_some((rules, text.len()))
}
