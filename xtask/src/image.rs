//! The default workspace image: a small computer for an agent, from the machine's own Debian or
//! Ubuntu archives, as an OCI archive. Kept until its recipe changes.

mod oci;

pub(crate) use oci::write_archive;

use crate::apt::{self, Source};
use crate::{command, progress};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name under which the server knows the image.
pub(crate) const NAME: &str = "localhost/botstead/workspace:latest";

/// How the archive's file name ends.
pub(crate) const EXTENSION: &str = ".oci.tar";

/// What an agent finds in its computer besides the distribution's essential packages.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "ca-certificates",
    "curl",
    "git",
    "python3",
    "procps",
    "less",
    "vim-tiny",
];

/// Raised when something changes that the cache key does not see.
const RECIPE: &str = "1";

/// What the build needs.
pub(crate) const NEEDS: &[apt::Need] = &[apt::need("mmdebstrap", "mmdebstrap")];

const ADVICE: &str = "apt-get update, free disk space in TMPDIR, and the same command again; the \
                      machine's own apt sources are used";

/// Gives the archive's path, building it in `folder` when its recipe is new or `rebuild` is set.
pub(crate) fn ensure(folder: &Path, rebuild: bool) -> Result<PathBuf> {
    let sources = base_sources()?;
    let archive = folder.join(format!("workspace-{}{EXTENSION}", key(&sources)));
    if archive.is_file() && !rebuild {
        progress::note(format_args!("image is there: {}", archive.display()));
        return Ok(archive);
    }
    apt::ensure(NEEDS)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let work = tempfile::tempdir_in(folder).context("cannot make a folder for the build")?;
    let rootfs = work.path().join("rootfs.tar");
    progress::note("building the image takes a minute or two, once");
    bootstrap(&sources, &rootfs)?;
    let unfinished = work.path().join("image.tar");
    write_archive(&rootfs, &unfinished, NAME)?;
    // The name appears only when the archive is whole.
    fs::rename(&unfinished, &archive)
        .with_context(|| format!("cannot move the image to {}", archive.display()))?;
    drop_older(folder, &archive);
    progress::note(format_args!("image: {}", archive.display()));
    Ok(archive)
}

/// The archives of the running release: a host may have those of others for some package.
fn base_sources() -> Result<Vec<Source>> {
    let codename = codename(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let mut sources = apt::sources()?;
    if let Some(codename) = codename {
        sources.retain(|source| source.codename.split('-').next() == Some(&codename));
    }
    if sources.is_empty() {
        bail!("apt knows no archive of the running release; try: apt-get update");
    }
    Ok(sources)
}

fn codename(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

fn key(sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    for part in [RECIPE, std::env::consts::ARCH] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    for line in sources.iter().map(Source::line) {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hash.update(PACKAGES.join(" ").as_bytes());
    hex::encode(&hash.finalize()[..8])
}

/// Makes the root filesystem as a tar archive.
fn bootstrap(sources: &[Source], rootfs: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command
        .arg("--variant=apt")
        .arg(format!("--include={}", PACKAGES.join(",")))
        // Manuals and translations are half of the size and of no use to an agent.
        .args(
            ["man", "doc", "info", "locale"]
                .map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*")),
        )
        .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        .arg("--dpkgopt=path-include=/usr/share/locale/locale.alias")
        // Of the build host: each workspace gets its own.
        .arg("--customize-hook=rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\"")
        .arg("--customize-hook=mkdir -p \"$1/data\"")
        .arg(&sources[0].codename)
        .arg(rootfs)
        .arg("-");
    if let Some(proxy) = apt::proxy() {
        command.env("http_proxy", proxy);
    }
    let line = command::shown(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{line}` could not be started"))?;
    let list: String = sources.iter().map(|s| s.line() + "\n").collect();
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends at once closes the pipe; its status tells why.
        let _ = stdin.write_all(list.as_bytes());
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed ({status}), its sources were\n{list}try: {ADVICE}");
    }
    Ok(())
}

/// Removes the archives of older recipes, which nothing reads any more.
fn drop_older(folder: &Path, current: &Path) {
    let Ok(entries) = folder.read_dir() else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = name.starts_with("workspace-") && name.ends_with(EXTENSION);
        if ours && path != current {
            // What stays costs only space.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str) -> Source {
        Source {
            uri: uri.to_owned(),
            suite: "bookworm".to_owned(),
            codename: "bookworm".to_owned(),
            components: vec!["main".to_owned()],
            signed_by: None,
        }
    }

    #[test]
    fn the_key_follows_the_sources() {
        let key_of = |uri| key(&[source(uri)]);
        assert_eq!(key_of("http://a/"), key_of("http://a/"));
        assert_ne!(key_of("http://a/"), key_of("http://b/"));
    }

    #[test]
    fn reads_the_codename() {
        let text = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(codename(text).as_deref(), Some("bookworm"));
        assert_eq!(
            codename("VERSION_CODENAME=\"noble\"").as_deref(),
            Some("noble")
        );
        assert_eq!(codename("ID=arch"), None);
    }

    #[test]
    fn older_archives_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["workspace-a.oci.tar", "workspace-b.oci.tar", "other.tar"] {
            fs::write(path(name), "x").unwrap();
        }
        drop_older(folder.path(), &path("workspace-b.oci.tar"));
        assert!(!path("workspace-a.oci.tar").exists());
        assert!(path("workspace-b.oci.tar").exists() && path("other.tar").exists());
    }
}
