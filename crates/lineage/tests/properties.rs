//! What holds for every graph and every history, also for broken ones.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use botstead_lineage::*;
use botstead_types::{SnapshotKey, SnapshotKind, VersionNumber, VersionSource};
use chrono::DateTime;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

fn key(index: usize) -> SnapshotKey {
    format!("s{index}").parse().unwrap()
}

fn number(number: usize) -> VersionNumber {
    i64::try_from(number).unwrap().try_into().unwrap()
}

/// Snapshots whose parents are any, also themselves, each other or none that exists.
fn snapshots() -> impl Strategy<Value = Vec<Snapshot>> {
    let one = (proptest::option::of(0usize..40), 0i64..10);
    proptest::collection::vec(one, 1..30).prop_map(|all| {
        let build = |(index, (parent, second)): (usize, (Option<usize>, i64))| Snapshot {
            key: key(index),
            parent: parent.map(key),
            kind: SnapshotKind::Committed,
            labels: Default::default(),
            created_at: DateTime::from_timestamp(second, 0).unwrap(),
            updated_at: Default::default(),
        };
        all.into_iter().enumerate().map(build).collect()
    })
}

/// Versions numbered from 1 with any parents, also later ones, and any snapshots, also shared and
/// missing ones.
fn versions() -> impl Strategy<Value = Vec<Version>> {
    let source = proptest::sample::select(VersionSource::ALL);
    let one = (
        source,
        0usize..40,
        proptest::option::of(1usize..100),
        any::<bool>(),
        proptest::option::of("[a-c ]{0,2}"),
    );
    proptest::collection::vec(one, 0..90).prop_map(|all| {
        let build = |(index, (source, snapshot, parent, pinned, name))| Version {
            number: number(index + 1),
            name,
            source,
            snapshot: key(snapshot),
            parent: Option::map(parent, number),
            created_at: Default::default(),
            pinned,
            size_bytes: None,
        };
        all.into_iter().enumerate().map(build).collect()
    })
}

fn rules() -> impl Strategy<Value = RetentionRules> {
    (0usize..6, 0usize..6, 0usize..6, 0usize..6).prop_map(|(pre_exec, rollback, import, image)| {
        RetentionRules {
            pre_exec,
            rollback,
            import,
            image,
        }
    })
}

fn head() -> impl Strategy<Value = Option<VersionNumber>> {
    proptest::option::of((1usize..100).prop_map(number))
}

proptest! {
    #[test]
    fn a_lineage_ends_and_is_a_chain(all in snapshots(), root in 0usize..40) {
        let graph = Graph::new(&all);
        match lineage(key(root).as_str(), &graph) {
            Err(_) => prop_assert!(root >= all.len()),
            Ok(chain) => {
                prop_assert_eq!(&chain[0].key, &key(root));
                for pair in chain.windows(2) {
                    prop_assert_eq!(pair[0].parent.as_ref(), Some(&pair[1].key));
                }
                let names: HashSet<_> = chain.iter().map(|s| &s.key).collect();
                prop_assert_eq!(names.len(), chain.len());
                // It ended for one of the three reasons.
                let last = chain[chain.len() - 1].parent.as_ref();
                prop_assert!(last.is_none_or(|parent| names.contains(parent)
                    || graph.get(parent.as_str()).is_none()));
            }
        }
    }

    /// The rest of a lineage is the lineage of what follows, where no cycle is.
    #[test]
    fn a_lineage_is_closed(all in snapshots(), root in 0usize..30) {
        let graph = Graph::new(&all);
        if let Ok(chain) = lineage(key(root).as_str(), &graph) {
            let parent = chain[chain.len() - 1].parent.as_ref();
            if parent.is_none_or(|parent| graph.get(parent.as_str()).is_none()) {
                for (index, snapshot) in chain.iter().enumerate() {
                    let rest = lineage(snapshot.key.as_str(), &graph).unwrap();
                    prop_assert_eq!(&rest[..], &chain[index..]);
                }
            }
        }
    }

    #[test]
    fn a_listing_has_the_lineage_and_every_version_once(
        all in snapshots(),
        versions in versions(),
        root in 0usize..30,
    ) {
        let graph = Graph::new(&all);
        let chain = lineage(key(root).as_str(), &graph).unwrap_or_default();
        let listing = listing(&chain, &graph, &versions);
        let listed: Vec<_> = listing
            .entries
            .iter()
            .map(|e| (&e.snapshot.key, e.version.map(|v| v.number)))
            .collect();
        let distinct: HashSet<_> = listed.iter().collect();
        prop_assert_eq!(distinct.len(), listed.len());
        for version in &versions {
            let exists = graph.get(version.snapshot.as_str()).is_some();
            let times = listed.iter().filter(|(_, n)| *n == Some(version.number)).count();
            prop_assert_eq!(times, usize::from(exists));
            prop_assert_eq!(listing.missing.contains(&version.number), !exists);
        }
        for snapshot in &chain {
            prop_assert!(listed.iter().any(|(listed, _)| **listed == snapshot.key));
        }
        for entry in &listing.entries {
            let recorded = versions.iter().any(|v| v.snapshot == entry.snapshot.key);
            prop_assert_eq!(entry.managed(), recorded);
            prop_assert_eq!(entry.source() == Source::ImageLayer, !recorded);
            prop_assert!(recorded || chain.contains(&entry.snapshot));
        }
        for pair in listing.entries.windows(2) {
            let order = |e: &Entry<'_>| (e.snapshot.created_at, e.name.clone());
            prop_assert!(order(&pair[0]) <= order(&pair[1]));
        }
    }

    #[test]
    fn a_tree_has_every_version_once(versions in versions(), head in head()) {
        let tree = tree(&versions, head);
        let numbers: BTreeSet<_> = tree.nodes.iter().map(|n| n.version.number).collect();
        prop_assert_eq!(tree.nodes.len(), versions.len());
        prop_assert_eq!(numbers.len(), versions.len());
        // Going down from the roots reaches each exactly once.
        let mut queue: Vec<_> = tree.roots().map(|n| n.version.number).collect();
        let mut reached = BTreeSet::new();
        while let Some(number) = queue.pop() {
            prop_assert!(reached.insert(number));
            for child in &tree.get(number).unwrap().children {
                prop_assert_eq!(tree.get(*child).unwrap().parent, Some(number));
                queue.push(*child);
            }
        }
        prop_assert_eq!(reached, numbers);
        let marked: Vec<_> = tree.nodes.iter().filter(|n| n.is_head).collect();
        prop_assert_eq!(marked.len(), usize::from(tree.head.is_some()));
        prop_assert_eq!(marked.first().map(|n| n.version.number), tree.head);
    }

    #[test]
    fn retention_spares_what_it_must(versions in versions(), head in head(), rules in rules()) {
        let expired = retention(&versions, head, &rules);
        for number in &expired {
            let version = versions.iter().find(|v| v.number == *number).unwrap();
            prop_assert!(!version.pinned && head != Some(*number));
            prop_assert!(!matches!(
                version.source,
                VersionSource::Manual | VersionSource::Inherited | VersionSource::Recovered
            ));
        }
        let left: Vec<_> = versions
            .iter()
            .filter(|v| !expired.contains(&v.number))
            .cloned()
            .collect();
        // Doing it twice deletes no more.
        prop_assert_eq!(retention(&left, head, &rules), []);
        // The latest of each source are kept, and only those that must be beside them.
        for (source, limit) in [
            (VersionSource::PreExec, rules.pre_exec),
            (VersionSource::Rollback, rules.rollback),
            (VersionSource::Import, rules.import),
            (VersionSource::Image, rules.image),
        ] {
            for (rank, version) in versions.iter().rev().filter(|v| v.source == source).enumerate() {
                let kept = rank < limit || version.pinned || head == Some(version.number);
                prop_assert_eq!(!expired.contains(&version.number), kept);
            }
        }
    }

    /// Snapshots and rollbacks in any order: no mount ever exceeds the bound, and nothing that is
    /// above the image gets lost.
    #[test]
    fn the_depth_stays_bounded(
        image_layers in 0usize..200,
        steps in proptest::collection::vec(proptest::option::weighted(0.1, 0usize..100), 1..300),
    ) {
        let image: Vec<_> = (0..image_layers).rev().map(|i| key(100_000 + i)).collect();
        let mut versions = Vec::new();
        let mut below = image.clone();
        for (step, back_to) in steps.into_iter().enumerate() {
            below = match back_to.filter(|_| !versions.is_empty()) {
                Some(pick) => {
                    let versions: &Vec<Vec<SnapshotKey>> = &versions;
                    versions[pick % versions.len()].clone()
                }
                None => std::iter::once(key(step)).chain(below).collect(),
            };
            if let Some(plan) = flatten_plan(&below, image_layers) {
                prop_assert_eq!(plan.base.as_ref(), image.first());
                let merged: Vec<_> = plan.merge.iter().rev().cloned().collect();
                prop_assert_eq!(&[merged, image.clone()].concat(), &below);
                below = plan.apply(&below, key(200_000 + step));
            }
            prop_assert!(below.len() - image_layers <= MAX_LOWER_DIRECTORIES);
            versions.push(below.clone());
        }
    }
}

#[test]
fn by_default_five_safety_versions_and_twenty_from_before_commands_stay() {
    let of = |source, count: usize, from: usize| {
        (from..from + count).map(move |n| Version {
            number: number(n),
            name: None,
            source,
            snapshot: key(n),
            parent: None,
            created_at: Default::default(),
            pinned: false,
            size_bytes: None,
        })
    };
    let versions: Vec<_> = of(VersionSource::Manual, 50, 1)
        .chain(of(VersionSource::PreExec, 22, 100))
        .chain(of(VersionSource::Rollback, 6, 200))
        .chain(of(VersionSource::Import, 5, 300))
        .chain(of(VersionSource::Image, 7, 400))
        .chain(of(VersionSource::Inherited, 30, 500))
        .collect();
    let expired = retention(&versions, Some(number(101)), &RetentionRules::default());
    let numbers: Vec<_> = expired.into_iter().map(VersionNumber::get).collect();
    assert_eq!(numbers, [100, 200, 400, 401]);
}

#[test]
fn a_rollback_makes_a_branch_and_a_deleted_parent_a_root() {
    let version = |n, parent: Option<usize>| Version {
        number: number(n),
        name: None,
        source: VersionSource::Manual,
        snapshot: key(n),
        parent: parent.map(number),
        created_at: Default::default(),
        pinned: false,
        size_bytes: None,
    };
    let versions = [
        version(5, Some(4)),
        version(1, None),
        version(2, Some(1)),
        version(3, Some(1)),
    ];
    let tree = tree(&versions, Some(number(3)));
    let roots: Vec<_> = tree.roots().map(|n| n.version.number.get()).collect();
    assert_eq!(roots, [1, 5]);
    assert_eq!(
        tree.get(number(1)).unwrap().children,
        [number(2), number(3)]
    );
    assert!(tree.get(number(3)).unwrap().is_head);
    assert_eq!(tree.head, Some(number(3)));
}
