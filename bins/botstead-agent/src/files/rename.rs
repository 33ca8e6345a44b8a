//! `Rename`: at once where the filesystem can, as a copy and a removal where it cannot.

use super::copy::{Copying, Order};
use super::failure::{Result, failed, refused};
use super::make::place_with_parents;
use super::meta::Owner;
use super::path::InsidePath;
use super::pieces::{Turns, ended, long, short};
use super::remove::Removing;
use super::rights::Rights;
use super::root::{Place, Root, parse};
use super::temporary::rename;
use botstead_bridge::{FailureKind, proto};
use rustix::io::Errno;

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
    if from.look()?.is_none() {
        return Err(failed("rename", &from.path, Errno::NOENT));
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
        Err(Errno::XDEV) => {
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
