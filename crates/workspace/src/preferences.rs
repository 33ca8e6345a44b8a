//! What a bot prefers: `metadata.workspace`.

use crate::{Error, Result};
use botstead_lineage::RetentionRules;
use botstead_store::Bot;
use botstead_types::{RetentionPreference, WorkspacePreferences};

/// Reads what a bot prefers. What cannot be read is refused rather than replaced by a default: a
/// workspace from the wrong image would be a surprise.
pub(crate) fn preferences(bot: &Bot) -> Result<WorkspacePreferences> {
    let unreadable = |error: &dyn std::error::Error| Error::PreferenceUnreadable(error.to_string());
    let workspace = bot.metadata.workspace();
    let workspace = workspace.map_err(|error| unreadable(&error))?;
    WorkspacePreferences::read(&workspace).map_err(|error| unreadable(&error))
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
