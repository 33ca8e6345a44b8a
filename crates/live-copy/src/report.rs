//! What a copy did, and how it goes on.

use std::fmt;
use std::time::Duration;

/// How the changes were found that had to be copied while everybody stood still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecondPass {
    /// By the change feed: the time frozen depends on what changed.
    Feed,
    /// By looking at every file: the time frozen depends on how many there are.
    Walk {
        /// Why not by the feed.
        reason: Reason,
    },
}

/// Why the change feed is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The caller wants it so.
    Asked,
    /// The kernel's version is older than 6.5, where overlayfs hides changes from the filesystem below.
    OldKernel(String),
    /// The self-test did not see a change that it made: which one.
    NotSeen(&'static str),
    /// The kernel refused or broke it.
    Feed(String),
    /// Events were lost, or were too many to remember.
    Overflow,
    /// A descriptor may be open for writing that no process lists: it is in flight over a unix socket or
    /// registered with an io_uring.
    HiddenDescriptors,
    /// A process has a file open for writing, and it could not be told which one it is.
    UnknownDescriptor,
    /// What the feed reported did not lead to what the tree has.
    Inconsistent,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::OldKernel(release) => write!(f, "Linux {release} is older than 6.5"),
            Self::NotSeen(change) => write!(f, "the self-test did not see {change}"),
            Self::Feed(failure) => write!(f, "fanotify: {failure}"),
            Self::Overflow => f.write_str("too many changes at once"),
            Self::HiddenDescriptors => {
                f.write_str("descriptors are in flight over a socket or with an io_uring")
            }
            Self::UnknownDescriptor => {
                f.write_str("a file is open for writing that could not be found")
            }
            Self::Inconsistent => f.write_str("the change feed contradicts the tree"),
        }
    }
}

/// Where a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Everything is copied while the processes run.
    FirstPass,
    /// What changed meanwhile is copied while they run.
    Rounds,
    /// They are about to be frozen.
    Freezing,
    /// They run again; the copy is written to the disk.
    Finishing,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Entries copied so far, repetitions included.
    pub entries: u64,
    /// Bytes copied or shared so far, repetitions included.
    pub bytes: u64,
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How long the processes stood still at most: from before the first was told to freeze until the
    /// last was told to go on. Zero when they were frozen already.
    pub freeze: Duration,
    /// How long it took in all.
    pub total: Duration,
    /// How long the first pass took.
    pub first_pass: Duration,
    /// Bytes copied or shared, repetitions included.
    pub copied_bytes: u64,
    /// Of these, those copied or shared while everybody stood still.
    pub frozen_bytes: u64,
    /// Entries in the target that are no directories and no whiteouts; links to one file count once.
    pub files: u64,
    /// Directories in the target, its root included.
    pub directories: u64,
    /// Files whose content was copied while everybody stood still.
    pub frozen_files: u64,
    /// Rounds of copying what had changed, while the processes ran.
    pub rounds: u32,
    /// Attempts to freeze, the last one included.
    pub attempts: u32,
    /// How the last changes were found.
    pub second_pass: SecondPass,
    /// Entries found changed, while everybody stood still, that the feed had not reported since they
    /// were copied. New links change the looks of a file without an event that names it, so that some
    /// are normal.
    pub unreported: u64,
}
