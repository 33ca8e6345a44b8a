//! From a [`ContainerSpec`] to what runc reads (OCI runtime specification 1.0). Mounts are in
//! `mounts`, processes in `process`, the files of the host in `files`, what this adapter itself does at
//! every start in `start`.
//!
//! The process gets the capabilities that Docker gives by default, and `/proc` and `/sys` are masked
//! as there. `noNewPrivileges` is off: `sudo` and other setuid programs are part of what people
//! expect of a workspace, and they cannot gain more than the bounding set here. There is no seccomp
//! filter: one of the usual size costs 26 ms of every start. Resource limits of the process
//! (`RLIMIT_NOFILE` and the others) are inherited from containerd.

pub(crate) mod files;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod start;
#[cfg(test)]
mod tests;

use crate::cdi::Edits;
use botstead_runtime::{ContainerSpec, Error, ErrorKind, Result};
use botstead_types::Limits;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, RootBuilder,
    SpecBuilder,
};
use std::collections::HashMap;
use std::path::Path;

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
/// Of the network namespace, which is the container's own: ports below 1024 and ping for every user, as in
/// Docker (ip-sysctl.rst).
const NETWORK: &[(&str, &str)] = &[
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What of the host a container sees.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    /// Where its files for `/etc` are, once its task is: see [`files::EtcFiles`].
    pub(crate) etc: &'a Path,
    /// Its channel directory, which exists once its task does.
    pub(crate) channel: &'a Path,
    /// The lowest `oom_score_adj` that may be given here.
    pub(crate) oom_floor: i32,
    /// Its folder in the cgroup tree.
    pub(crate) cgroup: &'a str,
    /// Whether the kernel has namespaces of control groups.
    pub(crate) cgroup_namespace: bool,
}

/// The lowest `oom_score_adj` that this process, and the runc that it causes to run, may give: without
/// CAP_SYS_RESOURCE only what it has itself (proc_pid_oom_score_adj(5)), and runc fails on less.
pub(crate) fn oom_floor() -> i32 {
    let may = rustix::thread::capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(rustix::thread::CapabilitySet::SYS_RESOURCE)
    });
    if may {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    own.ok()
        .and_then(|own| own.trim().parse().ok())
        .unwrap_or(0)
}

/// Whether the kernel has namespaces of control groups (Linux 4.6).
pub(crate) fn has_cgroup_namespaces() -> bool {
    Path::new("/proc/self/ns/cgroup").exists()
}

/// Refuses what can never run.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let invalid = |reason: &str| {
        Error::new(ErrorKind::InvalidArgument, "create container", &spec.id).because(reason)
    };
    let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    let program = spec.process.args.first();
    if !program.is_some_and(|program| absolute(program)) {
        return Err(invalid("its program is not an absolute path"));
    }
    if !absolute(&spec.process.cwd) {
        return Err(invalid("its working directory is not an absolute path"));
    }
    if !spec.channel.as_deref().is_none_or(absolute) {
        return Err(invalid("its channel directory is not an absolute path"));
    }
    for mount in &spec.mounts {
        if !absolute(&mount.destination) || !mount.source.is_absolute() {
            return Err(invalid("a mount is not an absolute path"));
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

fn namespaces(spec: &ContainerSpec, host: &Host<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind);
    let mut network = namespace(LinuxNamespaceType::Network);
    if let Some(path) = &spec.network_namespace {
        network = network.path(path.as_path());
    }
    let mut all = vec![
        namespace(LinuxNamespaceType::Pid).build()?,
        namespace(LinuxNamespaceType::Ipc).build()?,
        namespace(LinuxNamespaceType::Uts).build()?,
        namespace(LinuxNamespaceType::Mount).build()?,
        network.build()?,
    ];
    // Without one, a workspace on version 2 sees the host's whole tree, and not its own limits.
    if host.cgroup_namespace {
        all.push(namespace(LinuxNamespaceType::Cgroup).build()?);
    }
    Ok(all)
}

fn resources(limits: &Limits, edits: &Edits) -> Result<LinuxResources, OciSpecError> {
    // 0 is no limit; more than runc can be told is none either.
    let limit = |limit: Option<u64>| {
        let limit = limit.filter(|limit| *limit > 0)?;
        i64::try_from(limit).ok()
    };
    let mut resources = LinuxResourcesBuilder::default().devices(edits.allowed_devices()?);
    if let Some(limit) = limit(limits.memory_bytes) {
        // The same with swap: no swap on top.
        let memory = LinuxMemoryBuilder::default().limit(limit).swap(limit);
        resources = resources.memory(memory.build()?);
    }
    if let Some(limit) = limit(limits.pids) {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    if let Some(millis) = limit(limits.cpu_millis) {
        let cpu = LinuxCpuBuilder::default()
            .quota(millis.saturating_mul(100))
            .period(100_000u64);
        resources = resources.cpu(cpu.build()?);
    }
    resources.build()
}

fn sysctls() -> HashMap<String, String> {
    let all = NETWORK.iter();
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// What runc reads, as JSON.
pub(crate) fn build(
    spec: &ContainerSpec,
    host: &Host<'_>,
    edits: &Edits,
) -> Result<Vec<u8>, OciSpecError> {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let linux = LinuxBuilder::default()
        .cgroups_path(host.cgroup)
        .namespaces(namespaces(spec, host)?)
        .resources(resources(&spec.limits, edits)?)
        .devices(edits.devices.as_slice())
        .sysctl(sysctls())
        .masked_paths(texts(MASKED))
        .readonly_paths(texts(READ_ONLY))
        .build()?;
    let root = RootBuilder::default().path("rootfs").readonly(false);
    let document = SpecBuilder::default()
        .version("1.0.2")
        .process(process::main(spec, host, edits)?)
        .root(root.build()?)
        .hostname(spec.hostname.as_str())
        .mounts(mounts::all(spec, host, edits)?)
        .annotations(start::annotations(spec))
        .linux(linux)
        .build()?;
    Ok(serde_json::to_vec(&document)?)
}
