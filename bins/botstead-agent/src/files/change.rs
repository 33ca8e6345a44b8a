//! `Change`: permission bits and owners, of an entry or a tree.

use super::failure::{Result, failed};
use super::make::permissions;
use super::path::child;
use super::pieces::{Budget, Job};
use super::root::{locate, open_name, stat_fd, vanished};
use super::walk::{Step, Walk};
use crate::identity;
use botstead_bridge::{Failure, FailureKind, proto};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat};
use rustix::io::{self, Errno};

/// What is given to each entry.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    mode: Option<Mode>,
    uid: Option<Uid>,
    gid: Option<Gid>,
}

impl Wanted {
    fn of(request: &proto::ChangeRequest) -> Result<Self> {
        let mode = request.mode.map(permissions).transpose()?;
        let mut wanted = Self {
            mode,
            uid: None,
            gid: None,
        };
        if !request.owner.is_empty() {
            let identity = identity::look_up(&request.owner)?;
            wanted.uid = Some(Uid::from_raw(identity.uid));
            if request.owner.contains(':') {
                wanted.gid = Some(Gid::from_raw(identity.gid));
            }
        }
        match wanted.mode.is_none() && wanted.uid.is_none() {
            true => Err(Failure::new(
                FailureKind::Invalid,
                "mode or owner must be given",
            )),
            false => Ok(wanted),
        }
    }

    /// Changes what is open as a mere place.
    fn give(self, place: &OwnedFd) -> io::Result<()> {
        // In this order: a change of owner takes set-id bits away.
        if self.uid.is_some() || self.gid.is_some() {
            chownat(place, c"", self.uid, self.gid, AtFlags::EMPTY_PATH)?;
        }
        let kind = super::entry::kind(&stat_fd(place)?);
        if let Some(mode) = self.mode.filter(|_| kind != FileType::Symlink) {
            let path = format!("/proc/self/fd/{}", place.as_raw_fd());
            chmodat(CWD, path, mode, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// A change that has begun. What is changed stays so, also when it fails or its call is dropped.
#[derive(Debug)]
pub(super) struct Changing {
    path: Vec<u8>,
    wanted: Wanted,
    /// Of what is below.
    walk: Option<Walk>,
    changed: u64,
}

pub(super) fn begin(request: proto::ChangeRequest) -> Result<Changing> {
    let wanted = Wanted::of(&request)?;
    let (root, path) = locate(request.at)?;
    let fail = |errno| failed("change", path.absolute(), errno);
    let place = root.open_at(&path, OFlags::PATH).map_err(fail)?;
    let real = root.path_of(&place, &path);
    let is_directory = super::entry::kind(&stat_fd(&place).map_err(fail)?) == FileType::Directory;
    let walk = match request.recursive && is_directory {
        true => {
            let (directory, _) = root.open_directory(&path)?;
            Some(Walk::new(directory, None).map_err(fail)?)
        }
        false => None,
    };
    wanted.give(&place).map_err(fail)?;
    Ok(Changing {
        path: real,
        wanted,
        walk,
        changed: 1,
    })
}

impl Changing {
    fn failed(&self, below: &[u8], errno: Errno) -> Failure {
        match below.is_empty() {
            true => failed("change", &self.path, errno),
            false => failed("change", &child(&self.path, below), errno),
        }
    }

    fn done(&self) -> Option<proto::ChangeReply> {
        Some(proto::ChangeReply {
            changed: self.changed,
        })
    }
}

impl Job for Changing {
    type Done = proto::ChangeReply;

    fn step(&mut self, budget: &Budget) -> Result<Option<proto::ChangeReply>> {
        let Some(mut walk) = self.walk.take() else {
            return Ok(self.done());
        };
        while !budget.spent() {
            let step = walk.next();
            match step.map_err(|errno| self.failed(walk.path(), errno))? {
                Step::Entry(name, _) => {
                    let below = walk.path_to(&name);
                    let given = vanished(open_name(walk.cursor().here(), &name, OFlags::PATH))
                        .and_then(|place| place.map(|place| self.wanted.give(&place)).transpose());
                    let given = given.map_err(|errno| self.failed(&below, errno))?;
                    self.changed += u64::from(given.is_some());
                }
                Step::Below(name) => {
                    let below = walk.path_to(&name);
                    walk.enter(name)
                        .map_err(|errno| self.failed(&below, errno))?;
                }
                Step::Left(_) => {}
                Step::End => return Ok(self.done()),
            }
        }
        self.walk = Some(walk);
        Ok(None)
    }
}
