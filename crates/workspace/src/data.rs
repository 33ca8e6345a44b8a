//! A workspace's data, `/data`, in and out: export, import, and what is preserved when a workspace is
//! deleted.

mod archives;
mod export;
mod import;
mod owners;
mod preserved;
mod unclaimed;

pub use archives::PreservedArchive;
pub(crate) use archives::legacy;
pub use export::ArchiveFormat;
pub(crate) use export::Picture;
pub use import::{ImportMode, ImportOptions};
pub(crate) use preserved::archive_of;
pub use unclaimed::{UnclaimedArchive, unclaimed_archives};
