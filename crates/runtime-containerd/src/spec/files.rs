//! The files of the host that appear inside as `/etc/hosts`, `/etc/hostname` and
//! `/etc/resolv.conf`.
//!
//! The root inside may write them. So they are in memory and not on the host's disk: on a tmpfs per
//! task that is small, and on which nothing is set-uid, a device or executable. Inside only the files
//! themselves are mounted, so that whoever is there can put no link into the directory.

use crate::channels::Folders;
use botstead_runtime::ContainerSpec;
use botstead_types::ContainerId;
use rustix::mount::{MountFlags, mount};
use std::ffi::CStr;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// Their names in `/etc`.
pub(crate) const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Room for what people write into them, and nothing else: it is memory of the host.
const LIMITS: &CStr = c"size=256k,nr_inodes=8,mode=0700";

/// What they hold, in the order of [`NAMES`].
pub(crate) fn contents(spec: &ContainerSpec) -> [String; 3] {
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let own = spec
        .address
        .map_or("127.0.1.1".to_owned(), |own| own.to_string());
    hosts.push_str(&format!("{own} {}\n", spec.hostname));
    for (address, name) in &spec.hosts {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    let mut resolv = String::new();
    for server in &spec.dns.nameservers {
        resolv.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [("search", &spec.dns.search), ("options", &spec.dns.options)] {
        if !values.is_empty() {
            resolv.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    [hosts, format!("{}\n", spec.hostname), resolv]
}

/// Where these files of an installation's containers are on the host.
#[derive(Debug, Clone)]
pub(crate) struct EtcFiles {
    folders: Folders,
}

impl EtcFiles {
    pub(crate) fn new(root: &std::path::Path) -> Self {
        Self {
            folders: Folders::new(root),
        }
    }

    pub(crate) fn of(&self, id: &ContainerId) -> PathBuf {
        self.folders.of(id)
    }

    /// Makes them for a task that is about to be made, anew: what an earlier one left goes.
    pub(crate) fn make<'a>(
        &self,
        id: &ContainerId,
        contents: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> io::Result<()> {
        self.remove(id)?;
        let folder = self.of(id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("botstead", &folder, "tmpfs", flags, LIMITS)?;
        for (name, content) in contents {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(folder.join(name))?;
            file.write_all(content.as_bytes())?;
        }
        Ok(())
    }

    /// Removes them; none is no error.
    pub(crate) fn remove(&self, id: &ContainerId) -> io::Result<()> {
        self.folders.remove(id)
    }

    /// The containers that have some.
    pub(crate) fn all(&self) -> io::Result<Vec<ContainerId>> {
        self.folders.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::BotId;

    #[test]
    fn they_are_small_and_made_anew_each_time() {
        let root = tempfile::tempdir().unwrap();
        let files = EtcFiles::new(root.path());
        let id = ContainerId::for_bot(BotId::generate());
        let make = || files.make(&id, [("hosts", "a\n"), ("resolv.conf", "")]);
        make().unwrap();
        let hosts = files.of(&id).join("hosts");
        let full = std::fs::write(&hosts, vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        // As one that was left by a task that vanished.
        make().unwrap();
        assert_eq!(std::fs::read_to_string(&hosts).unwrap(), "a\n");
        assert_eq!(files.all().unwrap(), std::slice::from_ref(&id));
        files.remove(&id).unwrap();
        files.remove(&id).unwrap();
        assert_eq!(files.all().unwrap(), []);
    }
}
