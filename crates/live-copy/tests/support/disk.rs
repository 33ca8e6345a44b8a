//! A folder on a filesystem of a kind, removed with its value.

use nix::mount::{MntFlags, umount2};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Disk {
    path: PathBuf,
    is_mounted: bool,
    /// Holds the image, if any.
    dir: PathBuf,
}

impl Disk {
    /// On the disk of the temporary folder.
    pub fn temporary() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("lc")
            .tempdir()
            .unwrap()
            .keep();
        Self {
            path: dir.clone(),
            is_mounted: false,
            dir,
        }
    }

    /// A new filesystem in a file, of so many MiB. None where the kernel does not know the kind. After
    /// `private_mounts` only, with which it ends.
    pub fn image(kind: &str, size: u64) -> Option<Self> {
        Self::with_options(kind, size, &[], "defaults")
    }

    /// The same, made and mounted in a way of one's own.
    pub fn with_options(kind: &str, size: u64, made: &[&str], mounted: &str) -> Option<Self> {
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        if !known
            .lines()
            .any(|line| line.ends_with(&format!("\t{kind}")))
        {
            // It may be a module that nobody has asked for as yet.
            let loaded = Command::new("modprobe").arg(kind).status();
            if !loaded.is_ok_and(|status| status.success()) {
                return None;
            }
        }
        let dir = tempfile::Builder::new()
            .prefix("lc")
            .tempdir()
            .unwrap()
            .keep();
        let image = dir.join("image");
        fs::File::create(&image)
            .unwrap()
            .set_len(size << 20)
            .unwrap();
        let program = format!("mkfs.{kind}");
        let status = Command::new(&program)
            .arg("-q")
            .args(made)
            .arg(&image)
            .status();
        let status = status.unwrap_or_else(|_| panic!("apt-get install the package of {program}"));
        assert!(status.success());
        let path = dir.join("mounted");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success());
        Some(Self {
            path,
            is_mounted: true,
            dir,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
        }
        super::remove(&self.dir);
    }
}
