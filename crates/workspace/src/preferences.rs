//! What a bot prefers: `metadata.workspace`.

use crate::{Error, Result};
use botstead_lineage::RetentionRules;
use botstead_store::Bot;
use botstead_types::{RetentionPreference, WorkspacePreferences};
use serde_json::Value;

/// Reads what a bot prefers. What cannot be read is refused rather than replaced by a default: a
/// workspace from the wrong image would be a surprise.
pub(crate) fn preferences(bot: &Bot) -> Result<WorkspacePreferences> {
    let workspace = bot.metadata.get("workspace").unwrap_or(&Value::Null);
    WorkspacePreferences::read(workspace)
        .map_err(|error| Error::PreferenceUnreadable(error.to_string()))
}

/// The rules of a bot that has some of its own.
pub(crate) fn retention(preference: RetentionPreference) -> RetentionRules {
    let usual = RetentionRules::default();
    RetentionRules {
        pre_exec: preference.pre_exec.unwrap_or(usual.pre_exec),
        rollback: preference.rollback.unwrap_or(usual.rollback),
        import: preference.import.unwrap_or(usual.import),
        image: preference.image.unwrap_or(usual.image),
    }
}
