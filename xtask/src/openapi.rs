//! The committed OpenAPI document, kept equal to what the server says of itself.

use crate::{command, repository};
use anyhow::{Context, Result, bail};
use std::fs;

/// The committed file, relative to the repository's root.
const FILE: &str = "docs/openapi.json";

/// Writes the document, or with `check` only compares it.
pub(crate) fn run(check: bool) -> Result<()> {
    let current = command::capture(
        repository::cargo()
            .args(["run", "--quiet", "--locked", "--package", "botstead"])
            .args(["--", "openapi"]),
        "cargo build --package botstead",
    )?;
    let path = repository::root().join(FILE);
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if same(&current, &committed) {
        return Ok(());
    }
    if check {
        bail!("{FILE} is not what the server serves; try: cargo xtask openapi");
    }
    fs::write(&path, current.trim_end().to_owned() + "\n")
        .with_context(|| format!("cannot write {FILE}"))
}

fn same(one: &str, other: &str) -> bool {
    one.trim_end() == other.trim_end()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_final_line_break_may_differ() {
        assert!(super::same("{}\n", "{}"));
        assert!(!super::same("{}", "{ }"));
        assert!(!super::same("{}", ""));
    }
}
