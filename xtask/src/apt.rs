//! Debian and Ubuntu packages: which are missing, their installation, and the machine's own sources.
//!
//! Every installation passes `--no-remove`: a host that runs Docker keeps its `containerd.io`, and
//! apt fails instead of replacing it.

use crate::{command, progress};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

const FIX_SOURCES: &str = "apt-get update, and repair the sources that it complains about";

/// Where Debian's packages come from on a machine that has no mirror of Debian configured.
const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian/";
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Something needed, by the package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// The Debian package.
    pub(crate) package: &'static str,
    /// A program of that package; when it is there, however it came, nothing is installed.
    pub(crate) program: &'static str,
}

/// Shorthand for a table of needs.
pub(crate) const fn need(package: &'static str, program: &'static str) -> Need {
    Need { package, program }
}

/// The packages of those needs whose program is missing.
pub(crate) fn missing(needs: &[Need]) -> Vec<&'static str> {
    needs
        .iter()
        .filter(|need| !command::exists(need.program))
        .map(|need| need.package)
        .collect()
}

/// What a person would type to install these packages.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!(
        "apt-get install --no-remove --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Installs what is missing, as root, and nothing when all is there.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let line = install_line(&packages);
    if !command::exists("apt-get") {
        bail!(
            "this machine has no apt-get; install by its own means: {}",
            packages.join(", ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing packages; run as root: {line}");
    }
    progress::note(format_args!("installing {}", packages.join(", ")));
    ensure_lists(&packages)?;
    command::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            // invoke-rc.d starts no service in single-user mode: the packages' own containerd and
            // registry are not needed. systemd ignores this, and what it starts does no harm.
            .env("RUNLEVEL", "1")
            .args([
                "install",
                "--yes",
                "--quiet",
                "--no-remove",
                "--no-install-recommends",
            ])
            .args(&packages),
        &format!("{line} by hand; apt may refuse because another package would have to go"),
    )?;
    let still: Vec<_> = missing(needs);
    if !still.is_empty() {
        bail!(
            "installed, but their programs are not on the PATH: {}",
            still.join(", ")
        );
    }
    Ok(())
}

/// Fetches the package lists where they do not know all of `packages`.
fn ensure_lists(packages: &[&str]) -> Result<()> {
    let known = Command::new("apt-cache")
        .args(["show", "--quiet"])
        .args(packages)
        .output()
        .context("cannot start apt-cache")?;
    if known.status.success() {
        return Ok(());
    }
    update()
}

/// Fetches the package lists.
pub(crate) fn update() -> Result<()> {
    command::run(
        Command::new("apt-get").args(["update", "--quiet"]),
        FIX_SOURCES,
    )
}

/// One archive of the machine's distribution, as its apt has it configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Such as `http://deb.debian.org/debian/`.
    pub(crate) uri: String,
    /// Such as `bookworm-updates`.
    pub(crate) suite: String,
    /// Such as `bookworm`.
    pub(crate) codename: String,
    /// Such as `main`, in order.
    pub(crate) components: Vec<String>,
    /// The keyring that its sources entry names.
    pub(crate) signed_by: Option<String>,
}

impl Source {
    /// The line of a sources.list.
    pub(crate) fn line(&self) -> String {
        let mut line = "deb ".to_owned();
        if let Some(keyring) = &self.signed_by {
            // Writing to a string cannot fail.
            let _ = write!(line, "[signed-by={keyring}] ");
        }
        let _ = write!(
            line,
            "{} {} {}",
            self.uri,
            self.suite,
            self.components.join(" ")
        );
        line
    }
}

/// The archives of the distribution itself, Debian's or Ubuntu's, without those of third parties.
pub(crate) fn sources() -> Result<Vec<Source>> {
    let mut sources = parse_targets(&index_targets()?);
    if sources.is_empty() {
        update()?;
        sources = parse_targets(&index_targets()?);
    }
    if sources.is_empty() {
        bail!("apt knows no archive of Debian or Ubuntu; try: {FIX_SOURCES}");
    }
    Ok(sources)
}

fn index_targets() -> Result<String> {
    command::capture(
        Command::new("apt-get").args(["indextargets", "Created-By: Packages"]),
        FIX_SOURCES,
    )
}

fn parse_targets(text: &str) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for stanza in text.split("\n\n") {
        let fields: BTreeMap<_, _> = stanza
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        let field = |name| fields.get(name).map(|value: &&str| value.trim().to_owned());
        if !matches!(fields.get("Origin"), Some(&("Debian" | "Ubuntu"))) {
            continue;
        }
        let (Some(uri), Some(suite), Some(component)) =
            (field("Repo-URI"), field("Release"), field("Component"))
        else {
            continue;
        };
        // Backports and proposed updates are a choice of the host, not of its workspaces.
        if suite.ends_with("-backports") || suite.ends_with("-proposed") {
            continue;
        }
        let known = sources
            .iter_mut()
            .find(|source| source.uri == uri && source.suite == suite);
        match known {
            Some(source) if source.components.contains(&component) => {}
            Some(source) => source.components.push(component),
            None => sources.push(Source {
                codename: field("Codename").unwrap_or_else(|| suite.clone()),
                // A key given inline spans lines and cannot stand in a one-line entry; the
                // distribution's own keys are found without it.
                signed_by: field("Signed-By").filter(|path| path.starts_with('/')),
                components: vec![component],
                uri,
                suite,
            }),
        }
    }
    sources
}

/// The main archive of a release of Debian, from the machine's own mirror of Debian if it has one.
pub(crate) fn debian(release: &str) -> Source {
    let mirror = sources().unwrap_or_default().into_iter().find(|source| {
        source.suite == source.codename && source.uri.trim_end_matches('/').ends_with("/debian")
    });
    let (uri, keyring) = match mirror {
        Some(source) => (source.uri, source.signed_by),
        None => (DEBIAN_MIRROR.to_owned(), None),
    };
    Source {
        uri,
        suite: release.to_owned(),
        codename: release.to_owned(),
        components: vec!["main".to_owned()],
        signed_by: Some(keyring.unwrap_or_else(|| DEBIAN_KEYRING.to_owned())),
    }
}

/// The proxy that apt is configured with, for programs that do not read its configuration.
pub(crate) fn proxy() -> Option<String> {
    let output = Command::new("apt-config")
        .args(["shell", "PROXY", "Acquire::http::Proxy"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let value = text.trim().strip_prefix("PROXY='")?.strip_suffix('\'')?;
    (!value.is_empty() && value != "DIRECT").then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_distribution_and_joins_components() {
        let stanza = |origin: &str, suite: &str, component: &str, more: &str| {
            format!(
                "Origin: {origin}\nRelease: {suite}\nCodename: noble\nComponent: {component}\n\
                 Repo-URI: http://mirror.example/ubuntu/\n{more}"
            )
        };
        let keyring = "Signed-By: /usr/share/keyrings/ubuntu.gpg\n";
        let text = [
            stanza("Ubuntu", "noble", "main", keyring),
            stanza("Ubuntu", "noble", "universe", keyring),
            stanza("Ubuntu", "noble", "main", keyring),
            stanza("Ubuntu", "noble-backports", "main", keyring),
            stanza("Docker", "noble", "stable", ""),
            stanza(
                "Ubuntu",
                "noble-security",
                "main",
                "Signed-By:  -----BEGIN PGP\n",
            ),
        ]
        .join("\n");
        let lines: Vec<_> = parse_targets(&text).iter().map(Source::line).collect();
        assert_eq!(
            lines,
            [
                "deb [signed-by=/usr/share/keyrings/ubuntu.gpg] http://mirror.example/ubuntu/ noble main universe",
                "deb http://mirror.example/ubuntu/ noble-security main",
            ]
        );
    }

    #[test]
    fn only_what_is_missing_is_named() {
        let needs = [need("coreutils", "ls"), need("nothing", "no-such-program")];
        assert_eq!(missing(&needs), ["nothing"]);
        assert!(install_line(&missing(&needs)).contains("--no-remove"));
        assert!(ensure(&needs[..1]).is_ok());
    }
}
