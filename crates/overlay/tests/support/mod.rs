//! Real overlay mounts in a mount namespace of the test's own thread, and a picture of a tree.

// Each test program uses a part of this, and `pub` is the one way to share it.
#![allow(dead_code, unreachable_pub)]
// Clippy knows tests by their attribute only.
#![allow(clippy::unwrap_used)]

pub mod changes;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{
    AtFlags, CWD, FileType, RawMode, StatxFlags, XattrFlags, lgetxattr, llistxattr, lsetxattr,
    statx,
};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image of one or more layers, layers above it, and mounts that show them.
pub struct Stack {
    dir: PathBuf,
    pub image: Vec<PathBuf>,
    pub layers: Vec<PathBuf>,
    made: usize,
}

impl Stack {
    /// Needs root, like the merge. All mounts vanish with the thread.
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let dir = tempfile::Builder::new().prefix("ov").tempdir().unwrap();
        let mut stack = Self {
            dir: dir.keep(),
            image: Vec::new(),
            layers: Vec::new(),
            made: 0,
        };
        let base = stack.fresh("i");
        stack.image.push(base);
        stack
    }

    pub fn image(&self) -> &Path {
        &self.image[0]
    }

    /// A new directory.
    pub fn fresh(&mut self, kind: &str) -> PathBuf {
        self.made += 1;
        let path = self.dir.join(format!("{kind}{}", self.made));
        fs::DirBuilder::new().mode(0o755).create(&path).unwrap();
        path
    }

    /// Mounts layers at a new place, with an upper directory or read-only.
    pub fn mount(&mut self, bottom_up: &[PathBuf], upper: Option<&Path>) -> PathBuf {
        let at = self.fresh("m");
        let lower: Vec<_> = bottom_up
            .iter()
            .rev()
            .map(|p| p.to_str().unwrap())
            .collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if let Some(upper) = upper {
            let work = self.fresh("w");
            options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
        } else if bottom_up.len() == 1 {
            let empty = self.fresh("e");
            options += &format!(":{}", empty.display());
        }
        mount(
            Some("overlay"),
            &at,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        at
    }

    /// Everything from the bottom up.
    pub fn all(&self) -> Vec<PathBuf> {
        self.image.iter().chain(&self.layers).cloned().collect()
    }

    /// Adds a layer that holds what `change` does in a real mount of the stack.
    pub fn layer(&mut self, change: impl FnOnce(&Path)) {
        let upper = self.fresh("l");
        let below = self.all();
        let at = self.mount(&below, Some(&upper));
        change(&at);
        unmount(&at);
        self.layers.push(upper);
    }

    /// Adds a layer made by hand, which no mount made.
    pub fn raw_layer(&mut self, change: impl FnOnce(&Path)) {
        let upper = self.fresh("l");
        change(&upper);
        self.layers.push(upper);
    }

    /// Turns the layers so far into image layers.
    pub fn freeze_image(&mut self) {
        self.image.append(&mut self.layers);
    }

    pub fn picture(&mut self, bottom_up: &[PathBuf]) -> Picture {
        let at = self.mount(bottom_up, None);
        let picture = Picture::of(&at);
        unmount(&at);
        picture
    }

    /// Merges all layers into one.
    pub fn merge(
        &mut self,
    ) -> Result<(PathBuf, botstead_overlay::MergeReport), botstead_overlay::Error> {
        let target = self.fresh("t");
        let report = botstead_overlay::merge(&self.layers, &self.image, &target)?;
        Ok((target, report))
    }

    /// Merges and compares the picture of the stack with that of the result; then also that of
    /// another layer written on both.
    pub fn check(&mut self) -> (PathBuf, botstead_overlay::MergeReport) {
        let all = self.all();
        let expected = self.picture(&all);
        let (target, report) = self.merge().unwrap();
        let mut flat = self.image.clone();
        flat.push(target.clone());
        self.picture(&flat).assert_same(&expected);
        self.picture(&all).assert_same(&expected);
        (target, report)
    }
}

/// Also while a process that another test starts has our descriptors, until it is executed.
pub fn unmount(at: &Path) {
    umount2(at, MntFlags::MNT_DETACH).unwrap();
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Deeper than the standard library can remove.
        let removed = Command::new("rm").arg("-rf").arg(&self.dir).status();
        assert!(removed.is_ok_and(|status| status.success()));
    }
}

/// All that can be seen of an entry, but for times of access and change and the number of links.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: u64,
    pub modified: (i64, i64),
    pub content: Vec<u8>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file.
    pub same_as: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Picture(pub BTreeMap<PathBuf, Entry>);

impl Picture {
    pub fn of(root: &Path) -> Self {
        let mut all = BTreeMap::new();
        let mut inodes = BTreeMap::new();
        let mut names = vec![PathBuf::new()];
        while let Some(name) = names.pop() {
            let path = root.join(&name);
            // A name that is listed but cannot be looked at is a whiteout showing through.
            let meta = fs::symlink_metadata(&path)
                .unwrap_or_else(|error| panic!("{name:?} is listed, but: {error}"));
            let content = if meta.is_dir() {
                names.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|e| name.join(e.unwrap().file_name())),
                );
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            if !meta.is_dir() {
                inodes
                    .entry(meta.ino())
                    .or_insert_with(Vec::new)
                    .push(name.clone());
            }
            let entry = Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                device: meta.rdev(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                content,
                attributes: attributes(&path),
                same_as: None,
            };
            all.insert(name, entry);
        }
        for mut names in inodes.into_values() {
            names.sort();
            for name in &names[1..] {
                all.get_mut(name).unwrap().same_as = Some(names[0].clone());
            }
        }
        Self(all)
    }

    #[track_caller]
    pub fn assert_same(&self, expected: &Self) {
        for (name, entry) in &expected.0 {
            assert_eq!(self.0.get(name), Some(entry), "at {name:?}");
        }
        for name in self.0.keys() {
            assert!(expected.0.contains_key(name), "{name:?} is too much");
        }
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> &Entry {
        self.0
            .get(Path::new(name))
            .unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(Path::new(name))
    }
}

pub fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let length = llistxattr(path, &mut list[..]).unwrap();
    list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

pub fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// What a layer's directory itself has there.
pub fn is_whiteout(path: &Path) -> bool {
    let Ok(stat) = statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    ) else {
        return false;
    };
    let kind = FileType::from_raw_mode(RawMode::from(stat.stx_mode));
    kind == FileType::CharacterDevice && (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0)
}

pub fn is_opaque(path: &Path) -> bool {
    attributes(path).get(b"trusted.overlay.opaque".as_slice()) == Some(&b"y".to_vec())
}

pub fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
