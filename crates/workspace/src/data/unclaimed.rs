//! Archives of bots that the database does not know: the bot was deleted with its data preserved, or an
//! older database was put back. Listed for admins, given to them, and discarded when they say so.

use super::preserved::PreservedArchive;
use crate::replace::{blocking, host};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_types::{BotId, OperationId, PreservedId};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// How much of an archive is read at once.
const PIECE: usize = 256 << 10;

/// An archive of preserved data whose bot the database does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnclaimedArchive {
    /// Whose it was.
    pub bot: BotId,
    /// The archive.
    pub archive: PreservedArchive,
}

impl Workspaces {
    /// Archives of bots that the database does not know, by bot, newest first.
    ///
    /// # Errors
    /// `Forbidden`; the database does not answer.
    pub async fn unclaimed_archives(&self, actor: &Actor) -> Result<Vec<UnclaimedArchive>> {
        let inner = &self.inner;
        inner.authorized_on_server(
            actor,
            Action::RecoverData,
            "see what the database does not know",
        )?;
        let mut found = Vec::new();
        for bot in inner.preserved_bots().await? {
            if !inner.bot_exists(bot).await? {
                let archives = inner.preserved_archives(bot).await?.into_iter();
                found.extend(archives.map(|archive| UnclaimedArchive { bot, archive }));
            }
        }
        Ok(found)
    }

    /// One of them as it is, a tar in zstd.
    ///
    /// # Errors
    /// `Forbidden`, `PreservedNotFound`.
    pub async fn export_unclaimed(
        &self,
        actor: &Actor,
        bot: BotId,
        archive: PreservedId,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let inner = &self.inner;
        let what = "export what the database does not know";
        inner.authorized_on_server(actor, Action::RecoverData, what)?;
        inner.refuse_claimed(bot, archive).await?;
        let file = inner.open_preserved(bot, archive).await?;
        Ok(stream::try_unfold(file, |mut file| async {
            blocking(move || {
                let failed = |error| host("read preserved data", error);
                let mut piece = vec![0; PIECE];
                let length = read_some(&mut file, &mut piece).map_err(failed)?;
                piece.truncate(length);
                Ok((length > 0).then(|| (Bytes::from(piece), file)))
            })
            .await
        })
        .boxed())
    }

    /// Removes one of them for good.
    ///
    /// # Errors
    /// `Forbidden`, `PreservedNotFound`, `Busy`.
    pub async fn discard_unclaimed(
        &self,
        actor: &Actor,
        bot: BotId,
        archive: PreservedId,
    ) -> Result<()> {
        let inner = &self.inner;
        let what = "discard what the database does not know";
        inner.authorized_on_server(actor, Action::RecoverData, what)?;
        inner.refuse_when_closing()?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let id = OperationId::generate();
                let _guard = work.lock_without_recovery(bot, id, "discard").await?;
                work.refuse_claimed(bot, archive).await?;
                tracing::warn!(%bot, %archive, "discarding preserved data of a bot that is gone");
                work.remove_preserved(bot, archive).await
            })
            .await
    }
}

fn read_some(file: &mut File, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl Inner {
    /// Refuses what is not there, or belongs to a bot that its owner can ask for it.
    async fn refuse_claimed(&self, bot: BotId, archive: PreservedId) -> Result<()> {
        if self.bot_exists(bot).await? || !self.is_preserved(bot, archive).await {
            return Err(Error::PreservedNotFound(archive));
        }
        Ok(())
    }

    /// Every bot that something is preserved of.
    async fn preserved_bots(&self) -> Result<BTreeSet<BotId>> {
        let root = self.config.preserved_dir.clone();
        blocking(move || {
            let failed = |error| host("list preserved data", error);
            let entries = match root.read_dir() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(BTreeSet::new());
                }
                entries => entries.map_err(failed)?,
            };
            let mut bots = BTreeSet::new();
            for entry in entries {
                let name = entry.map_err(failed)?.file_name();
                let name = name.to_string_lossy();
                // A folder of archives, or the archive of an earlier server.
                let bot = name.split('.').next().unwrap_or_default();
                bots.extend(bot.parse::<BotId>());
            }
            Ok(bots)
        })
        .await
    }
}
