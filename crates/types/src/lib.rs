//! Identifiers, names, image references, states and limits shared by every crate of Botstead.
//!
//! This crate owns vocabulary: values that are checked once, where they enter, and are right ever
//! after. It does no I/O and knows nothing of runtimes, databases or HTTP.
//!
//! ```
//! use botstead_types::{BotId, ContainerId, ImageRef};
//!
//! let bot = BotId::generate();
//! assert_eq!(ContainerId::for_bot(bot).as_str(), format!("workspace-{bot}"));
//! let image: ImageRef = "debian".parse()?;
//! assert_eq!(image.as_str(), "docker.io/library/debian:latest");
//! # Ok::<(), botstead_types::InvalidValue>(())
//! ```

mod bounds;
mod ids;
mod image;
mod limits;
mod network;
mod page;
mod path;
mod preferences;
mod registry;
mod state;

pub use bounds::{Bounds, DevicePattern, ImagePattern, OutOfBounds};
pub use ids::{
    BotId, ContainerId, LeaseId, OperationId, PreservedId, SnapshotKey, TokenId, UserId,
    VersionNumber,
};
pub use image::{ImageConfig, ImageRef, RecordedImage, ResolvedImage};
pub use limits::{CdiDevice, Limits};
pub use network::network_of;
pub use page::{Page, PageRequest};
pub use path::{FilePath, escaped};
pub use preferences::{InvalidPreference, RetentionPreference, WorkspacePreferences};
pub use registry::{Mirror, RegistryName};
pub use state::{ContainerStatus, DesiredState, Role, SnapshotKind, TaskStatus, VersionSource};

/// A value that its type does not allow, with what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {reason}")]
pub struct InvalidValue {
    /// What kind of value it is, such as `bot id`.
    pub what: &'static str,
    /// The value as it was given, cut to 128 characters.
    pub value: String,
    /// What is wrong with it, or what it should look like.
    pub reason: String,
}

impl InvalidValue {
    /// Describes a refused value; an overlong one is cut so that it cannot flood a log.
    pub fn new(what: &'static str, value: &str, reason: impl Into<String>) -> Self {
        let value = value.chars().take(128).collect();
        Self {
            what,
            value,
            reason: reason.into(),
        }
    }
}
