//! Prints how long a listing among 100,000 snapshots takes.

// It is a program whose purpose is to print.
#![allow(clippy::print_stdout)]

use botstead_lineage::{Graph, Snapshot, Version, lineage, listing};
use botstead_types::{InvalidValue, SnapshotKind, VersionSource};
use chrono::{DateTime, Utc};
use std::time::Instant;

const SNAPSHOTS: usize = 100_000;
const CHAIN: usize = 40;
const VERSIONS: usize = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let snapshots = (0..SNAPSHOTS)
        .map(|index| {
            let parent = (index % CHAIN != 0).then(|| format!("version-{}", index - 1));
            Ok(Snapshot {
                key: format!("version-{index}").parse()?,
                parent: parent.map(TryInto::try_into).transpose()?,
                kind: SnapshotKind::Committed,
                labels: Default::default(),
                created_at: DateTime::<Utc>::UNIX_EPOCH,
                updated_at: DateTime::<Utc>::UNIX_EPOCH,
            })
        })
        .collect::<Result<Vec<_>, InvalidValue>>()?;
    let versions = (1..=VERSIONS)
        .map(|number| {
            Ok(Version {
                number: i64::try_from(number).unwrap_or(i64::MAX).try_into()?,
                name: None,
                source: VersionSource::Manual,
                snapshot: format!("version-{}", number * 97).parse()?,
                parent: None,
                created_at: DateTime::<Utc>::UNIX_EPOCH,
                pinned: false,
                size_bytes: None,
            })
        })
        .collect::<Result<Vec<_>, InvalidValue>>()?;

    let start = Instant::now();
    let graph = Graph::new(&snapshots);
    let indexed = start.elapsed();
    let chain = lineage(&format!("version-{}", SNAPSHOTS - 1), &graph)?;
    let listing = listing(&chain, &graph, &versions);
    println!(
        "{SNAPSHOTS} snapshots: index {indexed:?}, all {:?}, {} entries",
        start.elapsed(),
        listing.entries.len()
    );
    Ok(())
}
