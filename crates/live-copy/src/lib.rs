//! Copies a directory tree as it is at one moment, while processes write to it, and keeps them frozen for
//! milliseconds only. Made for the upper directory of a workspace's overlay mount: the copy becomes a
//! version, and the workspace runs on.
//!
//! ```no_run
//! use botstead_live_copy::{CgroupFreezer, ChangeFeed, Guard, Options, SecondPass, capture};
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Once, at start: on the filesystem that the trees are on.
//! let second_pass = match ChangeFeed::probe(Path::new("/var/lib/botstead/scratch")) {
//!     Ok(()) => SecondPass::Feed,
//!     Err(reason) => SecondPass::Walk { reason },
//! };
//! let options = Options { second_pass, ..Options::default() };
//! // For each copy: who is frozen, and the helper that thaws if this program cannot.
//! let guard = Guard::new("/usr/lib/botstead/botstead-agent");
//! let freezer = CgroupFreezer::new("/sys/fs/cgroup/botstead/my-bot", guard)?;
//! let (upper, version) = (Path::new("/path/of/upper"), Path::new("/an/empty/folder"));
//! let report = capture(upper, version, &freezer, &options, &mut (), &AtomicBool::new(false))?;
//! println!("frozen for {:?}", report.freeze);
//! # Ok(())
//! # }
//! ```
//!
//! # What a copy has
//! Contents with their holes, modes, owners, modification times, hard links, symbolic links, devices,
//! pipes, sockets, whiteouts, all extended attributes (`trusted.overlay.*`, access lists, capabilities)
//! and inode flags. Left out: `trusted.overlay.uuid`, which is the identity of a mount; the project that
//! a quota counts for; times of access; files that have no name any longer.
//!
//! # The protocol
//! 1. The change feed starts: a fanotify mark on the source's filesystem. Without it, step 4 walks.
//! 2. The first pass copies everything. Each file is looked at, its dirty pages are written back, and
//!    then it is copied, by sharing blocks where the filesystem can (`FICLONE`).
//! 3. Rounds copy what changed meanwhile, until a freeze is estimated to be short enough, or gets no
//!    shorter. The processes still run.
//! 4. The processes are frozen, with a guard process waiting that thaws them if this one cannot. What
//!    changed since is copied: what the feed reported, or what a parallel walk over the whole tree finds
//!    different. Files that a process has mapped shared are copied in any case, and those that are open
//!    for writing when they look different.
//! 5. They are thawed. If it turns out that they did not stand still all the time, or it took too long,
//!    the attempt counts for nothing, and another begins at step 3.
//! 6. What forbids changes (flags) and what changes undo (times of directories) is set, and the target's
//!    filesystem is synced by a descriptor that was open all along, so that no error of writing is lost.
//!
//! # Why it is right
//! The copy is that of the moment of the freeze if every change before it is either in the copy or
//! found by step 4.
//! - The kernel queues events inside of the system call that makes the change. When all stand still,
//!   none is pending.
//! - Directories are registered with the feed before they are listed; files are looked at before they are
//!   copied. What comes too late for the copy comes in time for the feed.
//! - What the feed does not report, it reports when the file is closed: stores through mappings,
//!   `sendfile`, asynchronous writes. Until then the file is open or mapped, and step 4 finds it in
//!   `/proc`. Descriptors that no process lists, in flight over a socket or held by an io_uring, make
//!   this attempt take the walk.
//! - A store to a page that is dirty already moves no timestamp, which would deceive the walk. Hence the
//!   writing back before each copy, after which the next store does; and what is mapped is copied again.
//! - Before Linux 6.13 ctime moves once per tick. A file whose ctime is within 20 ms of the look at it
//!   counts as different for the walk, whatever else is the same.
//! - The feed misses changes of inode flags (`chattr`). They are found with whatever else changes a
//!   file, and by the walk.
//!
//! Both ways are held to one test, `tests/torture.rs`: copies under processes that change everything all
//! the time, compared byte for byte with the source while it stood still.
//!
//! # Nobody is left frozen
//! The guard is started before the freeze, and nobody is frozen unless it has said that it is ready. It
//! thaws when this program dies, by the end of a pipe, and after 2 s in any case
//! ([`Guard::with_limit`]). Processes that someone else had frozen before are left so.
//!
//! # What it needs
//! Root in the initial user namespace (`CAP_SYS_ADMIN`, `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE`), a
//! control group with a freezer of version 1 or 2 that holds *all* processes that may write to the
//! source, and an empty target. For the feed Linux 6.5 or later, which [`ChangeFeed::probe`] finds out by
//! trying. Source and target may be on different filesystems; on one that can share blocks it is fastest.
//! Not for `userxattr` mounts.
//!
//! # Errors
//! [`Error`] says what failed and where; [`Error::is_temporary`] whether the workspace was merely too
//! busy, [`Error::is_disk_full`] what its name says. After any of them nobody is frozen, and what is in
//! the target is of no use.
//!
//! `capture` is the protocol, `mirror` makes the target like the source by what `model` remembers, `feed`
//! and `compare` find changes, `scan` finds open files, `freezer` freezes and guards.

mod capture;
mod compare;
mod content;
mod dirs;
mod error;
mod feed;
mod freezer;
mod halt;
#[cfg(feature = "measure")]
pub mod measure;
mod mirror;
mod model;
mod options;
mod report;
mod scan;
mod stop;
mod sys;
mod urgent;

pub use capture::capture;
pub use error::Error;
pub use feed::probe::ChangeFeed;
pub use freezer::{CgroupFreezer, FreezeError, Freezer, Frozen, Guard, Thaw};
pub use options::{Observer, Options};
pub use report::{Phase, Progress, Reason, Report, SecondPass};
