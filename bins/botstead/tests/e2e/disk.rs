//! A small filesystem in a file, to be filled.

use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub(crate) struct Disk {
    target: PathBuf,
    _folder: TempDir,
}

impl Disk {
    pub(crate) fn mount(size: &str) -> Self {
        let folder = crate::server::folder("botstead-disk-");
        let (file, target) = (folder.path().join("disk"), folder.path().join("mounted"));
        std::fs::create_dir(&target).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let done = Command::new(program).args(arguments).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        let (image, place) = (file.to_str().unwrap(), target.to_str().unwrap());
        run("truncate", &["--size", size, image]);
        // Nothing is kept for root, who is who fills it.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image]);
        run("mount", &["-o", "loop", image, place]);
        Self {
            target,
            _folder: folder,
        }
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Takes every block.
    pub(crate) fn fill(&self) {
        let stat = rustix::fs::statvfs(&self.target).unwrap();
        let bulk = (stat.f_bavail * stat.f_frsize).saturating_sub(4 << 20);
        let filler = File::create(self.target.join("filler")).unwrap();
        rustix::fs::fallocate(&filler, FallocateFlags::empty(), 0, bulk).unwrap();
        top_up(&self.target);
    }

    /// Frees so many bytes again.
    pub(crate) fn give_back(&self, bytes: u64) {
        let rest = File::options().write(true).open(self.target.join("rest"));
        let rest = rest.unwrap();
        let length = rest.metadata().unwrap().len();
        rest.set_len(length.saturating_sub(bytes)).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.target)
            .output();
    }
}

/// Takes what became free, several times: blocks of files that were deleted are free only after the
/// journal was written.
pub(crate) fn top_up(target: &Path) {
    let rest = target.join("rest");
    let mut options = File::options();
    let mut rest = options.append(true).create(true).open(rest).unwrap();
    for _ in 0..5 {
        while rest.write_all(&[1; 4096]).is_ok() {}
        // With no block left it may fail; what it writes is nothing that anybody reads.
        let _ = rest.sync_all();
    }
}

/// Gives back what was taken.
pub(crate) fn make_room(target: &Path) {
    for name in ["filler", "rest"] {
        std::fs::remove_file(target.join(name)).unwrap();
    }
}
