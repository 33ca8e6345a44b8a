//! placeholder
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
