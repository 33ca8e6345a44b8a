//! A control group with a freezer, of either version, removed with its value.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where version 1's freezer and version 2 are mounted, on hosts that have one or both.
const ONE: &str = "/sys/fs/cgroup/freezer";
const TWO: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

pub struct Group(PathBuf);

impl Group {
    /// Of the version that a container's would be here.
    pub fn new() -> Self {
        Self::version_1().unwrap_or_else(|| Self::version_2().expect("this host has no freezer"))
    }

    /// None where the kernel has no such controller mounted.
    pub fn version_1() -> Option<Self> {
        Path::new(ONE).is_dir().then(|| Self::below(Path::new(ONE)))
    }

    /// None where it is not mounted.
    pub fn version_2() -> Option<Self> {
        let root = TWO
            .iter()
            .map(Path::new)
            .find(|root| root.join("cgroup.controllers").exists());
        root.map(Self::below)
    }

    fn below(root: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("botstead-live-copy-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("these tests need root");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether all in it stand still.
    pub fn is_frozen(&self) -> bool {
        match fs::read_to_string(self.0.join("freezer.state")) {
            Ok(state) => state.trim_end() == "FROZEN",
            Err(_) => fs::read_to_string(self.0.join("cgroup.events"))
                .unwrap()
                .contains("frozen 1"),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A test that failed in the middle may have left it frozen, and what is frozen cannot end.
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let _ = fs::write(self.0.join("cgroup.freeze"), "0");
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.0) {
            let members = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|line| line.parse().ok()) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            if Instant::now() > deadline {
                eprintln!("cannot remove {}: {error}", self.0.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
