//! Users by the names that a tree's own files have for them, which are hostile.

use crate::replace::{blocking, host};
use crate::service::Inner;
use crate::{Error, Result};
use botstead_archive::Owner;
use botstead_overlay::{beneath, tree};
use botstead_runtime::{Access, Tree};
use botstead_types::{LeaseId, ResolvedImage, SnapshotKey};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

/// More of a file is not read.
const LIMIT: u64 = 1 << 20;

impl Inner {
    /// Refuses an image whose user is a name that these files do not have: it would be taken for root.
    pub(crate) async fn check_user(
        &self,
        lease: &LeaseId,
        image: &ResolvedImage,
        files: &SnapshotKey,
    ) -> Result<()> {
        let user = image.config.user.clone();
        if number(&user).is_some() || !self.runtime.backend.capabilities().files {
            return Ok(());
        }
        let tree = self
            .runtime
            .snapshots
            .open(lease, files, Access::Read)
            .await?;
        let accounts = blocking(move || Accounts::read(tree.as_ref())).await?;
        match accounts.owner(&user) {
            Some(_) => Ok(()),
            None => Err(Error::ImageUnusable {
                image: image.reference.clone(),
                reason: format!(
                    "its USER is {user:?}, which its /etc/passwd or /etc/group does not have; build the image \
                     again with that entry, or with numbers"
                ),
            }),
        }
    }
}

/// The `/etc/passwd` and `/etc/group` of a tree.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub(crate) fn read(tree: &dyn Tree) -> Result<Self> {
        let text = |name: &[u8]| {
            text(tree, name).map_err(|error| host("read the users of the workspace", error))
        };
        Ok(Self {
            passwd: text(b"etc/passwd")?,
            group: text(b"etc/group")?,
        })
    }

    /// The owner that a text names: `user`, `uid`, `user:group` or `uid:gid`. A number needs no entry; a
    /// user without one is in group 0. As with commands, a name of digits is a name first.
    pub(crate) fn owner(&self, user: &str) -> Option<Owner> {
        if let Some(owner) = number(user) {
            return Some(owner);
        }
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let entry = || {
            self.passwd.lines().filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                let uid: u32 = fields.nth(1)?.parse().ok()?;
                let gid: u32 = fields.next()?.parse().ok()?;
                Some((name, uid, gid))
            })
        };
        let found = entry().find(|(found, ..)| *found == name);
        let by_number = || {
            let number: u32 = name.parse().ok()?;
            entry().find(|(_, uid, _)| *uid == number)
        };
        let (uid, own) = match found.or_else(by_number) {
            Some((_, uid, gid)) => (uid, gid),
            None => (name.parse().ok()?, 0),
        };
        let gid = match group {
            None => own,
            Some(group) => {
                let named = self.group.lines().find_map(|line| {
                    let mut fields = line.split(':');
                    let is_it = fields.next()? == group;
                    is_it.then(|| fields.nth(1)?.parse().ok())?
                });
                named.or_else(|| group.parse().ok())?
            }
        };
        valid(uid, gid)
    }
}

/// The owner where no file has to be read for it.
pub(crate) fn number(user: &str) -> Option<Owner> {
    match user.split_once(':') {
        None if user.is_empty() => Some(Owner::default()),
        Some((uid, gid)) => valid(uid.parse().ok()?, gid.parse().ok()?),
        None => None,
    }
}

/// The highest number means "none" to the kernel.
fn valid(uid: u32, gid: u32) -> Option<Owner> {
    (uid != u32::MAX && gid != u32::MAX).then_some(Owner { uid, gid })
}

/// The beginning of a regular file; empty where there is none. Nothing else is opened.
fn text(tree: &dyn Tree, name: &[u8]) -> std::io::Result<String> {
    let Some(file) = regular(tree, name)? else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    File::from(file).take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn regular(tree: &dyn Tree, name: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    let place = match beneath::open_in_root(tree.root(), name, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => {
            return Ok(None);
        }
        place => place?,
    };
    match tree::kind(&tree::stat_fd(&place)?) {
        FileType::RegularFile => beneath::reopen(place).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_by_name_and_number() {
        let accounts = Accounts {
            passwd: "broken\nroot:x:0:0::/:\nbot:x:1000:1001::/:\n77:x:5:6::/:\n".to_owned(),
            group: "x\nstaff:x:50:\nno:x:4294967295:\n".to_owned(),
        };
        for (user, expected) in [
            ("", Some((0, 0))),
            ("root", Some((0, 0))),
            ("bot", Some((1000, 1001))),
            ("1000", Some((1000, 1001))),
            ("bot:", Some((1000, 1001))),
            ("bot:staff", Some((1000, 50))),
            ("bot:7", Some((1000, 7))),
            ("7:8", Some((7, 8))),
            ("7", Some((7, 0))),
            ("77", Some((5, 6))),
            (":staff", Some((0, 50))),
            ("nobody", None),
            ("bot:nobody", None),
            ("bot:no", None),
            ("4294967295", None),
            ("-1", None),
        ] {
            let found = accounts.owner(user).map(|owner| (owner.uid, owner.gid));
            assert_eq!(found, expected, "{user:?}");
        }
    }
}
