//! What an answer says of a file.

use super::failure::{Result, failed};
use super::root::{Root, is_virtual, stat_at, stat_fd};
use botstead_bridge::proto::Entry;
use botstead_bridge::proto::entry::Kind;
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags, RawMode, Statx, StatxTimestamp, readlinkat};

/// What is at a name in a directory, a link itself where it is one. `path` is that of the entry.
pub(crate) fn look(root: &Root, directory: impl AsFd, name: &[u8], path: Vec<u8>) -> Result<Entry> {
    let directory = directory.as_fd();
    let stat = stat_at(directory, name).map_err(|errno| failed("look at", &path, errno))?;
    let mut entry = entry(path, &stat);
    if kind(&stat) == FileType::RegularFile && is_virtual(directory).unwrap_or(false) {
        entry.revision.clear();
    }
    if kind(&stat) == FileType::Symlink {
        let target = readlinkat(directory, name, Vec::new())
            .map_err(|errno| failed("follow", &entry.path, errno))?;
        entry.target = target.into_bytes().into();
        entry.target_kind = target_kind(root, &entry.path).into();
    }
    Ok(entry)
}

/// An entry, without what a link holds.
pub(crate) fn entry(path: Vec<u8>, stat: &Statx) -> Entry {
    let file_type = kind(stat);
    Entry {
        path: path.into(),
        kind: proto_kind(file_type).into(),
        size: stat.stx_size,
        mode: u32::from(stat.stx_mode) & 0o7777,
        modified_ns: nanoseconds(&stat.stx_mtime),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        target: Default::default(),
        target_kind: Kind::Other.into(),
        revision: match file_type {
            FileType::RegularFile => revision(stat),
            _ => String::new(),
        },
    }
}

pub(crate) fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(RawMode::from(stat.stx_mode))
}

pub(crate) fn proto_kind(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => Kind::Other,
    }
}

/// A word for the state of a file: inode number, size, and the times of its last change of data and
/// of anything, in hexadecimal. It comes from the inode alone, so it costs the same for any size. The
/// last time moves with every change, also where a program sets the first one back; a file that was
/// replaced has another inode. Before kernel 6.13 a change of equal size within one tick (at most
/// 10 ms) of the one before can go unseen.
pub(crate) fn revision(stat: &Statx) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}",
        stat.stx_ino,
        stat.stx_size,
        nanoseconds(&stat.stx_mtime),
        nanoseconds(&stat.stx_ctime)
    )
}

/// Nanoseconds since 1970; times that do not fit are held at the ends.
pub(crate) fn nanoseconds(time: &StatxTimestamp) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(time.tv_nsec))
}

fn target_kind(root: &Root, path: &[u8]) -> Kind {
    root.open_raw(path, OFlags::PATH)
        .and_then(stat_fd)
        .map_or(Kind::Other, |stat| proto_kind(kind(&stat)))
}
