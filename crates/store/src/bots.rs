//! Bots.

use crate::{Metadata, Result};
use async_trait::async_trait;
use botstead_types::{BotId, Page, PageRequest, UserId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a bot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BotStatus {
    /// Its workspace is being created.
    Creating,
    /// Nothing is under way that concerns it as a whole.
    Ready,
    /// It is being deleted.
    Deleting,
    /// The creation of its workspace failed.
    Error,
}

/// A bot.
#[derive(Debug, Clone, PartialEq)]
pub struct Bot {
    /// Its id.
    pub id: BotId,
    /// Who owns it.
    pub owner: UserId,
    /// Its name; not unique.
    pub name: String,
    /// The name to show.
    pub display_name: Option<String>,
    /// Whether its owner has it in use.
    pub is_active: bool,
    /// Where it is in its life.
    pub status: BotStatus,
    /// What clients keep with it; `workspace` in it holds the workspace's preferences.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What changes in a bot; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BotPatch {
    /// A new name.
    pub name: Option<String>,
    /// A new name to show, or none.
    pub display_name: Option<Option<String>>,
    /// Whether it is in use.
    pub is_active: Option<bool>,
    /// A new status.
    pub status: Option<BotStatus>,
    /// Top-level keys of the metadata to set; `null` removes a key, other keys stay.
    pub metadata: Option<Map<String, Value>>,
}

/// Bots.
#[async_trait]
pub trait Bots: Send + Sync {
    /// Adds a bot.
    ///
    /// # Errors
    /// `AlreadyExists` when the id is taken, `NotFound` when the owner does not exist.
    async fn create(&self, bot: &Bot) -> Result<()>;

    /// A bot.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, id: BotId) -> Result<Bot>;

    /// Bots, oldest first: all, or those of one owner.
    ///
    /// # Errors
    /// `InvalidArgument` for a cursor that no page gave.
    async fn list(&self, owner: Option<UserId>, page: &PageRequest) -> Result<Page<Bot>>;

    /// Changes a bot and returns it.
    ///
    /// # Errors
    /// `NotFound`.
    async fn update(&self, id: BotId, patch: &BotPatch) -> Result<Bot>;
}
