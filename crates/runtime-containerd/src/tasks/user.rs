//! Who runs a command: names looked up in the container's own files, which are hostile.

use crate::op::Op;
use botstead_runtime::{ErrorKind, ExecUser, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use std::fs::File;
use std::io::Read;

/// More of a file is not read.
const LIMIT: u64 = 1 << 20;

fn split(user: &ExecUser) -> (&str, Option<&str>) {
    match user.0.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user.0.as_str(), None),
    }
}

/// User and group id where no file has to be read for them.
pub(super) fn number(user: &ExecUser) -> Option<(u32, u32)> {
    match split(user) {
        ("", None) => Some((0, 0)),
        (uid, Some(gid)) => Some((uid.parse().ok()?, gid.parse().ok()?)),
        _ => None,
    }
}

/// User and group id, by the files of the container with this process.
pub(super) fn resolve(op: &Op, user: &ExecUser, pid: u32) -> Result<(u32, u32)> {
    let (name, group) = split(user);
    find(
        name,
        group,
        || read(pid, "/etc/passwd"),
        || read(pid, "/etc/group"),
    )
    .ok_or_else(|| op.fail(ErrorKind::InvalidArgument, "there is no such user or group"))
}

fn find(
    name: &str,
    group: Option<&str>,
    passwd: impl Fn() -> String,
    groups: impl Fn() -> String,
) -> Option<(u32, u32)> {
    let number: Option<u32> = name.parse().ok();
    let passwd = passwd();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        (fields[0] == name || number == Some(uid)).then_some((uid, gid))
    });
    let (uid, own): (u32, u32) = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(uid)) => (uid, 0),
        (None, None) => return None,
    };
    let gid = match group {
        None => own,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => groups().lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
            })?,
        },
    };
    Some((uid, gid))
}

/// A file of the container, or nothing where it has none or it is not a regular one.
fn read(pid: u32, path: &str) -> String {
    let read = || -> std::io::Result<String> {
        let root = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        let file = openat2(
            &root,
            path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        File::from(file).take(LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_file() {
        for (user, expected) in [
            ("", Some((0, 0))),
            ("7:8", Some((7, 8))),
            ("7", None),
            ("7:staff", None),
            ("bot", None),
            (":8", None),
        ] {
            assert_eq!(number(&ExecUser(user.to_owned())), expected, "{user}");
        }
    }

    #[test]
    fn names_and_numbers_are_found() {
        let passwd = || "broken\nroot:x:0:0::/:\nbot:x:1000:1001::/:\n".to_owned();
        let groups = || "x\nstaff:x:50:\n".to_owned();
        for (name, group, expected) in [
            ("bot", None, Some((1000, 1001))),
            ("1000", None, Some((1000, 1001))),
            ("77", None, Some((77, 0))),
            ("bot", Some("staff"), Some((1000, 50))),
            ("bot", Some("7"), Some((1000, 7))),
            ("bot", Some("nobody"), None),
            ("nobody", None, None),
        ] {
            assert_eq!(
                find(name, group, passwd, groups),
                expected,
                "{name}:{group:?}"
            );
        }
    }
}
