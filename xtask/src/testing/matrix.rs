//! Newer containerd packages of Debian, unpacked under target/ beside the installed one.
//!
//! apt runs with a configuration, sources and folders of its own: the machine's package lists and
//! packages stay as they are, and nothing is installed.

use crate::{apt, command, progress, repository};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ADVICE: &str = "whether the mirror is reachable, or an older Debian keyring: \
                      apt-get install debian-archive-keyring";

/// A version of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// 1.7, from Debian 13
    #[value(name = "1.7")]
    V1_7,
    /// 2.1 or newer, from Debian's next release
    #[value(name = "2.1")]
    V2_1,
}

impl Version {
    /// Every version, in order.
    pub(crate) const ALL: &[Self] = &[Self::V1_7, Self::V2_1];

    fn number(self) -> &'static str {
        match self {
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        }
    }

    /// The suites that have it, the first that does counts.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V1_7 => &["trixie"],
            Self::V2_1 => &["forky", "sid"],
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "containerd {}", self.number())
    }
}

/// Downloads and unpacks a version, once, and gives its folder.
pub(super) fn fetch(version: Version) -> Result<PathBuf> {
    let folder = repository::target().join(format!("containerd-{}", version.number()));
    if folder.join("usr/bin/containerd").is_file() {
        progress::note(format_args!("is there: {}", folder.display()));
        return Ok(folder);
    }
    let mut refusals = Vec::new();
    for suite in version.suites() {
        match fetch_from(version, suite, &folder) {
            Ok(()) => return Ok(folder),
            Err(error) => refusals.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no {version}: {}; try: {ADVICE}", refusals.join("; "));
}

fn fetch_from(version: Version, suite: &str, folder: &Path) -> Result<()> {
    let private = tempfile::Builder::new()
        .prefix("apt-")
        .tempdir_in(repository::target())
        .context("cannot make a folder for apt")?;
    let config = write_config(private.path(), suite)?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", &config)
            .current_dir(private.path());
        command
    };
    command::capture(apt_get().args(["update", "--quiet"]), ADVICE)?;
    command::capture(
        apt_get().args(["download", "--quiet", "containerd"]),
        ADVICE,
    )?;
    let package = private
        .path()
        .read_dir()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    let name = package
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if !name.starts_with(&format!("containerd_{}", version.number())) {
        bail!("{suite} has {name}");
    }
    let unpacked = private.path().join("unpacked");
    command::capture(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&package)
            .arg(&unpacked),
        "apt-get install dpkg",
    )?;
    // It must run here: a program of a newer release may want a newer C library.
    let line = command::capture(
        Command::new(unpacked.join("usr/bin/containerd")).arg("--version"),
        "a newer release of Debian",
    )?;
    progress::note(line.trim());
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
        }
        _ => {}
    }
    fs::rename(&unpacked, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// An apt configuration that knows one suite and shares nothing with the machine's.
fn write_config(private: &Path, suite: &str) -> Result<PathBuf> {
    for folder in ["state/lists/partial", "cache/archives/partial", "parts"] {
        fs::create_dir_all(private.join(folder))?;
    }
    let sources = private.join("sources.list");
    fs::write(&sources, apt::debian(suite).line() + "\n")?;
    fs::write(private.join("status"), "")?;
    let config = private.join("apt.conf");
    let in_private = |name: &str| private.join(name).display().to_string();
    let mut lines = vec![
        format!("Dir::State \"{}\";", in_private("state")),
        format!("Dir::State::status \"{}\";", in_private("status")),
        format!("Dir::Cache \"{}\";", in_private("cache")),
        format!("Dir::Etc::sourcelist \"{}\";", sources.display()),
        format!("Dir::Etc::sourceparts \"{}\";", in_private("parts")),
        format!("Dir::Etc::preferencesparts \"{}\";", in_private("parts")),
        // The folder belongs to whoever runs this, and apt's own user cannot write to it.
        "APT::Sandbox::User \"root\";".to_owned(),
        "Acquire::Languages \"none\";".to_owned(),
    ];
    if let Some(proxy) = apt::proxy() {
        lines.push(format!("Acquire::http::Proxy \"{proxy}\";"));
    }
    fs::write(&config, lines.join("\n") + "\n")?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_apt_shares_nothing_with_the_machines() {
        let folder = tempfile::tempdir().unwrap();
        let config = write_config(folder.path(), "trixie").unwrap();
        let dump = command::capture(
            Command::new("apt-config")
                .env("APT_CONFIG", &config)
                .arg("dump"),
            "apt",
        )
        .unwrap();
        for key in [
            "Dir::State ",
            "Dir::Cache ",
            "Dir::State::status ",
            "Dir::Etc::sourcelist ",
        ] {
            let line = dump.lines().find(|line| line.starts_with(key)).unwrap();
            assert!(line.contains(folder.path().to_str().unwrap()), "{line}");
        }
        let sources = fs::read_to_string(folder.path().join("sources.list")).unwrap();
        assert!(sources.contains(" trixie main"), "{sources}");
    }
}
