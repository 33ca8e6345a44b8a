//! Lifecycle events: what happened to a bot's workspace, for people who ask why.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{BotId, Page, PageRequest};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The bot.
    pub bot: BotId,
    /// What happened, as a stable word such as `started` or `task_exited`.
    pub kind: String,
    /// More about it, as a JSON object.
    pub detail: Value,
    /// When it happened.
    pub at: DateTime<Utc>,
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number; later events have larger ones.
    pub id: i64,
    /// What happened.
    pub event: NewEvent,
}

/// Events. They are added by [`crate::Transactions::apply`]. A store keeps at least the newest
/// 1,000 of each bot.
#[async_trait]
pub trait Events: Send + Sync {
    /// Events of a bot, newest first.
    ///
    /// # Errors
    /// `InvalidArgument` for a cursor that no page gave.
    async fn list(&self, bot: BotId, page: &PageRequest) -> Result<Page<Event>>;
}
