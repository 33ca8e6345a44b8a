//! Random changes of a tree.

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags, linkat,
    lremovexattr, lsetxattr, makedev, mknodat, renameat_with, utimensat,
};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// A name out of few, so that changes meet; up to four deep, one of them not UTF-8.
pub fn place() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(0..4_u8, 1..5).prop_map(|parts| {
        let name = |part| match part {
            0 => super::name(b"a"),
            1 => super::name(b"b\xff"),
            2 => super::name(b"c"),
            _ => super::name(b"d"),
        };
        parts.into_iter().map(name).collect()
    })
}

#[derive(Debug, Clone)]
pub enum Change {
    Write(PathBuf, u8),
    Append(PathBuf),
    Unlink(PathBuf),
    RemoveDir(PathBuf),
    RemoveTree(PathBuf),
    MakeDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32),
    Attribute(PathBuf, u8),
    NoAttribute(PathBuf, u8),
    Node(PathBuf, u8),
    /// Gives it one of few times.
    Touch(PathBuf, u8),
    /// Whatever it is becomes a file, a file becomes a directory.
    Replace(PathBuf),
}

fn change() -> impl Strategy<Value = Change> {
    use Change::*;
    let two = || (place(), place());
    prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|(p, n)| Write(p, n)),
        1 => place().prop_map(Append),
        4 => place().prop_map(Unlink),
        3 => place().prop_map(RemoveDir),
        3 => place().prop_map(RemoveTree),
        8 => place().prop_map(MakeDir),
        4 => two().prop_map(|(a, b)| Rename(a, b)),
        1 => two().prop_map(|(a, b)| Exchange(a, b)),
        2 => two().prop_map(|(a, b)| Symlink(a, b)),
        2 => two().prop_map(|(a, b)| Link(a, b)),
        2 => (place(), prop::sample::select(vec![0o000, 0o644, 0o4755, 0o2775, 0o1777]))
            .prop_map(|(p, m)| Mode(p, m)),
        1 => (place(), 0..3_u32).prop_map(|(p, o)| Owner(p, o)),
        2 => (place(), 0..5_u8).prop_map(|(p, n)| Attribute(p, n)),
        1 => (place(), 0..5_u8).prop_map(|(p, n)| NoAttribute(p, n)),
        1 => (place(), 0..3_u8).prop_map(|(p, n)| Node(p, n)),
        2 => (place(), 0..3_u8).prop_map(|(p, n)| Touch(p, n)),
        3 => place().prop_map(Replace),
    ]
}

/// Names and values of attributes; the fourth and fifth are an access list of a user more.
fn attribute(number: u8) -> (&'static str, &'static [u8]) {
    const LIST: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x05\0\x07\0\0\0\
        \x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    match number {
        0 => ("user.a", b"value"),
        1 => (
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        2 => ("trusted.b", b""),
        3 => ("system.posix_acl_access", LIST),
        _ => ("system.posix_acl_default", LIST),
    }
}

/// Opens for writing, without waiting for a pipe's reader.
fn open(path: &Path, new: bool) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.create(new).truncate(new).write(new).append(!new);
    options.custom_flags(nix::libc::O_NONBLOCK).open(path)
}

impl Change {
    /// Most fail now and then, as there is no such place; that is all right.
    pub fn make(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        match self {
            Self::Write(path, n) => {
                open(&at(path), true)?.write_all(&vec![*n; usize::from(*n) * 40])?
            }
            Self::Append(path) => open(&at(path), false)?.write_all(b"more")?,
            Self::Unlink(path) => fs::remove_file(at(path))?,
            Self::RemoveDir(path) => fs::remove_dir(at(path))?,
            Self::RemoveTree(path) => fs::remove_dir_all(at(path))?,
            Self::MakeDir(path) => fs::create_dir_all(at(path))?,
            Self::Rename(from, to) => fs::rename(at(from), at(to))?,
            Self::Exchange(from, to) => {
                renameat_with(CWD, at(from), CWD, at(to), RenameFlags::EXCHANGE)?;
            }
            Self::Symlink(to, path) => symlink(to, at(path))?,
            Self::Link(from, to) => linkat(CWD, at(from), CWD, at(to), AtFlags::empty())?,
            Self::Mode(path, mode) => {
                // Not through a link, which may lead anywhere.
                if !at(path).is_symlink() {
                    fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
                }
            }
            Self::Owner(path, owner) => lchown(at(path), Some(*owner), Some(owner + 10))?,
            Self::Attribute(path, number) => {
                let (name, value) = attribute(*number);
                lsetxattr(at(path), name, value, XattrFlags::empty())?;
            }
            Self::NoAttribute(path, number) => lremovexattr(at(path), attribute(*number).0)?,
            Self::Node(path, number) => {
                let (kind, device) = match number {
                    0 => (FileType::Fifo, 0),
                    1 => (FileType::Socket, 0),
                    _ => (FileType::CharacterDevice, makedev(1, 3)),
                };
                mknodat(CWD, at(path), kind, Mode::RUSR, device)?;
            }
            Self::Touch(path, number) => {
                let time = Timespec {
                    tv_sec: 1_000_000,
                    tv_nsec: (*number).into(),
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::Replace(path) => {
                if fs::symlink_metadata(at(path))?.is_dir() {
                    fs::remove_dir_all(at(path))?;
                    fs::write(at(path), b"was a directory")?;
                } else {
                    fs::remove_file(at(path))?;
                    fs::create_dir(at(path))?;
                }
            }
        }
        Ok(())
    }
}

pub fn changes(max: usize) -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 0..max)
}
