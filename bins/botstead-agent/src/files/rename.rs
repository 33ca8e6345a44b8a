//! `Rename`: at once where the filesystem can, as a copy and a removal where it cannot.

use super::copy::{Copying, Order};
use super::entry::kind;
use super::failure::{Result, failed, refused};
use super::make::place_with_parents;
use super::meta::Owner;
use super::path::InsidePath;
use super::pieces::{Turns, ended, long, short};
use super::remove::{Removing, is_mounted};
use super::rights::Rights;
use super::root::{Place, Root, parse};
use super::temporary::rename;
use botstead_bridge::{FailureKind, proto};
use rustix::fs::FileType;
use rustix::io::{self, Errno};

enum Attempt {
    Done,
    /// The filesystem wants a copy. So does an overlay for a directory that comes from a layer below
    /// its own, which after a snapshot every directory does.
    Copy(Box<Copying>, Root, InsidePath),
}

pub(super) async fn run(
    request: proto::RenameRequest,
    owner: Owner,
    turns: &Turns,
    rights: &Rights,
) -> Result<()> {
    let (copying, root, from) = match short(rights, {
        let turns = turns.clone();
        move || attempt(&request, owner, &turns)
    })
    .await?
    {
        Attempt::Done => return Ok(()),
        Attempt::Copy(copying, root, from) => (copying, root, from),
    };
    long(turns, rights, *copying).await?;
    // The target is complete: what remains is done also when the caller leaves now.
    let (turns, rights) = (turns.clone(), rights.clone());
    let removal = tokio::spawn(async move {
        let removing = short(&rights, move || Removing::begin(&root, &from, true)).await?;
        long(&turns, &rights, removing).await
    });
    match removal.await.unwrap_or_else(|_| Err(ended())) {
        // Somebody else removed it meanwhile.
        Err(failure) if failure.kind == FailureKind::NotFound => Ok(()),
        removed => removed.map(drop),
    }
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
            let copying = Copying::begin(&root, &from, to, order, turns)?;
            Ok(Attempt::Copy(Box::new(copying), root, from_path))
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
