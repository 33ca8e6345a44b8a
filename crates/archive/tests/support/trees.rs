//! Random trees on a real filesystem: every kind, odd names, modes, times, holes, attributes.

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, linkat, lsetxattr,
    mknodat, utimensat,
};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub enum Step {
    Directory(PathBuf),
    /// So many bytes, of this kind.
    File(PathBuf, usize, u8),
    /// Pieces of a file with holes, in blocks of 4 KiB, and its length in them.
    Sparse(PathBuf, Vec<u64>, u64),
    Symlink(Vec<u8>, PathBuf),
    Link(PathBuf, PathBuf),
    Fifo(PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32, u32),
    Attribute(PathBuf, u8),
    Time(PathBuf, i64, i64),
}

/// Few names, so that steps meet; among them all that needs care.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let names = vec![
        b"a".to_vec(),
        b"b".to_vec(),
        b"data".to_vec(),
        b"\xff\xfe\n".to_vec(),
        "gr\u{fc}n \u{1f980}".as_bytes().to_vec(),
        b"-rf *'\"\\".to_vec(),
        b"x=1\n99 y".to_vec(),
        b"..c".to_vec(),
        vec![b'l'; 100],
        vec![b'm'; 156],
        [vec![b'n'; 254], vec![0xff]].concat(),
    ];
    prop::sample::select(names)
}

fn place() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(part(), 1..4).prop_map(|parts| {
        let bytes = parts.join(&b'/');
        PathBuf::from(OsString::from_vec(bytes))
    })
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        part(),
        Just(b"/etc/passwd".to_vec()),
        Just(b"../../..".to_vec()),
        Just(vec![b't'; 101]),
        Just(vec![b'/'; 3000]),
        Just(b"\xff\n".to_vec()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let length = prop_oneof![Just(0), 0..2000_usize, 400_000..700_000_usize];
    let modes = vec![0o000, 0o644, 0o4755, 0o2775, 0o1777, 0o7777];
    let owners = vec![0, 1000, 2_097_151, 2_097_152, u32::MAX - 1];
    let owner = prop::sample::select(owners);
    let seconds = prop_oneof![
        Just(0),
        Just(-1),
        Just((8 << 30) + 5),
        -2_000_000_000..4_000_000_000_i64
    ];
    prop_oneof![
        6 => place().prop_map(Directory),
        8 => (place(), length, any::<u8>()).prop_map(|(p, l, k)| File(p, l, k)),
        2 => (place(), prop::collection::vec(0..500_u64, 0..6), 0..600_u64)
            .prop_map(|(p, pieces, end)| Sparse(p, pieces, end)),
        3 => (target(), place()).prop_map(|(t, p)| Symlink(t, p)),
        3 => (place(), place()).prop_map(|(a, b)| Link(a, b)),
        1 => place().prop_map(Fifo),
        4 => (place(), prop::sample::select(modes)).prop_map(|(p, m)| Mode(p, m)),
        4 => (place(), owner.clone(), owner).prop_map(|(p, u, g)| Owner(p, u, g)),
        5 => (place(), 0..7_u8).prop_map(|(p, n)| Attribute(p, n)),
        5 => (place(), seconds, 0..1_000_000_000_i64).prop_map(|(p, s, n)| Time(p, s, n)),
    ]
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..most)
}

/// Names and values of attributes.
pub fn attribute(number: u8) -> (&'static str, &'static [u8]) {
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
        4 => ("system.posix_acl_default", LIST),
        5 => (
            "user.with=equals\n and %3D %25 \u{20ac}",
            b"\0\n9 x=y\n\xff",
        ),
        _ => ("user.long", &[b'\n'; 1500]),
    }
}

/// Makes them; those that do not fit what is there do nothing. Directories' times come last.
pub fn make(root: &Path, steps: &[Step]) {
    for step in steps {
        // Whether it fits is random.
        let _ = step.make(root);
    }
    for step in steps {
        if matches!(step, Step::Time(..)) {
            let _ = step.make(root);
        }
    }
}

impl Step {
    fn make(&self, root: &Path) -> io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        match self {
            Self::Directory(path) => fs::create_dir_all(at(path)),
            Self::File(path, length, kind) => {
                let bytes: Vec<u8> = (0..*length)
                    .map(|n| (n * usize::from(*kind) / 7).to_le_bytes()[0])
                    .collect();
                new(&at(path))?.write_all_at(&bytes, 0)
            }
            Self::Sparse(path, pieces, end) => {
                let file = new(&at(path))?;
                file.set_len(end * 4096)?;
                for piece in pieces {
                    file.write_all_at(&[7; 4096], piece * 4096)?;
                }
                Ok(())
            }
            Self::Symlink(target, path) => symlink(OsString::from_vec(target.clone()), at(path)),
            Self::Link(from, to) => Ok(linkat(CWD, at(from), CWD, at(to), AtFlags::empty())?),
            Self::Fifo(path) => Ok(mknodat(CWD, at(path), FileType::Fifo, Mode::RUSR, 0)?),
            Self::Mode(path, mode) => {
                // Not through a link, which may lead anywhere.
                if at(path).is_symlink() {
                    return Ok(());
                }
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Self::Owner(path, user, group) => lchown(at(path), Some(*user), Some(*group)),
            Self::Attribute(path, number) => {
                let (name, value) = attribute(*number);
                Ok(lsetxattr(at(path), name, value, XattrFlags::empty())?)
            }
            Self::Time(path, seconds, nanoseconds) => {
                let times = Timestamps {
                    last_access: Timespec {
                        tv_sec: 0,
                        tv_nsec: UTIME_OMIT,
                    },
                    last_modification: Timespec {
                        tv_sec: *seconds,
                        tv_nsec: *nanoseconds,
                    },
                };
                Ok(utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }
}

fn new(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).open(path)
}
