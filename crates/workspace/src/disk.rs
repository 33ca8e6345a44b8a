//! The low-disk guard: new work is refused before the host fills.

use crate::{Error, Result};
use std::path::Path;

/// Refuses when less than `min_free_bytes` are free where the workspaces live.
pub(crate) fn require_free_space(path: &Path, min_free_bytes: u64) -> Result<()> {
    let stat = match rustix::fs::statvfs(path) {
        Ok(stat) => stat,
        Err(error) => {
            // Not being able to look is no reason to refuse; running out later is reported then.
            tracing::warn!(path = %path.display(), %error, "cannot read free disk space");
            return Ok(());
        }
    };
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free_bytes < min_free_bytes {
        return Err(Error::InsufficientStorage {
            free_bytes,
            needed_bytes: min_free_bytes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_refused_and_enough_is_not() {
        let here = Path::new("/");
        assert!(require_free_space(here, 0).is_ok());
        let refused = require_free_space(here, u64::MAX).unwrap_err();
        assert_eq!(refused.code(), "insufficient_storage");
    }
}
