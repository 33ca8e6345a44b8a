//! The low-disk guard: new work is refused before the host fills.

use crate::config::WorkspaceConfig;
use crate::service::Workspaces;
use crate::{Error, Result};
use std::time::Duration;

/// Refuses when less than the reserve is free where the workspaces live.
pub(crate) fn require_free_space(config: &WorkspaceConfig) -> Result<()> {
    let Some((free_bytes, needed_bytes)) = free_and_reserve(config) else {
        return Ok(());
    };
    if free_bytes < needed_bytes {
        return Err(Error::InsufficientStorage {
            free_bytes,
            needed_bytes,
        });
    }
    Ok(())
}

impl Workspaces {
    /// Refuses when so many bytes do not fit onto the disk where the workspaces live, beside what must
    /// stay free.
    ///
    /// # Errors
    /// `InsufficientStorage`.
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
    free_and_reserve(config).map_or(0, |(_, reserve)| reserve)
}

/// The bytes that are free beyond those that must stay so.
///
/// # Errors
/// When there are none.
pub(crate) fn free_beyond_reserve(config: &WorkspaceConfig) -> Result<u64> {
    require_free_space(config)?;
    Ok(free_and_reserve(config).map_or(u64::MAX, |(free, reserve)| free - reserve.min(free)))
}

/// How often the free space is looked at while something fills the disk.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Does what fills the disk until it is done, or until less than the reserve is free: then it is given up
/// where it is. What it left goes with its lease.
///
/// # Errors
/// Its own; `InsufficientStorage`.
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

fn free_and_reserve(config: &WorkspaceConfig) -> Option<(u64, u64)> {
    let path = &config.storage_path;
    let stat = match rustix::fs::statvfs(path) {
        Ok(stat) => stat,
        Err(error) => {
            // Not being able to look is no reason to refuse; running out later is reported then.
            tracing::warn!(path = %path.display(), %error, "cannot read free disk space");
            return None;
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    let share = total / 100 * u64::from(config.min_free_percent.min(100));
    Some((free, config.min_free_bytes.max(share)))
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
}
