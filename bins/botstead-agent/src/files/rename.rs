//! `Rename`: at once where the filesystem can, as a copy and a removal where it cannot.

use super::copy::{Copying, Order};
use super::entry::kind;
use super::failure::{Result, failed, refused};
use super::make::place_with_parents;
use super::meta::Owner;
use super::moved::{Began, Clearing};
use super::path::InsidePath;
use super::pieces::{Turns, ended, long, short};
use super::remove::is_mounted;
use super::rights::Rights;
use super::root::{Place, Root, parse};
use super::temporary::rename;
use botstead_bridge::{FailureKind, proto};
use rustix::fs::{Access, FileType, Statx};
use rustix::io::{self, Errno};

enum Attempt {
    Done,
    /// The filesystem wants a copy. So does an overlay for a directory that comes from a layer below
    /// its own, which after a snapshot every directory does.
    Copy(Box<Copying>, Box<Source>),
}

/// What is copied, and removed afterwards.
struct Source {
    root: Root,
    place: Place,
    before: Statx,
    began: Began,
    to: InsidePath,
}

impl Source {
    fn clear(self) -> Result<Clearing> {
        let to = self.root.place(&self.to)?;
        Clearing::begin(self.place, &self.before, self.began, &to)
    }
}

pub(super) async fn run(
    request: proto::RenameRequest,
    owner: Owner,
    turns: &Turns,
    rights: &Rights,
) -> Result<()> {
    let attempted = short(rights, {
        let turns = turns.clone();
        move || attempt(&request, owner, &turns)
    });
    let (copying, source) = match attempted.await? {
        Attempt::Done => return Ok(()),
        Attempt::Copy(copying, source) => (copying, source),
    };
    long(turns, rights, *copying).await?;
    // The target is complete: what remains is done also when the caller leaves now.
    let (turns, rights) = (turns.clone(), rights.clone());
    let removal = tokio::spawn(async move {
        let clearing = short(&rights, move || source.clear()).await?;
        long(&turns, &rights, clearing).await
    });
    removal.await.unwrap_or_else(|_| Err(ended()))
}

fn attempt(request: &proto::RenameRequest, owner: Owner, turns: &Turns) -> Result<Attempt> {
    let (from_path, to_path) = (parse(&request.from)?, parse(&request.to)?);
    let root = Root::open(&request.root)?;
    let from = root.place(&from_path)?;
    let Some(stat) = from.look()? else {
        return Err(failed("rename", &from.path, Errno::NOENT));
    };
    if is_mounted(&stat) {
        let words = "something is mounted there, which stays: copy it instead";
        return Err(refused(FailureKind::Busy, &from.path, words));
    }
    let to: Place = match request.parents {
        true => place_with_parents(&root, &to_path, owner)?,
        false => root.place(&to_path)?,
    };
    let renamed = rename(
        &from.directory,
        &from.name,
        &to.directory,
        &to.name,
        request.replace,
    );
    match renamed {
        Ok(()) => Ok(Attempt::Done),
        // Onto a file that something is mounted on, its content is copied.
        Err(Errno::XDEV | Errno::BUSY) if goes_by_copy(&renamed, &to, request.replace)? => {
            let order = Order {
                recursive: true,
                replace: request.replace,
            };
            // The target would be there, and maybe replaced, before the removal is refused.
            let needed = Access::WRITE_OK | Access::EXEC_OK;
            Rights::require(&from.directory, b".", needed)
                .map_err(|errno| failed("rename", &from.path, errno))?;
            let began = Began::now();
            let copying = Copying::begin(&root, &from, to, order, turns)?;
            let source = Source {
                root,
                place: from,
                before: stat,
                began,
                to: to_path,
            };
            Ok(Attempt::Copy(Box::new(copying), Box::new(source)))
        }
        Err(Errno::INVAL) => Err(refused(
            FailureKind::Invalid,
            &to.path,
            "a directory cannot go into itself",
        )),
        Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => Err(failed("rename", &from.path, errno)),
        Err(errno) => Err(failed("rename to", &to.path, errno)),
    }
}

/// Whether what was not renamed is to be copied and removed: onto another filesystem, or into a file that
/// something is mounted on.
fn goes_by_copy(renamed: &io::Result<()>, to: &Place, replace: bool) -> Result<bool> {
    if *renamed == Err(Errno::XDEV) {
        return Ok(true);
    }
    let there = to.look()?;
    let is_file =
        there.is_some_and(|stat| kind(&stat) == FileType::RegularFile && is_mounted(&stat));
    Ok(replace && is_file)
}
