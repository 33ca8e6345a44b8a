//! The snapshot graph: lineage, listing, tree, retention and flattening plans, as pure functions.
//!
//! This crate owns what follows from the records alone. It asks no runtime and no database: the
//! caller brings what they say, and executes what comes out. Ancestry of versions is recorded,
//! never derived from snapshots; the snapshots' own parents serve [`lineage`] and [`listing`]
//! only.
//!
//! ```
//! use botstead_lineage::{Graph, Snapshot, lineage, listing};
//! use botstead_types::SnapshotKind;
//!
//! let snapshot = |key: &str, parent: Option<&str>, kind| Snapshot {
//!     key: key.parse().expect("a short key is valid"),
//!     parent: parent.map(|key| key.parse().expect("a short key is valid")),
//!     kind,
//!     labels: Default::default(),
//!     created_at: Default::default(),
//!     updated_at: Default::default(),
//! };
//! let snapshots = [
//!     snapshot("base", None, SnapshotKind::Committed),
//!     snapshot("mine", Some("base"), SnapshotKind::Active),
//!     snapshot("somebody else's", Some("base"), SnapshotKind::Active),
//! ];
//! let graph = Graph::new(&snapshots);
//! let chain = lineage("mine", &graph)?;
//! assert_eq!(chain.len(), 2);
//! let listing = listing(&chain, &graph, &[]);
//! assert_eq!(listing.entries[0].name, "base");
//! assert_eq!(listing.entries[0].source().as_str(), "image_layer");
//! # Ok::<(), botstead_lineage::NotFound>(())
//! ```

mod flatten;
mod graph;
mod listing;
mod retention;
mod tree;

pub use flatten::{FlattenPlan, MAX_LOWER_DIRECTORIES, flatten_plan};
pub use graph::{Graph, NotFound, lineage};
pub use listing::{Entry, Listing, Source, listing};
pub use retention::{RetentionRules, retention};
pub use tree::{Node, Tree, tree};

use botstead_types::{SnapshotKey, SnapshotKind, VersionNumber, VersionSource};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A snapshot as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its key.
    pub key: SnapshotKey,
    /// The snapshot that it was prepared from.
    pub parent: Option<SnapshotKey>,
    /// What it is.
    pub kind: SnapshotKind,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A version as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub number: VersionNumber,
    /// The name that the user gave it.
    pub name: Option<String>,
    /// Why it was made.
    pub source: VersionSource,
    /// The committed snapshot.
    pub snapshot: SnapshotKey,
    /// The version that its state grew from.
    pub parent: Option<VersionNumber>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Whether the user wants it kept.
    pub pinned: bool,
    /// What it occupies without its parents, in bytes, once that was measured.
    pub size_bytes: Option<u64>,
}
