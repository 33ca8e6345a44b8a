//! Layers of overlayfs on the host: merged into one, mounted privately, compared, restored from.
//!
//! - [`merge`] makes one layer of several, with the meaning that the kernel gives the stack.
//! - [`PrivateMount`] shows layers as one tree that nobody else sees, to read or to write.
//! - [`diff`] says what differs between two stacks, in pages.
//! - [`restore_path`] brings one path of a tree back into another.
//! - [`measure`] says what a tree occupies, [`pass_on`] gives what is one user's to another.
//! - [`beneath`], [`mod@remove`] and [`tree`] are how all of these go through what a container made, for
//!   other crates as well: by open directories and single names, never following a link.
//!
//! # Merging
//! [`merge`] takes the upper directories that were stacked on an image and makes one directory that
//! shows the same files in their place:
//!
//! - the topmost entry of a name wins; directories merge down to an opaque one, a whiteout or
//!   anything else of that name, and are opaque in the result when something cut them off;
//! - a directory has the metadata of its topmost layer: mode, owner, times, all extended attributes
//!   but overlayfs' own bookkeeping;
//! - a whiteout stays only where the layers below still have the name. It must not stay elsewhere:
//!   the kernel leaves whiteouts out of *merged* directories only and lists those of a directory
//!   that a single layer has.
//!
//! Everything but directories is **hard-linked** from the layers, which are committed and never
//! written again: no space, no copying. What this changes: `st_nlink` seen inside counts the layers'
//! links too (a program that keeps hard links, such as tar or rsync, looks for the others in vain and
//! goes on), and `ctime` is that of the merge. Names that were links to one file within a layer still
//! are. Where a link cannot be made (another filesystem, too many links, another project's quota) the
//! file is copied.
//!
//! Layers are hostile in all that a container can write: any names, depth, links, devices. All access
//! goes by open directories and single names, never following a link; one descriptor per layer
//! serves any depth, and nothing recurses. They are not expected to change meanwhile.
//!
//! Needs root (`CAP_SYS_ADMIN` for `trusted.*`). Not for layers of `userxattr` mounts.
//!
//! `walk` decides, [`meta`] and [`copy`] write. Those two and [`tree`] are public for
//! `botstead-live-copy`, which copies one layer while it changes.

pub mod beneath;
pub mod copy;
mod diff;
mod entries;
mod error;
mod measure;
pub mod meta;
mod owners;
mod private;
pub mod remove;
mod restore;
pub mod tree;
mod walk;

pub use diff::{Change, Difference, Differences, Kind, diff};
pub use error::{Error, is_disk_full};
pub use measure::{Occupied, measure};
pub use owners::pass_on;
pub use private::PrivateMount;
pub use restore::{Restored, check_restore, restore_directory, restore_path};
pub use walk::merge;

/// What a merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Directories made, the target itself not counted.
    pub directories: u64,
    /// Entries that are links to those of the layers, whiteouts included.
    pub linked: u64,
    /// Entries that had to be copied.
    pub copied: u64,
    /// Whiteouts that were still needed.
    pub whiteouts: u64,
}
