//! Whom an import's entries belong to: users by the names that the workspace's own files have for them,
//! which are hostile.

use crate::image_user::text;
use crate::replace::blocking;
use crate::service::Inner;
use crate::{Error, Result};
use botstead_archive::{Owner, Ownership};
use botstead_runtime::Access;
use botstead_store::ContainerRecord;
use botstead_types::{LeaseId, OperationId};
use std::sync::Arc;

impl Inner {
    /// Whom an archive's entries belong to in the workspace as it is now: to whom the archive says, or to
    /// `as_user` (as a command's user is given; empty for the workspace's own). What it only implies
    /// belongs to the workspace's own user. The caller holds the bot.
    ///
    /// # Errors
    /// `NoSuchUser`.
    pub(super) async fn ownership(
        self: &Arc<Self>,
        record: &ContainerRecord,
        as_user: Option<&str>,
    ) -> Result<Ownership> {
        let own = self.resolved(&record.image).await?.config.user;
        let wanted = as_user.map(|user| if user.is_empty() { &own } else { user });
        let needs_files = [Some(own.as_str()), wanted];
        let needs_files = needs_files.into_iter().flatten();
        let accounts = match needs_files.clone().all(|user| number(user).is_some()) {
            true => Accounts::default(),
            false => self.accounts(record).await?,
        };
        let own_user = accounts.owner(&own).unwrap_or_else(|| {
            // It may have been removed since the workspace was made; then there is root.
            tracing::warn!(bot = %record.bot, user = own, "the workspace has no user of its image's name");
            Owner::default()
        });
        let entries = match wanted {
            None => None,
            Some(user) => {
                let found = accounts.owner(user);
                Some(found.ok_or_else(|| Error::NoSuchUser(user.to_owned()))?)
            }
        };
        Ok(Ownership {
            entries,
            implied: entries.unwrap_or(own_user),
        })
    }

    async fn accounts(self: &Arc<Self>, record: &ContainerRecord) -> Result<Accounts> {
        let id = OperationId::generate();
        let lease = LeaseId::for_operation(id);
        self.runtime.leases.create(&lease).await?;
        let snapshots = &self.runtime.snapshots;
        let read = async {
            let tree = snapshots
                .open(&lease, &record.snapshot, Access::Read)
                .await?;
            blocking(move || {
                Ok(Accounts {
                    passwd: text(tree.root(), "etc/passwd"),
                    group: text(tree.root(), "etc/group"),
                })
            })
            .await
        };
        let accounts = read.await;
        self.drop_lease(id);
        accounts
    }
}

/// The workspace's `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// The owner that a text names: `user`, `uid`, `user:group` or `uid:gid`. A number needs no entry; a
    /// user without one is in group 0. As with commands, a name of digits is a name first.
    fn owner(&self, user: &str) -> Option<Owner> {
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
fn number(user: &str) -> Option<Owner> {
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
