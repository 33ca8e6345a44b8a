//! Cases of listings.

use super::*;
use crate::lineage;
use botstead_types::SnapshotKind;
use chrono::DateTime;

fn snapshot(key: &str, parent: Option<&str>, second: i64) -> Snapshot {
    let at = DateTime::from_timestamp(second, 0).unwrap();
    Snapshot {
        key: key.parse().unwrap(),
        parent: parent.map(|parent| parent.parse().unwrap()),
        kind: SnapshotKind::Committed,
        labels: Default::default(),
        created_at: at,
        updated_at: at,
    }
}

fn version(number: i64, snapshot: &str, name: Option<&str>) -> Version {
    Version {
        number: number.try_into().unwrap(),
        name: name.map(str::to_owned),
        source: VersionSource::Manual,
        snapshot: snapshot.parse().unwrap(),
        parent: None,
        created_at: Default::default(),
        pinned: false,
        size_bytes: None,
    }
}

/// Lists and returns `name source managed` lines and the missing versions.
fn list(root: &str, all: &[Snapshot], versions: &[Version]) -> (Vec<String>, Vec<u32>) {
    let graph = Graph::new(all);
    let chain = lineage(root, &graph).unwrap();
    let listing = listing(&chain, &graph, versions);
    let line = |e: &Entry<'_>| format!("{} {} {}", e.name, e.source().as_str(), e.managed());
    (
        listing.entries.iter().map(line).collect(),
        listing.missing.iter().map(|number| number.get()).collect(),
    )
}

#[test]
fn a_version_beside_the_lineage_is_listed_in_its_place() {
    let all = [
        snapshot("active", Some("v1"), 9),
        snapshot("base", None, 1),
        snapshot("v1", Some("base"), 2),
        snapshot("v2", Some("v1"), 3),
        snapshot("not ours", Some("base"), 4),
    ];
    let versions = [version(1, "v1", Some("clean")), version(2, "v2", None)];
    let (lines, missing) = list("active", &all, &versions);
    assert_eq!(
        lines,
        [
            "base image_layer false",
            "clean manual true",
            "Version 2 manual true",
            "active image_layer false",
        ]
    );
    assert!(missing.is_empty());
}

#[test]
fn a_version_without_snapshot_is_reported() {
    let all = [snapshot("active", None, 1)];
    let (lines, missing) = list("active", &all, &[version(3, "gone", None)]);
    assert_eq!(lines, ["active image_layer false"]);
    assert_eq!(missing, [3]);
}

#[test]
fn equal_times_sort_by_name_and_a_blank_name_is_none() {
    let all = [
        snapshot("c", Some("b"), 1),
        snapshot("b", Some("a"), 1),
        snapshot("a", None, 1),
    ];
    let (lines, _) = list("c", &all, &[version(1, "b", Some(" "))]);
    assert_eq!(
        lines,
        [
            "Version 1 manual true",
            "a image_layer false",
            "c image_layer false",
        ]
    );
}

#[test]
fn every_record_of_one_snapshot_is_listed() {
    let all = [snapshot("a", None, 1)];
    let versions = [version(1, "a", None), version(2, " a", None)];
    let (lines, missing) = list("a", &all, &versions);
    assert_eq!(lines, ["Version 1 manual true", "Version 2 manual true"]);
    assert!(missing.is_empty());
}

#[test]
fn work_is_proportional_to_the_versions() {
    let all: Vec<_> = (0..10_000)
        .map(|i| snapshot(&format!("s{i}"), None, i))
        .collect();
    let graph = Graph::new(&all);
    let versions: Vec<_> = (1..=50)
        .map(|i| version(i, &format!("s{}", i * 100), None))
        .collect();
    let chain = lineage("s0", &graph).unwrap();
    let mut look_ups = 0;
    let listing = assemble(&chain, &versions, |name| {
        look_ups += 1;
        graph.get(name)
    });
    assert_eq!(listing.entries.len(), 51);
    assert_eq!(look_ups, 50);
}
