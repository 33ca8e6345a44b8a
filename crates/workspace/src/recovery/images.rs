//! The image that a snapshot grew from, from what is left of it.

use super::Seen;
use crate::Result;
use crate::layers::base_of;
use crate::notes::Noted;
use crate::service::Inner;
use botstead_runtime::{ErrorKind, Snapshot};
use botstead_types::{BotId, ImageConfig, ImageRef, RecordedImage};

impl Inner {
    /// The image of a snapshot of the bot's: the one that it says, or that its container names, with its
    /// configuration from a row that remembers it or from the local image; else that of a version or
    /// workspace on the same base.
    pub(super) async fn image_of(
        &self,
        bot: BotId,
        noted: &Noted,
        snapshot: &Snapshot,
        seen: &Seen,
    ) -> Result<RecordedImage> {
        let versions = self.store.versions.list(bot).await?;
        let row = self.record(bot).await?;
        let known = || {
            let versions = versions.iter().map(|one| (&one.snapshot, &one.image));
            let row = row.iter().map(|one| (&one.snapshot, &one.image));
            row.chain(versions)
        };
        if let Some(digest) = &noted.digest
            && let Some((_, image)) = known().find(|(_, image)| image.digest == *digest)
        {
            return Ok(image.clone());
        }
        let named = seen.container_with(&snapshot.key);
        let named = named.and_then(|found| found.image.parse::<ImageRef>().ok());
        if let Some(reference) = noted.image.clone().or(named) {
            let remembered = known().find(|(_, image)| image.reference == reference);
            let remembered = remembered.map(|(_, image)| image.clone());
            let found = match self.local(&reference).await? {
                Some(local) => Some(local),
                None => remembered,
            };
            let found = match found {
                Some(found) => found,
                None => self.unknown_image(reference).await?,
            };
            let digest = noted.digest.clone().unwrap_or(found.digest);
            return Ok(RecordedImage { digest, ..found });
        }
        // As earlier releases made them: nothing but what it lies on.
        let base = base_of(&snapshot.labels);
        let on_same = |key| {
            let other = seen.snapshot(key).and_then(|other| base_of(&other.labels));
            base.is_some() && other == base
        };
        let same = known().find(|(key, _)| on_same(key));
        if let Some((_, image)) = same.or_else(|| known().next()) {
            return Ok(image.clone());
        }
        let reference = self.config.default_image.clone();
        match self.local(&reference).await? {
            Some(local) => Ok(local),
            None => self.unknown_image(reference).await,
        }
    }

    /// An image of which nothing but the name is left.
    async fn unknown_image(&self, reference: ImageRef) -> Result<RecordedImage> {
        Ok(RecordedImage {
            reference,
            digest: String::new(),
            config_digest: self.store.images.keep(&ImageConfig::default()).await?,
        })
    }

    async fn local(&self, reference: &ImageRef) -> Result<Option<RecordedImage>> {
        match self.runtime.images.get(reference).await {
            Ok(image) => Ok(Some(self.kept(&image.resolved).await?)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(None),
                // Later it may be there.
                ErrorKind::Unavailable | ErrorKind::ResourceExhausted | ErrorKind::Cancelled => {
                    Err(error.into())
                }
                ErrorKind::AlreadyExists
                | ErrorKind::Conflict
                | ErrorKind::InvalidArgument
                | ErrorKind::Unstartable
                | ErrorKind::Unsupported
                | ErrorKind::PermissionDenied
                | ErrorKind::NotAllowed
                | ErrorKind::TooLarge
                | ErrorKind::Corrupt
                | ErrorKind::Internal => {
                    // The files are there without it.
                    tracing::warn!(image = %reference, error = %error.chain(),
                        "cannot read the image of a workspace");
                    Ok(None)
                }
            },
        }
    }
}
