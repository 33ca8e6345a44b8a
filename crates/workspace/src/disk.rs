//! The low-disk guard: new work is refused before the host fills.

use crate::config::WorkspaceConfig;
use crate::{Error, Result};

/// Refuses when less than `min_free_bytes` are free where the workspaces live.
pub(crate) fn require_free_space(config: &WorkspaceConfig) -> Result<()> {
    let path = &config.storage_path;
    let stat = match rustix::fs::statvfs(path) {
        Ok(stat) => stat,
        Err(error) => {
            // Not being able to look is no reason to refuse; running out later is reported then.
            tracing::warn!(path = %path.display(), %error, "cannot read free disk space");
            return Ok(());
        }
    };
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let total_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
    let share = total_bytes / 100 * u64::from(config.min_free_percent.min(100));
    let needed_bytes = config.min_free_bytes.max(share);
    if free_bytes < needed_bytes {
        return Err(Error::InsufficientStorage {
            free_bytes,
            needed_bytes,
        });
    }
    Ok(())
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
