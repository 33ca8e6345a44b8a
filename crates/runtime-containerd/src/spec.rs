//! From a [`ContainerSpec`] to what runc reads (OCI runtime specification 1.0), and to the files of
//! the host that appear inside as `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
//!
//! The process gets the capabilities that Docker gives by default, and `/proc` and `/sys` are masked
//! as there. `noNewPrivileges` is off: `sudo` and other setuid programs are part of what people
//! expect of a workspace, and they cannot gain more than the bounding set here. There is no seccomp
//! filter: one of the usual size costs 26 ms of every start.

use crate::cdi::Edits;
use botstead_runtime::{ContainerSpec, Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::path::Path;

const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process may do, in the form that a process of runc has.
pub(crate) fn capabilities() -> Value {
    json!({"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES})
}

/// Refuses what can never run.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let invalid = |reason: &str| {
        Error::new(ErrorKind::InvalidArgument, "create container", &spec.id).because(reason)
    };
    let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    let program = spec.process.args.first();
    if !program.is_some_and(|program| absolute(program)) {
        return Err(invalid("its program is no absolute path"));
    }
    if !absolute(&spec.process.cwd) {
        return Err(invalid("its working directory is no absolute path"));
    }
    for mount in &spec.mounts {
        if !absolute(&mount.destination) || !mount.source.is_absolute() {
            return Err(invalid("a mount is no absolute path"));
        }
    }
    let texts = spec.process.args.iter().chain(&spec.process.env);
    if texts
        .chain([&spec.hostname])
        .any(|text| text.contains('\0'))
    {
        return Err(invalid("it has a zero character"));
    }
    if spec.hostname.contains(['\n', ' ']) {
        return Err(invalid("its host name is none"));
    }
    Ok(())
}

/// Writes the files of the host that appear inside.
pub(crate) fn write_files(spec: &ContainerSpec, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("hostname"), format!("{}\n", spec.hostname))?;
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let own = spec
        .address
        .map_or("127.0.1.1".to_owned(), |own| own.to_string());
    hosts.push_str(&format!("{own} {}\n", spec.hostname));
    for (address, name) in &spec.hosts {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    std::fs::write(folder.join("hosts"), hosts)?;
    let mut resolv = String::new();
    for server in &spec.dns.nameservers {
        resolv.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [("search", &spec.dns.search), ("options", &spec.dns.options)] {
        if !values.is_empty() {
            resolv.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    std::fs::write(folder.join("resolv.conf"), resolv)
}

fn bind(source: &Path, destination: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": destination, "type": "bind", "source": source,
        "options": ["rbind", "rprivate", access]})
}

fn mounts(spec: &ContainerSpec, folder: &Path, edits: &Edits) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
        // So that mount points under it leave nothing in the writable layer.
        mount(
            "/run/botstead",
            "tmpfs",
            &["nosuid", "nodev", "mode=755", "size=1024k"],
        ),
    ];
    for name in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(bind(&folder.join(name), &format!("/etc/{name}"), false));
    }
    if let Some(zone) = spec.timezone.as_deref().and_then(zone_file) {
        mounts.push(bind(&zone, "/etc/localtime", true));
    }
    mounts.extend(edits.mounts.iter().cloned());
    let wanted = spec.mounts.iter();
    mounts.extend(wanted.map(|mount| bind(&mount.source, &mount.destination, mount.read_only)));
    mounts
}

/// The host's file of a time zone, where it has one. Names come from users.
fn zone_file(zone: &str) -> Option<std::path::PathBuf> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+');
    let right = zone
        .split('/')
        .all(|part| !part.is_empty() && part.chars().all(letter));
    let file = Path::new("/usr/share/zoneinfo").join(zone);
    (right && file.is_file()).then_some(file)
}

/// The variables of the image, then those of the host's devices, then the container's own; of two
/// with one name the last counts.
fn environment(spec: &ContainerSpec, edits: &Edits) -> Vec<String> {
    let zone = spec.timezone.as_ref().map(|zone| format!("TZ={zone}"));
    let all = [PATH.to_owned()]
        .into_iter()
        .chain(spec.image.config.env.iter().cloned());
    let all = all.chain(edits.env.iter().cloned()).chain(zone);
    let mut env: Vec<String> = Vec::new();
    for variable in all.chain(spec.process.env.iter().cloned()) {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|other| other.split('=').next() != Some(name));
        env.push(variable);
    }
    env
}

/// What runc reads.
pub(crate) fn build(spec: &ContainerSpec, folder: &Path, cgroup: &str, edits: &Edits) -> Vec<u8> {
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
    ];
    namespaces.push(match &spec.network_namespace {
        Some(path) => json!({"type": "network", "path": path}),
        None => json!({"type": "network"}),
    });
    let mut resources = json!({"devices": edits.allowed_devices()});
    if let Some(limit) = spec.limits.memory_bytes.filter(|limit| *limit > 0) {
        // The same with swap: no swap on top.
        resources["memory"] = json!({"limit": limit, "swap": limit});
    }
    if let Some(limit) = spec.limits.pids.filter(|limit| *limit > 0) {
        resources["pids"] = json!({"limit": limit});
    }
    if let Some(millis) = spec.limits.cpu_millis.filter(|millis| *millis > 0) {
        resources["cpu"] = json!({"quota": millis * 100, "period": 100_000});
    }
    let document = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": spec.process.args,
            "env": environment(spec, edits),
            "cwd": spec.process.cwd,
            "capabilities": capabilities(),
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": spec.hostname,
        "mounts": mounts(spec, folder, edits),
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "resources": resources,
            "devices": edits.devices,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    document.to_string().into_bytes()
}
