//! `Watch`: what changes beneath a directory, or of one file, from inotify.
//!
//! Here is the loop between the kernel and the client; [`hub`] has what all watches share, [`events`] decides
//! what is told, [`scan`] puts watches on directories, [`tree`] knows which watch is which directory.

mod events;
mod hub;
mod scan;
mod tree;

use super::failure::{Result, failed, refused};
use super::pieces::{Caller, Turns, piece};
use super::rights::Rights;
use super::root::{locate, root_path};
use botstead_bridge::proto::watch_reply::{Overflow, Part};
use botstead_bridge::proto::{WatchReply, WatchRequest};
use botstead_bridge::{Failure, FailureKind};
use events::{Events, Progress, Top, reply};
pub(super) use hub::Hub;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use scan::Watches;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Events that wait for a client which reads slowly; what comes then is lost, and that is told.
const WAITING: usize = 1024;

/// A watch that has begun.
#[derive(Debug)]
pub(super) struct Watching {
    inotify: Arc<OwnedFd>,
    events: Events,
}

pub(super) fn begin(request: WatchRequest, hub: &Hub, most: usize) -> Result<Watching> {
    let root_at = root_path(request.at.as_ref().map_or(b"", |at| &at.root))?;
    let (root, path) = locate(request.at)?;
    let (directory, base, file) = match root.open_directory(&path) {
        Ok((directory, base)) => (directory, base, None),
        Err(failure) if failure.kind == FailureKind::NotADirectory && !path.names_directory() => {
            let place = root.place_behind_links(&path)?;
            if place.look()?.is_none() {
                return Err(failure);
            }
            let length = place.path.len() - place.name.len() - 1;
            let base = place.path[..length.max(1)].to_vec();
            (place.directory, base, Some(place.name))
        }
        Err(failure) => return Err(failure),
    };
    let begin = || {
        let subscription = hub.join()?;
        let top = subscription.watch(&directory)?;
        Ok((subscription, top, Top::new(root_at, &directory)?))
    };
    let (subscription, watched, top) = begin().map_err(|errno| match errno {
        Errno::USERS => refused(
            FailureKind::Limit,
            &base,
            "this workspace has as many watches as it may have: end others",
        ),
        Errno::MFILE | Errno::NOSPC => refused(
            FailureKind::Limit,
            &base,
            "there are too many watches: end others, or raise fs.inotify.max_user_instances and \
             max_user_watches on the host",
        )
        .with_errno(errno.raw_os_error()),
        errno => failed("watch", &base, errno),
    })?;
    let inotify = subscription.descriptor();
    let watches = Watches::new(subscription, watched, most.max(1));
    drop(directory);
    Ok(Watching {
        events: match file {
            None => Events::new(watches, top, base, request.recursive)?,
            Some(name) => Events::of_file(watches, top, base, name)?,
        },
        inotify,
    })
}

/// The events of a watch.
#[derive(Debug)]
pub(super) struct Replies(mpsc::Receiver<Result<WatchReply, Status>>);

impl Stream for Replies {
    type Item = Result<WatchReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Begins to tell. Ends when the stream is dropped, even while nothing happens.
pub(super) fn tell(watching: Watching, turns: Turns, rights: Rights) -> Replies {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        if let Err(failure) = run(watching, &turns, rights, &sender).await {
            // Waits until the client has read what came before, or is gone.
            let _ = sender.send(Err(failure.into())).await;
        }
    });
    Replies(receiver)
}

type Sender = mpsc::Sender<Result<WatchReply, Status>>;

async fn run(watching: Watching, turns: &Turns, rights: Rights, sender: &Sender) -> Result<()> {
    let Watching {
        inotify,
        mut events,
    } = watching;
    let kernel = readiness(inotify)
        .map_err(|error| Failure::new(FailureKind::Limit, format!("cannot watch: {error}")))?;
    let caller = Caller::new(rights);
    let mut lost = false;
    while !sender.is_closed() {
        let turns = events.is_scanning().then_some(turns);
        let step = piece(turns, &caller, events, |events, budget| {
            let mut out = Vec::new();
            (events.step(budget, &mut out), out)
        });
        let (progress, out);
        (events, (progress, out)) = step.await?;
        for reply in out {
            lost = lost || sender.try_send(Ok(reply)).is_err();
        }
        match progress? {
            Progress::Ended => return Ok(()),
            Progress::More => {}
            Progress::Idle(until) => {
                if !wait(&kernel, until, sender, &mut lost).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

#[allow(
    unsafe_code,
    reason = "tokio has no other way to wait for a descriptor that it did not open"
)]
fn readiness(inotify: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor stays open and the same as long as the `AsyncFd`, which holds a share of
    // its owner and is the only one that could give it away.
    let registered = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) };
    Ok(registered?)
}

/// Waits until there is something to do; false when the client is gone.
async fn wait(
    kernel: &AsyncFd<Arc<OwnedFd>>,
    until: Option<Instant>,
    sender: &Sender,
    lost: &mut bool,
) -> Result<bool> {
    let failed = |error| Failure::new(FailureKind::Internal, format!("cannot watch: {error}"));
    // That the kernel has something is forgotten here, before it is asked again: nothing that comes
    // later is missed.
    let timer = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = sender.closed() => return Ok(false),
        ready = kernel.readable() => {
            ready.map_err(failed)?.clear_ready();
        }
        () = timer => {}
        permit = sender.reserve(), if *lost => match permit {
            Ok(permit) => {
                permit.send(Ok(reply(Part::Overflow(Overflow {}))));
                *lost = false;
            }
            Err(_) => return Ok(false),
        },
    }
    Ok(true)
}
