//! Checking `metadata.workspace`, what a bot's owner prefers for its workspace, when it is written: so
//! that creating the workspace finds it readable and within the server's bounds.

use crate::{Error, Result};
use botstead_types::{Bounds, WorkspacePreferences};
use serde_json::Value;

/// Refuses a `metadata.workspace` that a workspace could not be made from. `null` removes it.
pub(crate) fn check_workspace(workspace: &Value, bounds: &Bounds) -> Result<()> {
    let preferences = WorkspacePreferences::read(workspace)
        .map_err(|error| Error::invalid(error.field, error.reason))?;
    if let Some(image) = &preferences.image {
        bounds.check_image(image)?;
    }
    bounds.check_devices(&preferences.devices)?;
    bounds.check_limits(&preferences.limits)?;
    Ok(())
}
