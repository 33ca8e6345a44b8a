//! A workspace's data, `/data`, in and out: export, import, and what is preserved when a workspace is
//! deleted.

mod export;
mod import;
mod preserved;

pub use export::ArchiveFormat;
pub(crate) use export::Picture;
pub use import::ImportMode;
