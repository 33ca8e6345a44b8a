//! Trees of files as compressed tar archives: faithful export, checked import.
//!
//! ```
//! use botstead_archive::*;
//! use std::fs::{self, File};
//! use std::io::Cursor;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let (from, to) = (dir.path().join("from"), dir.path().join("to"));
//! fs::create_dir_all(from.join("notes"))?;
//! fs::create_dir(&to)?;
//! fs::write(from.join("notes/today"), "buy milk")?;
//!
//! let progress = Progress::new();
//! let options = ExportOptions::new("data");
//! let (archive, report) = export(File::open(&from)?, Vec::new(), &options, &progress)?;
//! assert_eq!((report.files, report.directories), (1, 2));
//!
//! let mut options = CheckOptions::new();
//! options.folder = Some("data".to_owned());
//! let mut checked = check(Cursor::new(archive), &options, &progress)?;
//! # if rustix::process::geteuid().is_root() {
//! checked.apply(File::open(&to)?, ApplyMode::Replace, Ownership::ARCHIVE, &progress)?;
//! assert_eq!(fs::read(to.join("notes/today"))?, b"buy milk");
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! **Both sides are hostile.** A tree may hold anything that a container can make; an archive may be
//! any bytes. An export follows no link and opens no device ([`export`]); an import reads the whole
//! archive first ([`check`]) and touches the destination only when all of it is acceptable
//! ([`Checked::apply`]).
//!
//! **What is kept**: content with holes, names and link targets of any bytes and length, modes, owners
//! as numbers, times of modification to the nanosecond, hard links, symbolic links, empty directories,
//! named pipes, `user.*` and `trusted.*` attributes, access lists, file capabilities. Left out and
//! counted: sockets, devices, what is mounted in the tree, attributes of the host such as SELinux'
//! labels. Times of access and change are not kept, nor are names of users.
//!
//! **Archives of others** are taken in the formats of GNU tar (old and PAX, sparse files in all their
//! versions, labelled, incremental, appended to), bsdtar, Go, Python and the like, plain or packed by
//! gzip, zstd, xz or bzip2, also of several members and filled up with zeros. Where a name comes twice the later
//! entry wins. Access lists in the text form of `tar --acls` are not applied.
//!
//! Blocking; needs root to set owners. Knows nothing of containers, bots or HTTP. Mounts, and all or
//! nothing, are the caller's.
//!
//! `format` is tar, `compress` what is around it; `export` reads trees; `check` with `names`, and `apply`
//! are the stages of an import; `save` puts a file in place.

mod apply;
mod attributes;
mod check;
mod compress;
mod error;
mod export;
mod format;
mod limits;
mod names;
mod progress;
mod save;
mod scratch;
mod source;

pub use apply::{ApplyMode, Owner, Ownership};
pub use check::{CheckOptions, Checked, Content, Outline, check};
pub use compress::Compression;
pub use error::{Entry, Error, Refusal};
pub use export::{ExportOptions, ExportReport, export, require_importable};
pub use limits::{Limit, Limits};
pub use progress::Progress;
pub use save::save;
