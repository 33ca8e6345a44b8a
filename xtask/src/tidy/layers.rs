//! Which crate may use which: the dependency table of docs/ARCHITECTURE.md, held to what cargo says.

use crate::{command, repository};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Our crates with what of ours each may depend on, from the bottom up. Everything stands above
/// `types`; a crate may name what stands below its direct uses only where the table says so.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("authz", &["types"]),
    ("lineage", &["types"]),
    ("bridge", &["types"]),
    ("runtime", &["types"]),
    ("store", &["types"]),
    ("image-fixtures", &["types"]),
    ("runtime-testing", &["runtime", "types"]),
    ("overlay", &["types"]),
    ("archive", &["overlay", "types"]),
    ("live-copy", &["overlay", "types"]),
    (
        "runtime-containerd",
        &["runtime", "live-copy", "overlay", "types"],
    ),
    ("network-bridge", &["runtime", "types"]),
    ("store-sql", &["store", "types"]),
    ("accounts", &["store", "authz", "types"]),
    (
        "workspace",
        &[
            "runtime", "store", "authz", "lineage", "bridge", "archive", "overlay", "types",
        ],
    ),
    ("http", &["workspace", "accounts", "authz", "types"]),
    ("agent", &["bridge"]),
];

/// Programs that put everything together, and may use every crate.
const EVERYTHING: &[&str] = &["botstead", "xtask", "botstead-bench", "botstead-fuzz"];

/// What `cargo metadata` says of the workspace's own packages.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// Absent for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
    /// Present when the package is in this repository.
    path: Option<PathBuf>,
}

/// Asks cargo.
pub(super) fn metadata() -> Result<Metadata> {
    let json = command::capture(
        repository::cargo().args(["metadata", "--no-deps", "--format-version", "1"]),
        "cargo metadata, and repair the manifest that it names",
    )?;
    serde_json::from_str(&json).context("cannot read what cargo metadata prints")
}

impl Metadata {
    /// The manifests of our packages.
    pub(super) fn manifests(&self) -> impl Iterator<Item = &Path> {
        self.packages
            .iter()
            .map(|package| package.manifest_path.as_path())
    }

    /// Every normal dependency among our crates that the table does not allow. Tests may use any
    /// crate: they wire real parts together.
    pub(super) fn check(&self) -> Vec<String> {
        self.packages.iter().flat_map(check_package).collect()
    }
}

fn check_package(package: &Package) -> Vec<String> {
    if EVERYTHING.contains(&package.name.as_str()) {
        return Vec::new();
    }
    let name = short(&package.name);
    let Some((_, may_use)) = MAY_USE.iter().find(|(layer, _)| *layer == name) else {
        return vec![format!(
            "{}: not in the dependency table (xtask/src/tidy/layers.rs and docs/ARCHITECTURE.md)",
            package.name
        )];
    };
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some() && dependency.kind.is_none())
        .filter(|dependency| !may_use.contains(&short(&dependency.name)))
        .map(|dependency| {
            format!(
                "{} depends on {}; it may use {}",
                package.name,
                dependency.name,
                may_use.join(", ")
            )
        })
        .collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix("botstead-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, dependencies: serde_json::Value) -> Vec<String> {
        let json = serde_json::json!({"packages": [{
            "name": name, "manifest_path": "Cargo.toml", "dependencies": dependencies,
        }]});
        let metadata: Metadata = serde_json::from_value(json).unwrap();
        metadata.check()
    }

    #[test]
    fn an_upward_dependency_is_refused() {
        let upward = serde_json::json!([{"name": "botstead-http", "path": "crates/http"}]);
        assert_eq!(problems("botstead-runtime", upward.clone()).len(), 1);
        assert!(problems("botstead", upward).is_empty());
    }

    #[test]
    fn tests_and_foreign_crates_are_free() {
        let free = serde_json::json!([
            {"name": "botstead-http", "path": "crates/http", "kind": "dev"},
            {"name": "tokio"},
            {"name": "botstead-types", "path": "crates/types"},
        ]);
        assert!(problems("botstead-runtime", free).is_empty());
    }

    #[test]
    fn a_crate_outside_the_table_is_refused() {
        assert_eq!(problems("botstead-new", serde_json::json!([])).len(), 1);
    }

    #[test]
    fn the_table_points_down_only() {
        for (position, (name, may_use)) in MAY_USE.iter().enumerate() {
            for lower in *may_use {
                let below = MAY_USE[..position].iter().any(|(layer, _)| layer == lower);
                assert!(below, "{name} may not use {lower}, which stands above it");
            }
        }
    }
}
