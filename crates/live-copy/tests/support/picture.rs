//! All that a copy of a tree has to have, as one value to compare.

use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, lgetxattr, llistxattr, openat};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What can be seen of an entry, but for the times of access and change, the link count (the links show
/// themselves) and the number.
#[derive(PartialEq, Eq)]
pub struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: u64,
    pub modified: (i64, i64),
    pub size: u64,
    pub content: Vec<u8>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub flags: u32,
    /// The first name of the same file. Whiteouts share one inode at the kernel's will, which has no
    /// meaning.
    pub same_as: Option<PathBuf>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sum = 0_u64;
        for byte in &self.content {
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        }
        write!(
            f,
            "{:o} {:?} device {} modified {:?} {} bytes (sum {sum:x}, begins {:?}) {:?} flags {:x} = {:?}",
            self.mode,
            self.owner,
            self.device,
            self.modified,
            self.size,
            &self.content[..self.content.len().min(8)],
            self.attributes
                .iter()
                .map(|(name, value)| (String::from_utf8_lossy(name), value))
                .collect::<Vec<_>>(),
            self.flags,
            self.same_as,
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Picture(pub BTreeMap<PathBuf, Entry>);

impl Picture {
    /// Of a tree that nobody changes.
    #[track_caller]
    pub fn of(root: &Path) -> Self {
        Self::attempt(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()))
    }

    /// Of a tree that someone may change, which then fails or is no picture of any moment.
    pub fn attempt(root: &Path) -> io::Result<Self> {
        let mut all = BTreeMap::new();
        let mut inodes = BTreeMap::new();
        let mut names = vec![PathBuf::new()];
        while let Some(name) = names.pop() {
            let path = root.join(&name);
            let meta = fs::symlink_metadata(&path)?;
            let mut flags = 0;
            let mut content = Vec::new();
            if meta.is_dir() {
                for entry in fs::read_dir(&path)? {
                    names.push(name.join(entry?.file_name()));
                }
                flags = inode_flags(&path)?;
            } else if meta.is_symlink() {
                content = fs::read_link(&path)?.into_os_string().into_vec();
            } else if meta.is_file() {
                content = fs::read(&path)?;
                flags = inode_flags(&path)?;
            }
            let is_whiteout = meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0;
            if !meta.is_dir() && !is_whiteout {
                let same: &mut Vec<_> = inodes.entry(meta.ino()).or_default();
                same.push(name.clone());
            }
            let entry = Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                device: meta.rdev(),
                // A whiteout is never seen, and overlayfs links all of a mount to one inode.
                modified: match is_whiteout {
                    true => (0, 0),
                    false => (meta.mtime(), meta.mtime_nsec()),
                },
                size: if meta.is_dir() { 0 } else { meta.size() },
                content,
                attributes: attributes(&path)?,
                flags,
                same_as: None,
            };
            all.insert(name, entry);
        }
        for mut names in inodes.into_values() {
            names.sort();
            for name in &names[1..] {
                if let Some(entry) = all.get_mut(name) {
                    entry.same_as = Some(names[0].clone());
                }
            }
        }
        Ok(Self(all))
    }

    /// Fails with everything that is different.
    #[track_caller]
    pub fn assert_same(&self, expected: &Self) {
        let mut different = Vec::new();
        for (name, entry) in &expected.0 {
            match self.0.get(name) {
                None => different.push(format!("{name:?} is missing: {entry:?}")),
                Some(own) if own != entry => {
                    different.push(format!("{name:?} is\n    {own:?}, not\n    {entry:?}"));
                }
                Some(_) => {}
            }
        }
        for (name, entry) in &self.0 {
            if !expected.0.contains_key(name) {
                different.push(format!("{name:?} is too much: {entry:?}"));
            }
        }
        assert!(
            different.is_empty(),
            "{} differences in {} entries:\n  {}",
            different.len(),
            expected.0.len(),
            different.join("\n  ")
        );
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

/// The flags that a user can set and that a copy has.
fn inode_flags(path: &Path) -> io::Result<u32> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let wanted = IFlags::NODUMP
        | IFlags::NOATIME
        | IFlags::SYNC
        | IFlags::DIRSYNC
        | IFlags::APPEND
        | IFlags::IMMUTABLE;
    let file = openat(CWD, path, flags, Mode::empty())?;
    Ok(ioctl_getflags(&file).map_or(0, |flags| (flags & wanted).bits()))
}

pub fn attributes(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 65536];
    let length = llistxattr(path, &mut list[..])?;
    list[..length]
        .split(|byte| *byte == 0)
        // The identity of the mount.
        .filter(|name| !name.is_empty() && *name != b"trusted.overlay.uuid")
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(path, name, &mut value[..])?;
            value.truncate(length);
            Ok((name.to_vec(), value))
        })
        .collect()
}

pub fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
