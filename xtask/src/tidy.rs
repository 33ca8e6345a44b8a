//! Checks of the repository that no compiler makes: documentation of every module, inherited lints,
//! the layers' dependencies, file sizes, links. Run by `cargo xtask tidy` and as tests.

mod layers;
#[cfg(test)]
mod tests;

use crate::repository;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Lines that a Rust file may have.
const MOST_LINES: usize = 600;

/// Rust files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Runs every check and reports everything that it found.
pub(crate) fn run() -> Result<()> {
    let mut problems = Vec::new();
    let mut count = 0;
    for path in repository::files("rs")? {
        let text = read(&path)?;
        problems.extend(rust_file(&path, &text));
        count += 1;
    }
    let metadata = layers::metadata()?;
    for manifest in metadata.manifests() {
        problems.extend(lints(manifest, &read(manifest)?)?);
    }
    problems.extend(metadata.check());
    for path in repository::files("md")? {
        problems.extend(links(&path, &read(&path)?));
    }
    let architecture = Path::new("docs/ARCHITECTURE.md");
    problems.extend(named_paths(architecture, &read(architecture)?));
    if !problems.is_empty() {
        bail!("{} problems:\n  {}", problems.len(), problems.join("\n  "));
    }
    crate::progress::note(format_args!("{count} Rust files, no problem"));
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(repository::root().join(path))
        .with_context(|| format!("cannot read {}", path.display()))
}

/// A Rust file begins with what it owns, and is not too long.
fn rust_file(path: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = path.display();
    if !text.trim_start().starts_with("//!") {
        problems.push(format!("{name}: begin it with `//!`: what it owns"));
    }
    let lines = text.lines().count();
    let allowed = LONG_FILES.iter().any(|(file, _)| Path::new(file) == path);
    if lines > MOST_LINES && !allowed {
        problems.push(format!(
            "{name}: {lines} lines; split it by reason to change (at most {MOST_LINES})"
        ));
    }
    problems
}

/// A crate inherits the workspace's lints.
fn lints(path: &Path, manifest: &str) -> Result<Option<String>> {
    let name = path.display();
    let manifest: toml::Table =
        toml::from_str(manifest).with_context(|| format!("cannot parse {name}"))?;
    let inherits = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool);
    Ok((inherits != Some(true)).then(|| format!("{name}: add `[lints]` with `workspace = true`")))
}

/// What a document names as a path of the repository is there.
fn named_paths(path: &Path, text: &str) -> Vec<String> {
    let is_path = |named: &&str| {
        let folder = named.split_once('/').map(|(folder, _)| folder);
        matches!(folder, Some("bins" | "crates" | "docs" | "xtask"))
            && !named.contains(|c: char| c.is_whitespace() || "*…{".contains(c))
    };
    let named = text.split('`').skip(1).step_by(2).filter(is_path);
    named
        .filter(|named| !repository::root().join(named).exists())
        .map(|named| format!("{}: there is no {named}", path.display()))
        .collect()
}

/// A relative link in a document leads to a file that is there.
fn links(path: &Path, text: &str) -> Vec<String> {
    let folder = repository::root().join(path.parent().unwrap_or(Path::new("")));
    let mut in_code = false;
    let mut problems = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split([')', ' ', '#']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://");
            if !elsewhere && !folder.join(target).exists() {
                problems.push(format!(
                    "{}: the link {target} leads nowhere",
                    path.display()
                ));
            }
        }
    }
    problems
}
