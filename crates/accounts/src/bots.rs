//! The records of bots. Deleting one is in the workspace crate.

use crate::preferences::check_workspace;
use crate::{Accounts, BotUpdate, Error, NewBot, Result, authorize, check_name, check_page, now};
use botstead_authz::{Action, Actor, Decision, Resource};
use botstead_store::{self as store, Bot, BotPatch, BotStatus, ErrorKind};
use botstead_types::{BotId, Page, PageRequest};
use serde_json::{Map, Value};

/// The most bytes that a bot's metadata may have as JSON.
pub const METADATA_LIMIT: usize = 64 << 10;

fn not_found(error: store::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::BotNotFound,
        _ => Error::from_store(error),
    }
}

fn check_whole(metadata: &Map<String, Value>) -> Result<()> {
    let json = serde_json::to_vec(metadata)
        .map_err(|error| Error::internal("measuring the metadata", error))?;
    if json.len() > METADATA_LIMIT {
        return Err(Error::MetadataTooLarge {
            size: json.len(),
            limit: METADATA_LIMIT,
        });
    }
    // What cannot be read again would be there for ever: nested too deeply, or under a key to which the
    // library that reads it gives a meaning of its own.
    match serde_json::from_slice::<Map<String, Value>>(&json) {
        Ok(read) if read == *metadata => Ok(()),
        _ => Err(Error::invalid(
            "metadata",
            "it must be JSON of at most 128 levels without keys that begin with `$serde_json::private::`",
        )),
    }
}

impl Accounts {
    fn check_metadata(&self, metadata: &Map<String, Value>) -> Result<()> {
        check_whole(metadata)?;
        match metadata.get("workspace") {
            Some(workspace) => check_workspace(workspace, &self.inner.bounds),
            None => Ok(()),
        }
    }

    /// Adds a bot that the caller owns. It has no container yet.
    ///
    /// # Errors
    /// `Forbidden`, `Invalid`, `MetadataTooLarge`; `InvalidToken` when the caller's account was
    /// removed meanwhile.
    pub async fn create_bot(&self, actor: &Actor, bot: NewBot) -> Result<Bot> {
        authorize(
            actor,
            Action::CreateBot,
            &Resource::Server,
            Error::BotNotFound,
        )?;
        let Actor::User { id: owner, .. } = *actor else {
            return Err(Error::invalid("owner", "a bot belongs to a user"));
        };
        self.check_metadata(&bot.metadata)?;
        let id = BotId::generate();
        let name = match bot.name {
            Some(name) => check_name("name", &name)?,
            // The random part of the id; its beginning is the time.
            None => format!("bot-{}", &id.as_uuid().simple().to_string()[24..]),
        };
        let created_at = now();
        let bot = Bot {
            id,
            owner,
            name,
            display_name: bot
                .display_name
                .map(|name| check_name("display_name", &name))
                .transpose()?,
            is_active: true,
            status: BotStatus::Ready,
            // A null is no value: updates use it to remove a key.
            metadata: bot
                .metadata
                .into_iter()
                .filter(|(_, v)| !v.is_null())
                .collect::<Map<_, _>>()
                .into(),
            created_at,
            updated_at: created_at,
        };
        self.detached(|this| async move {
            match this.inner.store.bots.create(&bot).await {
                Ok(()) => Ok(bot),
                Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::InvalidToken),
                Err(error) => Err(Error::from_store(error)),
            }
        })
        .await
    }

    /// A bot.
    ///
    /// # Errors
    /// `BotNotFound`, also when the caller may not know of it.
    pub async fn bot(&self, actor: &Actor, id: BotId) -> Result<Bot> {
        self.bot_for(actor, Action::ReadBot, id).await
    }

    /// Bots, oldest first: all for those who may see all, else the caller's own.
    ///
    /// # Errors
    /// `Invalid` for a limit or cursor that cannot be.
    pub async fn bots(&self, actor: &Actor, page: &PageRequest) -> Result<Page<Bot>> {
        check_page(page)?;
        let all = botstead_authz::decide(actor, Action::ListAllBots, &Resource::Server);
        let owner = match (all, actor) {
            (Decision::Allow, _) => None,
            (_, Actor::User { id, .. }) => Some(*id),
            (_, Actor::System) => return Err(Error::Forbidden),
        };
        let bots = self.inner.store.bots.list(owner, page).await;
        bots.map_err(Error::from_store)
    }

    /// Changes a bot.
    ///
    /// # Errors
    /// `BotNotFound`, also when the caller may not know of it; `Forbidden`, `Invalid`,
    /// `MetadataTooLarge`; `BotDeleting` once its deletion has begun.
    pub async fn update_bot(&self, actor: &Actor, id: BotId, update: BotUpdate) -> Result<Bot> {
        let bot = self.bot_for(actor, Action::UpdateBot, id).await?;
        if bot.status == BotStatus::Deleting {
            return Err(Error::BotDeleting);
        }
        if let Some(metadata) = &update.metadata {
            self.check_metadata(metadata)?;
            // The sum counts too. Two updates at once may together end above the limit, by at
            // most one more of it: the limit guards the database, and that holds.
            let merged = bot.metadata.changed(metadata);
            let merged = merged.map_err(|error| Error::internal("reading the metadata", error))?;
            check_whole(&merged)?;
        }
        let patch = BotPatch {
            name: update
                .name
                .map(|name| check_name("name", &name))
                .transpose()?,
            display_name: match update.display_name {
                Some(Some(name)) => Some(Some(check_name("display_name", &name)?)),
                other => other,
            },
            is_active: update.is_active,
            status: None,
            metadata: update.metadata,
        };
        self.detached(|this| async move {
            let updated = this.inner.store.bots.update(id, &patch).await;
            updated.map_err(not_found)
        })
        .await
    }

    /// The bot, when the actor may do `action` to it.
    async fn bot_for(&self, actor: &Actor, action: Action, id: BotId) -> Result<Bot> {
        let bot = self.inner.store.bots.get(id).await.map_err(not_found)?;
        let resource = Resource::Bot { owner: bot.owner };
        authorize(actor, action, &resource, Error::BotNotFound)?;
        Ok(bot)
    }
}
