//! A workspace's data, `/data`, in and out: export, import, and what is preserved when a workspace is
//! deleted.

mod export;
mod import;
mod preserved;
mod unclaimed;

pub use export::ArchiveFormat;
pub(crate) use export::Picture;
pub use import::ImportMode;
pub use preserved::PreservedArchive;
pub(crate) use preserved::{archive_of, legacy};
pub use unclaimed::UnclaimedArchive;
