//! Devices of the host by their names in the Container Device Interface, from the JSON files that
//! vendors put below `/etc/cdi` and `/var/run/cdi`.

use crate::op::Op;
use crate::spec::mounts;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::CdiDevice;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    Mount,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::path::{Path, PathBuf};

/// What devices change in a container.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) devices: Vec<LinuxDevice>,
    /// How each of them may be used: of `r`, `w` and `m`.
    access: Vec<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: FileEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: FileEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<PathBuf>,
    /// With the numbers, the host needs no node of it.
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    permissions: Option<String>,
}

impl Node {
    /// The device, and how it may be used.
    fn device(&self, op: &Op) -> Result<(LinuxDeviceBuilder, String)> {
        let missing = |reason: &str| op.fail(ErrorKind::NotFound, reason);
        let kind = match self.kind.as_deref() {
            None => None,
            Some("b") => Some(LinuxDeviceType::B),
            Some("c" | "u") => Some(LinuxDeviceType::C),
            Some(_) => {
                let reason = "a node of it is neither a block nor a character device";
                return Err(op.fail(ErrorKind::Unsupported, reason));
            }
        };
        let access = self.permissions.clone().unwrap_or_else(|| "rwm".to_owned());
        if access.is_empty() || !access.chars().all(|one| "rwm".contains(one)) {
            let reason = "the permissions of a node of it are not of r, w and m";
            return Err(op.fail(ErrorKind::Unsupported, reason));
        }
        let mut device = LinuxDeviceBuilder::default().path(self.path.as_str());
        if let (Some(kind), Some(major), Some(minor)) = (kind, self.major, self.minor) {
            device = device
                .typ(kind)
                .major(major)
                .minor(minor)
                .file_mode(0o666u32);
        } else {
            let host = self.host_path.as_deref().unwrap_or(Path::new(&self.path));
            let stat = rustix::fs::stat(host)
                .map_err(|cause| op.fail_with(ErrorKind::NotFound, "its node is missing", cause))?;
            let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::CharacterDevice => LinuxDeviceType::C,
                rustix::fs::FileType::BlockDevice => LinuxDeviceType::B,
                _ => return Err(missing("its node is not a device")),
            };
            device = device
                .typ(kind)
                .major(rustix::fs::major(stat.st_rdev))
                .minor(rustix::fs::minor(stat.st_rdev))
                .file_mode(stat.st_mode & 0o777)
                .uid(stat.st_uid)
                .gid(stat.st_gid);
        }
        if let Some(mode) = self.file_mode {
            device = device.file_mode(mode & 0o777);
        }
        if let Some(uid) = self.uid {
            device = device.uid(uid);
        }
        if let Some(gid) = self.gid {
            device = device.gid(gid);
        }
        Ok((device, access))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bind {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

impl Edits {
    /// Which devices the container may use, beside those that every one may.
    pub(crate) fn allowed_devices(&self) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
        let rule = |access: &str| LinuxDeviceCgroupBuilder::default().access(access);
        let mut rules = vec![rule("rwm").allow(false).build()?];
        for (device, access) in self.devices.iter().zip(&self.access) {
            let rule = rule(access).allow(true).typ(device.typ());
            rules.push(rule.major(device.major()).minor(device.minor()).build()?);
        }
        Ok(rules)
    }

    fn add(&mut self, op: &Op, edits: &FileEdits) -> Result<()> {
        if !edits.hooks.is_empty() {
            return Err(op.fail(ErrorKind::Unsupported, "the device needs hooks on the host"));
        }
        let wrong = |cause: OciSpecError| {
            op.fail_with(
                ErrorKind::Unsupported,
                "its description is not valid",
                cause,
            )
        };
        self.env.extend(edits.env.iter().cloned());
        for node in &edits.device_nodes {
            let (device, access) = node.device(op)?;
            self.devices.push(device.build().map_err(wrong)?);
            self.access.push(access);
        }
        for bind in &edits.mounts {
            let mut options = bind.options.clone();
            if !options
                .iter()
                .any(|option| option == "bind" || option == "rbind")
            {
                options.push("rbind".to_owned());
            }
            let mount = mounts::bind(&bind.host_path, &bind.container_path, options);
            self.mounts.push(mount.map_err(wrong)?);
        }
        Ok(())
    }
}

/// What these devices change.
///
/// # Errors
/// `NotFound` for a device that no file describes or whose node is missing, `Unsupported` for one
/// that needs hooks.
pub(crate) fn resolve(devices: &[CdiDevice], folders: &[PathBuf]) -> Result<Edits> {
    let mut edits = Edits::default();
    if devices.is_empty() {
        return Ok(edits);
    }
    let files = read(folders);
    for device in devices {
        let op = Op::new("find device", device);
        let (kind, name) = device.as_str().split_once('=').unwrap_or_default();
        // The folder that comes last has precedence, as the specification wants.
        let found = files.iter().rev().find_map(|file| {
            let named = file.devices.iter().find(|device| device.name == name);
            named
                .filter(|_| file.kind == kind)
                .map(|named| (file, named))
        });
        let Some((file, named)) = found else {
            return Err(op.fail(ErrorKind::NotFound, "the host does not have it"));
        };
        edits.add(&op, &file.container_edits)?;
        edits.add(&op, &named.container_edits)?;
    }
    Ok(edits)
}

fn read(folders: &[PathBuf]) -> Vec<File> {
    let mut files = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = std::fs::read(&path).map_err(serde_json::Error::io);
            match text.and_then(|text| serde_json::from_slice(&text)) {
                Ok(file) => files.push(file),
                Err(error) => tracing::warn!(path = %path.display(), %error, "no CDI file"),
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_brings_node_mount_and_variable() {
        let folder = tempfile::tempdir().unwrap();
        let file = r#"{"cdiVersion":"0.6.0","kind":"test.org/null","containerEdits":{"env":["A=1"]},
            "devices":[{"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/x","hostPath":"/dev/null"}],
            "mounts":[{"hostPath":"/etc","containerPath":"/x","options":["ro"]}]}},
            {"name":"made","containerEdits":{"deviceNodes":[{"path":"/dev/none","type":"c","major":511,"minor":7,
            "fileMode":384,"uid":5,"permissions":"rw"}]}},
            {"name":"pipe","containerEdits":{"deviceNodes":[{"path":"/dev/p","type":"p"}]}},
            {"name":"hooked","containerEdits":{"hooks":[{"hookName":"createContainer","path":"/x"}]}}]}"#;
        std::fs::write(folder.path().join("a.json"), file).unwrap();
        let find = |name: &str| resolve(&[name.parse().unwrap()], &[folder.path().to_owned()]);
        let edits = find("test.org/null=0").unwrap();
        assert_eq!(edits.env, ["A=1"]);
        assert_eq!((edits.devices[0].major(), edits.devices[0].minor()), (1, 3));
        assert_eq!(edits.devices[0].typ(), LinuxDeviceType::C);
        let options = edits.mounts[0].options().as_deref();
        assert_eq!(options, Some(&["ro".to_owned(), "rbind".to_owned()][..]));
        let rules = edits.allowed_devices().unwrap();
        let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["a *:* rwm", "c 1:3 rwm"]);
        // What the file says needs no node on the host.
        let made = find("test.org/null=made").unwrap();
        let device = &made.devices[0];
        assert_eq!((device.major(), device.minor()), (511, 7));
        assert_eq!((device.uid(), device.file_mode()), (Some(5), Some(0o600)));
        let rules = made.allowed_devices().unwrap();
        assert_eq!(rules[1].to_string(), "c 511:7 rw");
        let kind = |name| find(name).unwrap_err().kind();
        assert_eq!(kind("test.org/null=1"), ErrorKind::NotFound);
        assert_eq!(kind("test.org/null=pipe"), ErrorKind::Unsupported);
        assert_eq!(kind("test.org/null=hooked"), ErrorKind::Unsupported);
    }
}
