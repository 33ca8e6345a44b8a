//! Archives of bots that the database does not know: the bot was deleted with its data preserved, or an
//! older database was put back. Listed for admins, given to them, and discarded when they say so.

use super::archives::{self, Archives, PreservedArchive};
use crate::leftovers::bot_exists;
use crate::replace::{blocking, host};
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_store::Store;
use botstead_types::{BotId, OperationId, PreservedId};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
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

/// Archives in a folder of preserved data whose bots the database does not know, by bot, newest first.
///
/// # Errors
/// The folder cannot be read, or the database does not answer.
pub async fn unclaimed_archives(store: &Store, folder: &Path) -> Result<Vec<UnclaimedArchive>> {
    let mut found = Vec::new();
    let root = folder.to_owned();
    for bot in blocking(move || archives::bots(&root)).await? {
        if !bot_exists(store, bot).await? {
            let own = Archives {
                root: folder.to_owned(),
                bot,
            };
            let own = blocking(move || own.list()).await?.into_iter();
            found.extend(own.map(|archive| UnclaimedArchive { bot, archive }));
        }
    }
    Ok(found)
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
        unclaimed_archives(&inner.store, &inner.config.preserved_dir).await
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
}
