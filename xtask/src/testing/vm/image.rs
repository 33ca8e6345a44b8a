//! The disk of a machine: Debian with what the server and its tests need, and a unit that runs what
//! the payload brings. Kept until its recipe changes.

use super::Debian;
use crate::progress::note;
use crate::{apt, command};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a server of Debian has, what the server and `up --check` need, and what the tests need.
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "procps",
    "iproute2",
    "iptables",
    "nftables",
    "ca-certificates",
    "containerd",
    "runc",
    "python3",
    "busybox-static",
    "docker-registry",
    "skopeo",
    "umoci",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "pigz",
    "zstd",
];

/// Files of the machine. The console is for the kernel's and systemd's messages; the checks report
/// through the second serial line.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "vm\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 vm\n"),
    ("etc/resolv.conf", "nameserver 10.0.2.3\n"),
    (
        "etc/fstab",
        "/dev/vda / ext4 rw,noatime 0 1\n/dev/vdb /payload ext4 rw,noatime 0 0\n",
    ),
    (
        "etc/systemd/network/10-ethernet.network",
        "[Match]\nName=eth*\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n",
    ),
    (
        "etc/systemd/system/checks.service",
        "[Unit]\nDescription=Checks of Botstead\nAfter=multi-user.target network-online.target\n\n\
         [Service]\nExecStart=/usr/bin/python3 -u /payload/guest/main.py\nEnvironment=HOME=/root\n\
         StandardOutput=journal+console\nStandardError=journal+console\n",
    ),
];

const SYSTEM: &str = "etc/systemd/system";
/// Units that start with the machine, by the target that wants them.
const WANTED: &[(&str, &str)] = &[
    ("default.target", "/etc/systemd/system/checks.service"),
    (
        "multi-user.target",
        "/lib/systemd/system/systemd-networkd.service",
    ),
    (
        "network-online.target",
        "/lib/systemd/system/systemd-networkd-wait-online.service",
    ),
];
/// Units that would only take time from an emulated machine.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "docker-registry.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
];

/// Holes cost nothing, so this may be generous.
const DISK_BYTES: u64 = 8 << 30;

/// Raised when something changes that the cache key does not see.
const RECIPE: &str = "1";

const ADVICE: &str = "the message above; whether the mirror of Debian is reachable, and disk space";

/// A machine as it is before its first boot.
pub(super) struct Image {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// Gives the release's image, building it in `folder` when its recipe is new.
pub(super) fn ensure(folder: &Path, release: Debian) -> Result<Image> {
    let source = apt::debian(release.name()).line();
    let kept = folder.join(format!("{release}-{}", key(&source)));
    if kept.is_dir() {
        note(format_args!("is there: {}", kept.display()));
        return Ok(Image::in_folder(&kept));
    }
    note("building it takes some minutes, once");
    let work = tempfile::Builder::new()
        .prefix("building-")
        .tempdir_in(folder)
        .context("cannot make a folder for the build")?;
    let root = work.path().join("root");
    bootstrap(release, &source, &root)?;
    set_up(&root).context("cannot set the machine up")?;
    let unfinished = work.path().join("image");
    fs::create_dir(&unfinished)?;
    let image = Image::in_folder(&unfinished);
    move_boot_file(&root, "vmlinuz-", &image.kernel)?;
    move_boot_file(&root, "initrd.img-", &image.initrd)?;
    disk_from(&root, &image.disk, DISK_BYTES)?;
    drop_older(folder, release);
    // The name appears only when the image is whole.
    fs::rename(&unfinished, &kept).with_context(|| format!("cannot make {}", kept.display()))?;
    Ok(Image::in_folder(&kept))
}

impl Image {
    fn in_folder(folder: &Path) -> Self {
        Self {
            disk: folder.join("disk.img"),
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
        }
    }
}

fn key(source: &str) -> String {
    let mut hash = Sha256::new();
    let recipe = format!("{PACKAGES:?} {FILES:?} {WANTED:?} {MASKED:?} {DISK_BYTES}");
    for part in [RECIPE, source, &recipe] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    hex::encode(&hash.finalize()[..8])
}

fn bootstrap(release: Debian, source: &str, root: &Path) -> Result<()> {
    // Its mounts of /dev and the like end with it, whatever ends it: what is then removed is its own.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "mmdebstrap"])
        .args(["--quiet", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(release.name())
        .arg(root)
        .arg(source);
    if let Some(proxy) = apt::proxy() {
        command.env("http_proxy", proxy);
    }
    command::run(&mut command, ADVICE)
}

fn set_up(root: &Path) -> Result<()> {
    for (path, content) in FILES {
        let path = root.join(path);
        // Some are links to what only a running system has.
        let _ = fs::remove_file(&path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for (target, unit) in WANTED {
        let wants = root.join(SYSTEM).join(format!("{target}.wants"));
        fs::create_dir_all(&wants)?;
        let name = Path::new(unit).file_name().context("a unit has a name")?;
        link(unit, &wants.join(name))?;
    }
    for unit in MASKED {
        link("/dev/null", &root.join(SYSTEM).join(unit))?;
    }
    fs::create_dir_all(root.join("payload"))?;
    // With this folder the journal outlives a boot.
    fs::create_dir_all(root.join("var/log/journal"))?;
    Ok(())
}

fn link(target: &str, path: &Path) -> Result<()> {
    let _ = fs::remove_file(path);
    symlink(target, path).with_context(|| format!("cannot link {}", path.display()))
}

/// The one file of `/boot` whose name begins like this.
fn move_boot_file(root: &Path, prefix: &str, target: &Path) -> Result<()> {
    let found = root
        .join("boot")
        .read_dir()?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .with_context(|| format!("the installation has no /boot/{prefix}*"))?;
    fs::copy(found.path(), target)?;
    Ok(())
}

/// An ext4 filesystem with the content of `folder`, made without mounting anything.
pub(super) fn disk_from(folder: &Path, disk: &Path, bytes: u64) -> Result<()> {
    let file = fs::File::create(disk).with_context(|| format!("cannot make {}", disk.display()))?;
    file.set_len(bytes)?;
    command::run(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
            .arg("-d")
            .arg(folder)
            .arg(disk),
        "free disk space under target/",
    )
}

/// Removes what older recipes made of this release.
fn drop_older(folder: &Path, release: Debian) {
    let prefix = format!("{release}-");
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && !name.ends_with("-results") {
            // What stays costs only space.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
