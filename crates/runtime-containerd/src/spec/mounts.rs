//! What is mounted inside, in the order in which it is.

use super::Host;
use super::files::NAMES;
use crate::cdi::Edits;
use botstead_runtime::ContainerSpec;
use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};
use std::path::Path;

/// The host has 4096 terminals for all (`kernel.pty.max`).
pub(crate) const MOST_TERMINALS: &str = "max=512";

const SHARED_MEMORY: &str = "/dev/shm";

/// Filesystems of the kernel: destination, type and options.
const KERNEL: &[(&str, &str, &[&str])] = &[
    ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
            MOST_TERMINALS,
        ],
    ),
    (
        SHARED_MEMORY,
        "tmpfs",
        &["nosuid", "noexec", "nodev", "mode=1777"],
    ),
    ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    (
        "/sys/fs/cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    ),
    // So that mount points under it leave nothing in the writable layer.
    (
        "/run/botstead",
        "tmpfs",
        &["nosuid", "nodev", "mode=755", "size=1024k"],
    ),
];

/// Where they are mounted.
pub(crate) fn kernel<'a>() -> impl Iterator<Item = &'a str> {
    KERNEL.iter().map(|(destination, _, _)| *destination)
}

/// Whether a path in a container, without a slash in front, is on one of these.
pub(crate) fn is_of_the_kernel(path: &[u8]) -> bool {
    KERNEL.iter().any(|(destination, _, _)| {
        let rest = path.strip_prefix(destination.trim_start_matches('/').as_bytes());
        rest.is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'))
    })
}

fn mount(
    destination: &str,
    kind: &str,
    source: &Path,
    options: Vec<String>,
) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
}

/// A file or folder of the host.
pub(crate) fn bind(
    source: &Path,
    destination: &str,
    options: Vec<String>,
) -> Result<Mount, OciSpecError> {
    mount(destination, "bind", source, options)
}

/// Of files that the root inside may write: see [`super::files`].
pub(super) const ETC_OPTIONS: [&str; 6] = ["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"];

fn access(read_only: bool) -> Vec<String> {
    let access = if read_only { "ro" } else { "rw" };
    ["rbind", "rprivate", access].map(str::to_owned).to_vec()
}

pub(super) fn all(
    spec: &ContainerSpec,
    host: &Host<'_>,
    edits: &Edits,
) -> Result<Vec<Mount>, OciSpecError> {
    let mut all = Vec::new();
    for (destination, kind, options) in KERNEL {
        let mut options: Vec<_> = options.iter().map(ToString::to_string).collect();
        if *destination == SHARED_MEMORY {
            options.push(format!("size={}", spec.shared_memory_bytes));
        }
        all.push(mount(destination, kind, Path::new(kind), options)?);
    }
    for name in NAMES {
        let (source, destination) = (host.etc.join(name), format!("/etc/{name}"));
        let options = ETC_OPTIONS.map(str::to_owned).to_vec();
        all.push(bind(&source, &destination, options)?);
    }
    all.extend(edits.mounts.iter().cloned());
    if let Some(channel) = &spec.channel {
        all.push(bind(host.channel, channel, access(false))?);
    }
    for wanted in &spec.mounts {
        all.push(bind(
            &wanted.source,
            &wanted.destination,
            access(wanted.read_only),
        )?);
    }
    Ok(all)
}
