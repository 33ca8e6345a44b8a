//! The second disk of a machine: what is to be tested, and what tests it.

use super::Debian;
use super::image::disk_from;
use crate::{build, command, repository};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for the results.
const SPARE_BYTES: u64 = 1 << 30;

/// What was built for the machine.
pub(super) struct Parts {
    pub(super) server: PathBuf,
    pub(super) agent: PathBuf,
    /// The archive of the default image.
    pub(super) image: PathBuf,
    pub(super) tests: Vec<build::TestProgram>,
}

/// Writes the disk. On it: `guest`, the checks; `xtask`, this very program; `prebuilt`, what it
/// installs; `tests`; `settings.json`; and `results`, which the guest fills.
pub(super) fn write(
    folder: &Path,
    release: Debian,
    parts: &Parts,
    filters: &[String],
) -> Result<PathBuf> {
    let work = tempfile::Builder::new()
        .prefix("payload-")
        .tempdir_in(folder)
        .context("cannot make a folder for the payload")?;
    let root = work.path();
    for name in ["guest", "prebuilt", "tests", "results"] {
        fs::create_dir(root.join(name))?;
    }
    let checks = repository::root().join("xtask/vm");
    for entry in
        fs::read_dir(&checks).with_context(|| format!("cannot list {}", checks.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            copy(&path, &root.join("guest"))?;
        }
    }
    for part in [&parts.server, &parts.agent, &parts.image] {
        copy(part, &root.join("prebuilt"))?;
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    strip(&own, &root.join("xtask"))?;
    for test in &parts.tests {
        let name = format!("{}-{}", test.package, test.name);
        strip(&test.path, &root.join("tests").join(name))?;
    }
    let settings = json!({"filters": filters});
    fs::write(root.join("settings.json"), settings.to_string())?;
    // One each: machines may run side by side.
    let disk = folder.join(format!("payload-{release}.img"));
    disk_from(root, &disk, size(root)? * 5 / 4 + SPARE_BYTES)?;
    Ok(disk)
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("the file has no name")?;
    fs::copy(file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// A copy without debug information, which is most of a test program.
fn strip(program: &Path, target: &Path) -> Result<()> {
    command::run(
        Command::new("strip").arg("-o").arg(target).arg(program),
        "apt-get install binutils",
    )
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in folder.read_dir()? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => size(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}
