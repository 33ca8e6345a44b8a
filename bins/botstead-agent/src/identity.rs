//! Who a process runs as: users and groups as the image's `/etc/passwd` and `/etc/group` have them.
//!
//! The files are the workspace's own and may change at any time, so they are read at every use, and
//! as what they are: hostile. No name service is asked, as container runtimes do not either.

use botstead_bridge::{Failure, FailureKind};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// More of a file is not looked at.
const MOST_BYTES: u64 = 1 << 20;
/// `NGROUPS_MAX` is larger; a process in more groups than this is a mistake in the file.
const MOST_GROUPS: usize = 1024;

/// A user with what a process of theirs needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The user's number.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// The user's name, where the image has one for the number.
    pub name: Option<String>,
    /// The user's home, where the image names one.
    pub home: Option<PathBuf>,
    /// The user's shell, where the image names one.
    pub shell: Option<PathBuf>,
}

/// Looks a user up inside this filesystem: `user`, `uid`, `user:group` or `uid:gid`; empty is 0:0.
///
/// Numbers need no entry. As in container runtimes, a user without entry is in group 0, and a group
/// that is named is the only one.
///
/// # Errors
/// `NO_SUCH_USER` for a name without entry.
pub fn look_up(user: &str) -> Result<Identity, Failure> {
    let passwd = read(Path::new("/etc/passwd"));
    let group = read(Path::new("/etc/group"));
    resolve(user, &passwd, &group)
}

/// A regular file's beginning; empty where there is none. Anything else in its place is not opened
/// in a way that could block.
fn read(path: &Path) -> String {
    let contents = || -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut contents = Vec::new();
        File::from(file)
            .take(MOST_BYTES)
            .read_to_end(&mut contents)?;
        Ok(contents)
    };
    contents()
        .map(|contents| String::from_utf8_lossy(&contents).into_owned())
        .unwrap_or_default()
}

/// A line of `/etc/passwd`, passwd(5).
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some(User {
            name: fields.next().filter(|name| !name.is_empty())?,
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: fields.nth(1).unwrap_or_default().trim(),
            shell: fields.next().unwrap_or_default().trim(),
        })
    })
}

/// The lines of `/etc/group`, group(5): name, number, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default().trim()))
    })
}

fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let unknown = |what: &str, name: &str| {
        Failure::new(
            FailureKind::NoSuchUser,
            format!("the image has no {what} {name:?}"),
        )
    };
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name of digits is a name first, as in container runtimes.
    let entry = users(passwd).find(|entry| entry.name == user).or_else(|| {
        let uid: u32 = user.parse().ok()?;
        users(passwd).find(|entry| entry.uid == uid)
    });
    let (uid, primary) = match &entry {
        Some(entry) => (entry.uid, entry.gid),
        None => (user.parse().map_err(|_| unknown("user", user))?, 0),
    };
    let absolute = |path: &str| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let mut identity = Identity {
        uid,
        gid: primary,
        groups: vec![primary],
        name: entry.as_ref().map(|entry| entry.name.to_owned()),
        home: entry.as_ref().and_then(|entry| absolute(entry.home)),
        shell: entry.as_ref().and_then(|entry| absolute(entry.shell)),
    };
    if let Some(wanted) = wanted_group {
        let named = groups(group).find(|(name, _, _)| *name == wanted);
        identity.gid = match named {
            Some((_, gid, _)) => gid,
            None => wanted.parse().map_err(|_| unknown("group", wanted))?,
        };
        identity.groups = vec![identity.gid];
    } else if let Some(entry) = &entry {
        for (_, gid, members) in groups(group) {
            let member = members.split(',').any(|member| member == entry.name);
            if member && !identity.groups.contains(&gid) && identity.groups.len() < MOST_GROUPS {
                identity.groups.push(gid);
            }
        }
    }
    // -1 means "leave as it is" to the kernel.
    if identity.uid == u32::MAX || identity.gid == u32::MAX {
        return Err(unknown("user", user));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbot:x:1000:1001::/home/bot:/bin/zsh\n\
                          55:x:1002:1002::/:\nbroken\n:x:1:1:::\nbad:x:-1:0:::\nrel:x:7:7:::sh\n";
    const GROUP: &str =
        "root:x:0:\nbot:x:1001:\nwheel:x:10:root,bot\naudio:x:20:bot\nbroken\nmore:x:30:botany\n";

    fn found(user: &str) -> (u32, u32, Vec<u32>, Option<&'static str>) {
        let identity = resolve(user, PASSWD, GROUP).unwrap();
        let name = identity.name.map(|name| &*name.leak());
        (identity.uid, identity.gid, identity.groups, name)
    }

    #[test]
    fn finds_users_in_every_form() {
        assert_eq!(found(""), (0, 0, vec![0, 10], Some("root")));
        assert_eq!(found("bot"), (1000, 1001, vec![1001, 10, 20], Some("bot")));
        assert_eq!(found("1000"), found("bot"));
        assert_eq!(found("bot:"), found("bot"));
        assert_eq!(found("bot:audio"), (1000, 20, vec![20], Some("bot")));
        assert_eq!(found("bot:77"), (1000, 77, vec![77], Some("bot")));
        assert_eq!(found("4242"), (4242, 0, vec![0], None));
        assert_eq!(found("4242:4343"), (4242, 4343, vec![4343], None));
        assert_eq!(found("55"), (1002, 1002, vec![1002], Some("55")));
    }

    #[test]
    fn numbers_need_no_files() {
        let identity = resolve("7:8", "", "").unwrap();
        assert_eq!((identity.uid, identity.gid), (7, 8));
        assert_eq!(resolve("", "", "").unwrap().uid, 0);
    }

    #[test]
    fn takes_an_absolute_home_only() {
        let home = |user| resolve(user, PASSWD, GROUP).unwrap().home;
        assert_eq!(home("bot"), Some("/home/bot".into()));
        assert_eq!(home("55:7"), Some("/".into()));
        assert_eq!(home("rel"), None);
        assert_eq!(home("4242"), None);
    }

    #[test]
    fn takes_an_absolute_shell_only() {
        let shell = |user| resolve(user, PASSWD, GROUP).unwrap().shell;
        assert_eq!(shell("bot"), Some("/bin/zsh".into()));
        assert_eq!(shell("55"), None);
        assert_eq!(shell("rel"), None);
    }

    #[test]
    fn refuses_who_is_not_there() {
        for user in [
            "nobody",
            "bad",
            "bot:nogroup",
            "-1",
            "4294967295",
            "1:4294967295",
            "broken",
        ] {
            let failure = resolve(user, PASSWD, GROUP).unwrap_err();
            assert_eq!(failure.kind, FailureKind::NoSuchUser, "{user}");
        }
    }
}
