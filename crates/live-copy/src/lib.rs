//! placeholder
mod compare;
mod content;
mod dirs;
mod error;
mod feed;
mod halt;
mod mirror;
mod model;
mod report;
mod scan;
mod stop;
mod sys;
pub use error::Error;
pub use feed::probe::ChangeFeed;
pub use report::{Phase, Progress, Reason, Report, SecondPass};
