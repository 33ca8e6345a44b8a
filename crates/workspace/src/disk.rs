//! The low-disk guard: new work is refused before the host fills, in bytes or in inodes.

use crate::config::WorkspaceConfig;
use crate::service::Workspaces;
use crate::{Error, Result};
use std::time::Duration;

/// Refuses when less than the reserve is free where the workspaces live.
pub(crate) fn require_free_space(config: &WorkspaceConfig) -> Result<()> {
    let Some(disk) = Disk::look(config) else {
        return Ok(());
    };
    if disk.free_bytes < disk.reserve.bytes {
        return Err(Error::InsufficientStorage {
            free_bytes: disk.free_bytes,
            needed_bytes: disk.reserve.bytes,
        });
    }
    if disk.free_inodes < disk.reserve.inodes {
        return Err(Error::InsufficientInodes {
            free: disk.free_inodes,
            needed: disk.reserve.inodes,
        });
    }
    Ok(())
}

impl Workspaces {
    /// Refuses when so many bytes do not fit onto the disk where the workspaces live, beside what must
    /// stay free.
    ///
    /// # Errors
    /// `InsufficientStorage`, `InsufficientInodes`.
    pub fn require_space(&self, bytes: u64) -> Result<()> {
        let config = &self.inner.config;
        let free_bytes = free_beyond_reserve(config)?;
        if bytes > free_bytes {
            return Err(Error::InsufficientStorage {
                free_bytes,
                needed_bytes: bytes,
            });
        }
        Ok(())
    }
}

/// The bytes that must stay free; 0 when the disk cannot be looked at.
pub(crate) fn reserve(config: &WorkspaceConfig) -> u64 {
    Disk::look(config).map_or(0, |disk| disk.reserve.bytes)
}

/// The bytes that are free beyond those that must stay so.
///
/// # Errors
/// When there are none, or too few inodes.
pub(crate) fn free_beyond_reserve(config: &WorkspaceConfig) -> Result<u64> {
    require_free_space(config)?;
    let beyond = |disk: Disk| disk.free_bytes.saturating_sub(disk.reserve.bytes);
    Ok(Disk::look(config).map_or(u64::MAX, beyond))
}

/// The inodes that are free beyond those that must stay so; any number where the filesystem makes them as
/// they are needed.
pub(crate) fn inodes_beyond_reserve(config: &WorkspaceConfig) -> u64 {
    match Disk::look(config) {
        Some(disk) if disk.counts_inodes => disk.free_inodes.saturating_sub(disk.reserve.inodes),
        _ => u64::MAX,
    }
}

/// How often the free space is looked at while something fills the disk.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Does what fills the disk until it is done, or until less than the reserve is free: then it is given up
/// where it is. What it left goes with its lease.
///
/// # Errors
/// Its own; `InsufficientStorage`, `InsufficientInodes`.
pub(crate) async fn with_free_space<T>(
    config: &WorkspaceConfig,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let short = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = require_free_space(config) {
                return error;
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        error = short => Err(error),
    }
}

/// What is free where the workspaces live, and what of it must stay so.
struct Disk {
    free_bytes: u64,
    free_inodes: u64,
    counts_inodes: bool,
    reserve: Reserve,
}

impl Disk {
    fn look(config: &WorkspaceConfig) -> Option<Self> {
        let path = &config.storage_path;
        let stat = match rustix::fs::statvfs(path) {
            Ok(stat) => stat,
            Err(error) => {
                // Not being able to look is no reason to refuse; running out later is reported then.
                tracing::warn!(path = %path.display(), %error, "cannot read free disk space");
                return None;
            }
        };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let (bytes, percent) = (config.min_free_bytes, config.min_free_percent);
        Some(Self {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            free_inodes: stat.f_favail,
            counts_inodes: stat.f_files > 0,
            reserve: Reserve::of(total, stat.f_files, bytes, percent),
        })
    }
}

/// What of a disk must stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// The bytes.
    pub bytes: u64,
    /// The inodes; 0 where the file system makes them as they are needed, such as btrfs: it says that it
    /// has none.
    pub inodes: u64,
}

impl Reserve {
    /// That of a disk with so many bytes and inodes, by [`WorkspaceConfig::min_free_bytes`] and
    /// [`WorkspaceConfig::min_free_percent`].
    pub fn of(bytes: u64, inodes: u64, min_bytes: u64, min_percent: u8) -> Self {
        let share = |total: u64| {
            let percent = u128::from(min_percent.min(100));
            // Not more than the total.
            u64::try_from(u128::from(total) * percent / 100).unwrap_or(total)
        };
        Self {
            bytes: min_bytes.max(share(bytes)),
            inodes: share(inodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_refused_and_enough_is_not() {
        let mut config = WorkspaceConfig::new("/agent".into(), "/".into());
        (config.min_free_bytes, config.min_free_percent) = (0, 0);
        assert!(require_free_space(&config).is_ok());
        config.min_free_percent = 100;
        let refused = require_free_space(&config).unwrap_err();
        assert_eq!(refused.code(), "insufficient_storage");
        (config.min_free_bytes, config.min_free_percent) = (u64::MAX, 0);
        assert!(require_free_space(&config).is_err());
    }

    /// A file system in memory with so many inodes, 0 for no limit.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mount(inodes: u32) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let options = std::ffi::CString::new(format!("size=1m,nr_inodes={inodes}")).unwrap();
            let none = rustix::mount::MountFlags::empty();
            rustix::mount::mount("test", folder.path(), "tmpfs", none, options.as_c_str()).unwrap();
            Self(folder)
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[test]
    fn too_few_inodes_are_refused_and_a_file_system_that_counts_none_is_not() {
        let limited = Small::mount(100);
        let mut config = WorkspaceConfig::new("/agent".into(), limited.0.path().to_owned());
        (config.min_free_bytes, config.min_free_percent) = (0, 10);
        assert!(require_free_space(&config).is_ok());
        for number in 0..92 {
            std::fs::write(limited.0.path().join(number.to_string()), "").unwrap();
        }
        let refused = require_free_space(&config).unwrap_err();
        assert_eq!(refused.code(), "insufficient_storage");
        assert_eq!(refused.kind(), crate::ErrorKind::ResourceExhausted);
        let said = refused.to_string();
        assert!(said.contains("10 must stay free"), "{said}");
        assert!(free_beyond_reserve(&config).is_err());
        std::fs::remove_file(limited.0.path().join("0")).unwrap();
        std::fs::remove_file(limited.0.path().join("1")).unwrap();
        std::fs::remove_file(limited.0.path().join("2")).unwrap();
        assert!(require_free_space(&config).is_ok());

        let endless = Small::mount(0);
        config.storage_path = endless.0.path().to_owned();
        config.min_free_percent = 90;
        assert!(require_free_space(&config).is_ok());
    }
}
