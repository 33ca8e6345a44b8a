//! With whose rights a call is done: the agent's own, or those of a user of the workspace.
//!
//! The kernel decides what a user may, by what each thread has for access to files: the user and group of
//! setfsuid(2), the groups, and its effective capabilities, of which a user other than root has none. A
//! thread has them for one piece of work and takes its own back before it does anything else; where the
//! kernel refuses to give those back, for lack of memory, the thread asks until it does. Signals, tracing
//! and limits go by other numbers, so that no user gets nearer to the agent by this.

use super::failure::{Result, shown};
use super::meta::Owner;
use crate::identity::{self, Identity};
use botstead_bridge::{Failure, FailureKind, USER};
use nix::unistd;
use rustix::fd::OwnedFd;
use rustix::fs::{Access, AtFlags, accessat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, dumpable_behavior, getgroups, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, capabilities, set_capabilities, set_thread_groups,
};
use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// Between two attempts to take a thread's own rights back.
const PAUSE: Duration = Duration::from_millis(1);

/// Whose rights a piece of work has. The agent's own by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights(Option<Arc<User>>);

#[derive(Debug)]
struct User {
    /// As the request named them.
    named: String,
    identity: Identity,
    groups: Vec<Gid>,
}

/// What a thread had before it took a user's rights.
#[derive(Debug)]
struct Own {
    uid: unistd::Uid,
    gid: unistd::Gid,
    groups: Vec<Gid>,
    capabilities: CapabilitySets,
}

#[derive(Debug, Default)]
struct Acting {
    rights: Rights,
    /// While they are a user's.
    own: Option<Own>,
}

thread_local! {
    static ACTING: RefCell<Acting> = RefCell::default();
}

/// Who a request's metadata name; nobody where it names none.
pub(super) fn named(metadata: &MetadataMap) -> Result<Option<String>> {
    let Some(user) = metadata.get_bin(USER) else {
        return Ok(None);
    };
    let bytes = user.to_bytes().unwrap_or_default();
    match String::from_utf8(bytes.to_vec()) {
        Ok(user) => Ok(Some(user).filter(|user| !user.is_empty())),
        Err(_) => Err(Failure::new(
            FailureKind::NoSuchUser,
            format!("the image has no user {:?}", shown(&bytes)),
        )),
    }
}

impl Rights {
    /// Those of a user: `user`, `uid`, `user:group` or `uid:gid`.
    ///
    /// # Errors
    /// `NO_SUCH_USER`; `UNSUPPORTED` where taking them would let the agent be traced from inside.
    pub(super) fn of(named: String) -> Result<Self> {
        let identity = identity::look_up(&named)?;
        // With every change of them the kernel makes the process what this says (proc_sys_fs(5)), and 1 is
        // for debugging: whoever has the same user and capabilities may trace it.
        let dumpable = std::fs::read_to_string("/proc/sys/fs/suid_dumpable");
        if !dumpable.is_ok_and(|dumpable| matches!(dumpable.trim(), "0" | "2")) {
            return Err(Failure::new(
                FailureKind::Unsupported,
                "files are reached as a user only where the host's setting fs.suid_dumpable is 0 or 2",
            ));
        }
        let groups = identity.groups.iter().map(|gid| Gid::from_raw(*gid));
        Ok(Self(Some(Arc::new(User {
            groups: groups.collect(),
            named,
            identity,
        }))))
    }

    /// Those that this thread has now.
    pub(crate) fn current() -> Self {
        ACTING.with_borrow(|acting| acting.rights.clone())
    }

    /// Whether they are those of a user other than root.
    pub(crate) fn are_limited(&self) -> bool {
        self.0.as_ref().is_some_and(|user| user.identity.uid != 0)
    }

    /// Refuses what this thread may not do with something, where its rights are limited.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn require(
        directory: &OwnedFd,
        name: &[u8],
        access: Access,
    ) -> rustix::io::Result<()> {
        match Self::current().are_limited() {
            true => accessat(directory, name, access, AtFlags::EACCESS),
            false => Ok(()),
        }
    }

    /// Whether a file of this user and group can be made with them as any other that they make.
    pub(crate) fn make_files_of(&self, uid: u32, gid: u32) -> bool {
        match &self.0 {
            Some(user) if user.identity.uid != 0 => {
                let identity = &user.identity;
                identity.uid == uid && (identity.gid == gid || identity.groups.contains(&gid))
            }
            _ => true,
        }
    }

    /// Who new files belong to.
    pub(super) fn owner(&self, otherwise: Owner) -> Owner {
        match &self.0 {
            None => otherwise,
            Some(user) => Owner {
                uid: user.identity.uid,
                gid: user.identity.gid,
            },
        }
    }

    /// Who has them, for words; `None` for the agent itself.
    pub(super) fn user(&self) -> Option<String> {
        let user = self.0.as_ref()?;
        Some(shown(user.named.as_bytes()))
    }

    /// Does some work with these rights on this thread, which has its own again afterwards.
    ///
    /// # Errors
    /// The kernel does not give them; nothing was done.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let before = Self::current();
        if self.are_same(&before) {
            return Ok(work());
        }
        let _back = Back(before);
        self.take().map_err(|errno| {
            let user = self.user().unwrap_or_default();
            let kind = match errno {
                Errno::NOMEM | Errno::AGAIN => FailureKind::Limit,
                _ => FailureKind::PermissionDenied,
            };
            Failure::new(kind, format!("cannot take the rights of {user}: {errno}"))
                .with_errno(errno.raw_os_error())
        })?;
        Ok(work())
    }

    fn are_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Gives them to this thread, and nothing of those that it had.
    fn take(&self) -> rustix::io::Result<()> {
        static DUMPABLE: OnceLock<Option<DumpableBehavior>> = OnceLock::new();
        let dumpable = DUMPABLE.get_or_init(|| dumpable_behavior().ok());
        ACTING.with_borrow_mut(|acting| {
            if let Some(own) = &acting.own {
                own.take()?;
                *acting = Acting::default();
            }
            if let Some(user) = &self.0 {
                let own = Own::of_thread()?;
                let permitted = own.capabilities;
                // Who may not take these has nothing to give back, and could not.
                set_thread_groups(&user.groups)?;
                // From here on there is something to take back, also where this fails.
                *acting = Acting {
                    rights: self.clone(),
                    own: Some(own),
                };
                user.take(permitted)?;
            }
            // The kernel changed it with the user.
            match dumpable {
                Some(dumpable) => set_dumpable_behavior(*dumpable),
                None => Ok(()),
            }
        })
    }
}

impl User {
    /// All but the groups.
    fn take(&self, permitted: CapabilitySets) -> rustix::io::Result<()> {
        let Identity { uid, gid, .. } = self.identity;
        become_group(unistd::Gid::from_raw(gid))?;
        become_user(unistd::Uid::from_raw(uid))?;
        if uid == 0 {
            return Ok(());
        }
        // The kernel took those that concern files; one that gives files capabilities is another.
        set_capabilities(
            None,
            CapabilitySets {
                effective: CapabilitySet::empty(),
                ..permitted
            },
        )
    }
}

impl Own {
    fn of_thread() -> rustix::io::Result<Self> {
        Ok(Self {
            uid: unistd::geteuid(),
            gid: unistd::getegid(),
            groups: getgroups()?,
            capabilities: capabilities(None)?,
        })
    }

    fn take(&self) -> rustix::io::Result<()> {
        // First, as groups need one of them.
        set_capabilities(None, self.capabilities)?;
        become_user(self.uid)?;
        become_group(self.gid)?;
        set_thread_groups(&self.groups)?;
        // Becoming root may have added some.
        set_capabilities(None, self.capabilities)
    }
}

/// setfsuid(2) tells what was before and no error: asked again with a number that nobody has, it tells
/// what is.
fn become_user(uid: unistd::Uid) -> rustix::io::Result<()> {
    unistd::setfsuid(uid);
    match unistd::setfsuid(unistd::Uid::from_raw(u32::MAX)) == uid {
        true => Ok(()),
        false => Err(Errno::PERM),
    }
}

fn become_group(gid: unistd::Gid) -> rustix::io::Result<()> {
    unistd::setfsgid(gid);
    match unistd::setfsgid(unistd::Gid::from_raw(u32::MAX)) == gid {
        true => Ok(()),
        false => Err(Errno::PERM),
    }
}

/// Gives a thread back what it had, whatever happens to the work.
struct Back(Rights);

impl Drop for Back {
    fn drop(&mut self) {
        while self.0.take().is_err() {
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn credentials() -> (String, CapabilitySets) {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines = status.lines().filter(|line| {
            ["Uid:", "Gid:", "Groups:"]
                .iter()
                .any(|name| line.starts_with(name))
        });
        let lines: Vec<&str> = lines.collect();
        (lines.join("\n"), capabilities(None).unwrap())
    }

    #[test]
    fn a_thread_has_a_users_rights_for_one_piece_of_work_and_no_capability() {
        let before = credentials();
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let rights = Rights::of("4242:4343".to_owned()).unwrap();
        let made = folder.path().join("made");
        rights
            .run(|| {
                assert!(std::fs::read(&secret).is_err());
                std::fs::write(&made, "mine").unwrap();
                let (lines, sets) = credentials();
                assert!(lines.contains("4242") && lines.contains("4343"), "{lines}");
                assert!(sets.effective.is_empty());
                // Within another one's: those of the agent, and back.
                Rights::default()
                    .run(|| std::fs::read(&secret).unwrap())
                    .unwrap();
                assert!(std::fs::read(&secret).is_err());
            })
            .unwrap();
        let made = std::fs::metadata(&made).unwrap();
        assert_eq!((made.uid(), made.gid()), (4242, 4343));
        let panicked = catch_unwind(AssertUnwindSafe(|| rights.run(|| panic!("as planned"))));
        assert!(panicked.is_err());
        assert_eq!(credentials(), before);
        assert_eq!(std::fs::read(&secret).unwrap(), b"x");
    }

    #[test]
    fn root_by_name_is_no_less_than_root() {
        let before = credentials();
        let rights = Rights::of("0:4343".to_owned()).unwrap();
        let (lines, sets) = rights.run(credentials).unwrap();
        assert!(lines.contains("4343"), "{lines}");
        assert_eq!(sets, before.1);
        assert_eq!(credentials(), before);
    }
}
