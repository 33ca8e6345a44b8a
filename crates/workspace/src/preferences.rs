//! What a bot prefers: `metadata.workspace`.

use crate::{Error, Result};
use botstead_lineage::RetentionRules;
use botstead_store::Bot;
use botstead_types::{CdiDevice, ImageRef, Limits};
use serde::Deserialize;

/// The part of `metadata.workspace` that a creation uses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Preferences {
    pub(crate) image: Option<ImageRef>,
    pub(crate) gpu: GpuPreference,
    pub(crate) limits: Limits,
    pub(crate) retention: Option<RetentionRules>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GpuPreference {
    pub(crate) devices: Vec<CdiDevice>,
}

impl Preferences {
    /// Reads them. What cannot be read is refused rather than replaced by a default: a workspace
    /// from the wrong image would be a surprise.
    pub(crate) fn of(bot: &Bot) -> Result<Self> {
        let Some(value) = bot.metadata.get("workspace") else {
            return Ok(Self::default());
        };
        serde_json::from_value(value.clone())
            .map_err(|error| Error::PreferenceUnreadable(error.to_string()))
    }
}
