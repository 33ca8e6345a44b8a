//! What a server's containerd and the host have, looked at from outside.

use crate::client::Workspace;
use crate::server::Server;
use botstead_network_bridge::BridgeConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

impl Server {
    /// Whether the bot's data is preserved.
    pub(crate) fn has_preserved(&self, bot: &str) -> bool {
        let folder = self.data.join("preserved").join(bot);
        let archives = folder.read_dir().into_iter().flatten().flatten();
        let mut names = archives.map(|archive| archive.file_name().to_string_lossy().into_owned());
        names.any(|name| !name.starts_with('.') && name.ends_with(".tar.zst"))
    }

    /// Removes all preserved data.
    pub(crate) fn remove_preserved(&self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(self.data.join("preserved"));
    }

    /// A file as a committed snapshot shows it, and a digest of all that is in its own layer.
    pub(crate) fn kept_in(&self, key: &str, path: &str) -> (String, String) {
        // A collection of garbage may take the view away at once: it is only asked for paths.
        let mount = (0..20).find_map(|_| {
            self.try_ctr(&["snapshots", "view", "look", key]);
            let mounts = self.try_ctr(&["snapshots", "mounts", "/nowhere", "look"]);
            self.try_ctr(&["snapshots", "remove", "look"]);
            mounts.status.success().then_some(mounts.stdout)
        });
        let mount = String::from_utf8(mount.unwrap()).unwrap();
        let mut words = mount.split([' ', ',']);
        let lower = words.find_map(|word| word.strip_prefix("lowerdir="));
        let layers: Vec<&Path> = match lower {
            Some(lower) => lower.trim().split(':').map(Path::new).collect(),
            None => panic!("no layers in {mount:?}"),
        };
        let found = layers
            .iter()
            .find_map(|layer| std::fs::read_to_string(layer.join(path)).ok());
        let archive = Command::new("tar")
            // When it was last read is no part of it.
            .args(["--sort=name", "--pax-option=delete=atime"])
            .args(["--xattrs", "--xattrs-include=*", "-c", "-C"])
            .arg(layers[0])
            .arg(".")
            .output()
            .unwrap();
        assert!(archive.status.success(), "{archive:?}");
        let digest = archive
            .stdout
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let digest = format!("{} bytes, {digest:016x}", archive.stdout.len());
        (found.unwrap_or_default().trim().to_owned(), digest)
    }

    /// The writable snapshot of a container.
    pub(crate) fn snapshot_of(&self, container: &str) -> String {
        let info = self.ctr(&["containers", "info", container]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["SnapshotKey"].as_str().unwrap().to_owned()
    }

    /// Snapshots that are wanted and missing, and those that nothing wanted is built on. An image's
    /// own do not count.
    pub(crate) fn wrong_snapshots(&self, wanted: &BTreeSet<String>) -> Vec<String> {
        let listed = self.ctr(&["snapshots", "list"]);
        let mut parents = BTreeMap::new();
        for line in listed.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            // Without a parent there are two columns.
            let parent = if words.len() > 2 { words[1] } else { "" };
            parents.insert(words[0], parent);
        }
        let mut used = BTreeSet::new();
        let mut wrong = Vec::new();
        for name in wanted {
            let mut key = name.as_str();
            if !parents.contains_key(key) {
                wrong.push(format!("snapshot {key} is missing"));
            }
            while let Some(parent) = parents.get(key) {
                used.insert(key);
                key = parent;
            }
        }
        let orphans = parents
            .keys()
            .filter(|key| !used.contains(*key) && !key.starts_with("sha256:"));
        wrong.extend(orphans.map(|key| format!("snapshot {key} belongs to nothing")));
        wrong
    }

    /// The host's ends of links: ports of this server's bridge, and any that is named after one of
    /// the workspaces.
    pub(crate) fn links(&self, workspaces: &[&Workspace]) -> Vec<String> {
        let id = self.installation().unwrap();
        let bridge = BridgeConfig::for_installation(&id, "/nowhere").bridge_name;
        let listed = Command::new("ip").args(["-o", "-d", "link"]).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let ours = |line: &&str| {
            line.contains(&format!(" master {bridge} "))
                || workspaces
                    .iter()
                    .any(|workspace| line.contains(&workspace.bot))
        };
        listed.lines().filter(ours).map(str::to_owned).collect()
    }

    /// Workspaces whose control group stands still.
    pub(crate) fn frozen(&self) -> Vec<String> {
        let tasks = self.ctr(&["tasks", "list"]);
        let mut frozen = Vec::new();
        for line in tasks.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", words[1]));
            let groups = groups.unwrap();
            let mut looked = 0;
            for group in groups.lines() {
                let mut parts = group.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next().unwrap(), parts.next().unwrap());
                let state = match controllers {
                    "" => format!("/sys/fs/cgroup{path}/cgroup.freeze"),
                    "freezer" => format!("/sys/fs/cgroup/freezer{path}/freezer.state"),
                    _ => continue,
                };
                if let Ok(state) = std::fs::read_to_string(state) {
                    looked += 1;
                    if !["0", "THAWED"].contains(&state.trim()) {
                        frozen.push(words[0].to_owned());
                    }
                }
            }
            assert!(looked > 0, "no freezer of {line}: {groups}");
        }
        frozen
    }

    /// Waits until nothing is left but mounts of the server itself.
    pub(crate) async fn nothing_left_but(&self, mounts: usize) {
        let none = |server: &Self| {
            let mut left = server.leftovers();
            left.mounts -= mounts.min(left.mounts);
            left
        };
        for _ in 0..100 {
            let left = none(self);
            if left.snapshots.is_empty() && left.leases.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        none(self).assert_none();
        let links = self.links(&[]);
        assert!(links.is_empty(), "{links:?}");
    }
}
