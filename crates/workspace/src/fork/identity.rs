//! What must differ between two computers, and is on their disks: machine ids and the host keys of SSH. Host
//! name, address and the agent's socket are new with every container.

use crate::Result;
use crate::replace::host;
use botstead_overlay::beneath::{self, Listed, batches};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// How many names of a directory are read before they are looked at.
const BATCH: usize = 1024;

/// Gives the computer with this root an identity of its own, as far as it has one at all.
pub(super) fn renew(root: impl AsFd) -> Result<()> {
    let id = format!("{}\n", uuid::Uuid::new_v4().simple());
    // The second is a link to the first where it is of today (dbus-uuidgen(1)).
    for folder in ["etc", "var/lib/dbus"] {
        renew_machine_id(&root, folder, &id)
            .map_err(|errno| host("renew the machine id", errno.into()))?;
    }
    renew_host_keys(&root)
}

fn folder(root: impl AsFd, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match beneath::open(root, path.as_bytes(), DIRECTORY) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        folder => folder.map(Some),
    }
}

/// Writes another machine id in place of the one that is there (machine-id(5)).
fn renew_machine_id(root: impl AsFd, path: &str, id: &str) -> Result<(), Errno> {
    let Some(folder) = folder(root, path)? else {
        return Ok(());
    };
    let name = c"machine-id";
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(&folder, name, read, Mode::empty()) {
        Err(_) => return Ok(()),
        // An empty one is filled at the first boot of what cares for it.
        Ok(found) if fstat(&found)?.st_size == 0 => return Ok(()),
        Ok(_) => {}
    }
    unlinkat(&folder, name, AtFlags::empty())?;
    write(&folder, name, Mode::RUSR | Mode::RGRP | Mode::ROTH, id)
}

/// Makes a host key in place of those that are there: who knows the other computer's must not take this one
/// for it. It is of the kind that every server takes (sshd_config(5), HostKey).
fn renew_host_keys(root: impl AsFd) -> Result<()> {
    let failed = |errno: Errno| host("renew the host keys of SSH", errno.into());
    let Some(folder) = folder(root, "etc/ssh").map_err(failed)? else {
        return Ok(());
    };
    let keys = host_keys(&folder).map_err(failed)?;
    if keys.is_empty() {
        return Ok(());
    }
    let new = private_key().map_err(|error| {
        let error = std::io::Error::other(error);
        host("make a host key of SSH", error)
    })?;
    for name in &keys {
        match unlinkat(&folder, name.as_c_str(), AtFlags::empty()) {
            // A directory is no key.
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let (secret, public) = new;
    let own = Mode::RUSR | Mode::WUSR;
    let files = [
        (c"ssh_host_ed25519_key", own, secret),
        (
            c"ssh_host_ed25519_key.pub",
            own | Mode::RGRP | Mode::ROTH,
            public,
        ),
    ];
    for (name, mode, text) in files {
        match write(&folder, name, mode, &text) {
            Err(Errno::EXIST) => {}
            written => written.map_err(failed)?,
        }
    }
    Ok(())
}

fn private_key() -> Result<(String, String), ssh_key::Error> {
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)?;
    let public = key.public_key().to_openssh()?;
    let secret = key.to_openssh(LineEnding::LF)?;
    Ok((secret.to_string(), format!("{public}\n")))
}

/// The names of host keys, secret and public.
fn host_keys(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut keys = Vec::new();
    batches(folder, BATCH, |batch| {
        let names = batch.into_iter().map(|Listed { name, .. }| name);
        keys.extend(names.filter(|name| is_host_key(name)));
        Ok::<_, Errno>(())
    })?;
    Ok(keys)
}

fn is_host_key(name: &CStr) -> bool {
    let name = name.to_bytes();
    let name = name.strip_suffix(b".pub").unwrap_or(name);
    name.starts_with(b"ssh_host_") && name.ends_with(b"_key")
}

fn write(folder: &OwnedFd, name: &CStr, mode: Mode, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, mode)?;
    let written = File::from(file).write_all(text.as_bytes());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn ids_and_keys_are_new_where_there_were_some() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let open = || File::open(root.path()).unwrap();
        renew(open()).unwrap();
        assert_eq!(
            fs::read_dir(&root).unwrap().count(),
            0,
            "nothing is made up"
        );
        for folder in ["etc/ssh", "var/lib/dbus"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("etc/machine-id"), "old\n").unwrap();
        fs::write(at("var/lib/dbus/machine-id"), "old\n").unwrap();
        for name in ["rsa_key", "rsa_key.pub", "ed25519_key", "ed25519_key.pub"] {
            fs::write(at(&format!("etc/ssh/ssh_host_{name}")), "old\n").unwrap();
        }
        fs::write(at("etc/ssh/sshd_config"), "kept").unwrap();
        renew(open()).unwrap();
        let id = fs::read_to_string(at("etc/machine-id")).unwrap();
        assert_eq!(id.len(), 33);
        assert_eq!(
            fs::read_to_string(at("var/lib/dbus/machine-id")).unwrap(),
            id
        );
        assert!(!at("etc/ssh/ssh_host_rsa_key").exists());
        let secret = at("etc/ssh/ssh_host_ed25519_key");
        assert_eq!(
            secret.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        let key = PrivateKey::read_openssh_file(&secret).unwrap();
        let public = fs::read_to_string(at("etc/ssh/ssh_host_ed25519_key.pub")).unwrap();
        assert_eq!(key.public_key().to_openssh().unwrap(), public.trim_end());
        assert!(at("etc/ssh/sshd_config").exists());
    }

    #[test]
    fn links_of_a_hostile_root_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("machine-id"), "other").unwrap();
        fs::write(outside.path().join("ssh_host_rsa_key"), "other").unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink(outside.path(), root.path().join("etc/ssh")).unwrap();
        let id = outside.path().join("machine-id");
        symlink(id, root.path().join("etc/machine-id")).unwrap();
        renew(File::open(root.path()).unwrap()).unwrap();
        for name in ["machine-id", "ssh_host_rsa_key"] {
            assert_eq!(fs::read(outside.path().join(name)).unwrap(), b"other");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
    }
}
