//! A filesystem of a kind, removed with its value.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Disk {
    path: PathBuf,
    /// Holds the image.
    dir: PathBuf,
}

impl Disk {
    /// A new filesystem in a file in memory, of so many MiB: real disks only make the tests wait. None
    /// where the kernel does not know the kind. After `private_mounts` only, with which it ends.
    pub fn image(kind: &str, size: u64) -> Option<Self> {
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
        // Seen by this thread and its children only.
        let none = MsFlags::empty();
        mount(Some("tmpfs"), &dir, Some("tmpfs"), none, None::<&str>).unwrap();
        let image = dir.join("image");
        fs::File::create(&image)
            .unwrap()
            .set_len(size << 20)
            .unwrap();
        let program = format!("mkfs.{kind}");
        let status = Command::new(&program).arg("-q").arg(&image).status();
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
        Some(Self { path, dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).unwrap();
        umount2(&self.dir, MntFlags::MNT_DETACH).unwrap();
        super::remove(&self.dir);
    }
}
