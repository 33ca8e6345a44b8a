//! Images by their names: the one place that pulls or unpacks one, and refuses those that this server does
//! not allow. What recorded snapshots grew from is found in `recovery/images.rs`.

use crate::create::Wishes;
use crate::operations::LiveOperation;
use crate::pulls::PullPlace;
use crate::service::Inner;
use crate::{Error, Result, disk};
use botstead_runtime::{ErrorKind as RuntimeErrorKind, Image, PullProgress};
use botstead_store::ErrorKind as StoreErrorKind;
use botstead_types::{
    ImageConfig, ImageRef, LeaseId, RecordedImage, ResolvedImage, SnapshotKey, UserId,
};
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

impl Inner {
    /// The image of a creation: the local one, where that was [good enough](Self::good_enough), or pulled;
    /// the pull can be cancelled.
    pub(crate) async fn wished_image(
        &self,
        lease: &LeaseId,
        wishes: &Wishes,
        local: Option<Image>,
        live: &LiveOperation,
    ) -> Result<Image> {
        let image = &wishes.image;
        self.config.bounds.check_image(image)?;
        if let Some(local) = local {
            return Ok(local);
        }
        let owner = self.store.bots.get(live.record.bot).await?.owner;
        live.cancellable.store(true, Ordering::SeqCst);
        let pulled = self.pulled_in_turn(Some(owner), lease, wishes, live).await;
        live.cancellable.store(false, Ordering::SeqCst);
        pulled
    }

    /// The same in a place among the pulls. One that has to give way waits for a place again: it may be slow
    /// because it waits for a layer that another pull gets, and then finds what that one got.
    async fn pulled_in_turn(
        &self,
        owner: Option<UserId>,
        lease: &LeaseId,
        wishes: &Wishes,
        live: &LiveOperation,
    ) -> Result<Image> {
        let image = &wishes.image;
        let mut until = None;
        loop {
            let place = self.pulls.place(owner, &live.pull, &live.cancel);
            let place = match until {
                None => place.await?,
                Some(until) => match tokio::time::timeout_at(until, place).await {
                    Ok(place) => place?,
                    Err(_) => return Err(Error::PullGaveWay(image.clone())),
                },
            };
            // Who had a place before may have pulled the same.
            if let Some(local) = self.good_enough(wishes).await? {
                return Ok(local);
            }
            let until = *until.get_or_insert_with(|| Instant::now() + self.config.pull_timeout);
            let pull = self.pulled_image(&place, lease, image, &live.pull, &live.cancel, until);
            match pull.await {
                Err(Error::PullGaveWay(_)) => {}
                pulled => return pulled,
            }
        }
    }

    /// The local image, where it need not be pulled.
    pub(crate) async fn good_enough(&self, wishes: &Wishes) -> Result<Option<Image>> {
        if wishes.pull_always {
            return Ok(None);
        }
        match self.runtime.images.get(&wishes.image).await {
            Err(error) if error.is_not_found() => Ok(None),
            image => Ok(Some(image?)),
        }
    }

    /// An image from its registry, until then at most, and as long as it has its place.
    pub(crate) async fn pulled_image(
        &self,
        place: &PullPlace,
        lease: &LeaseId,
        image: &ImageRef,
        progress: &watch::Sender<PullProgress>,
        cancel: &CancellationToken,
        until: Instant,
    ) -> Result<Image> {
        self.config.bounds.check_image(image)?;
        disk::require_free_space(&self.config)?;
        let pull = async {
            let pulled = self.runtime.images.pull(lease, image, progress, cancel);
            pulled.await.map_err(|error| match error.kind() {
                RuntimeErrorKind::Cancelled => Error::Cancelled,
                _ => Error::Pull(error),
            })
        };
        let guarded = disk::with_free_space(&self.config, pull);
        let guarded = async {
            tokio::select! {
                biased;
                pulled = guarded => pulled,
                () = place.gives_way() => Err(Error::PullGaveWay(image.clone())),
            }
        };
        match tokio::time::timeout_at(until, guarded).await {
            Ok(pulled) => pulled,
            Err(_) => Err(Error::PullTimedOut {
                image: image.clone(),
                seconds: self.config.pull_timeout.as_secs(),
            }),
        }
    }

    /// What is recorded of an image that a workspace is made from. Its configuration is kept, once for
    /// all workspaces and versions.
    pub(crate) async fn recorded(&self, image: &ResolvedImage) -> Result<RecordedImage> {
        let most = self.config.max_image_config_bytes;
        let bytes = serde_json::to_vec(&image.config).map_or(u64::MAX, |json| json.len() as u64);
        if bytes > most {
            let reference = &image.reference;
            return Err(Error::ImageConfigTooLarge {
                image: reference.clone(),
                bytes,
                most,
            });
        }
        check_environment(&image.config.env).map_err(|reason| Error::ImageUnusable {
            image: image.reference.clone(),
            reason,
        })?;
        self.kept(image).await
    }

    /// The same whatever the size of its configuration: for what exists already.
    pub(crate) async fn kept(&self, image: &ResolvedImage) -> Result<RecordedImage> {
        Ok(RecordedImage {
            config_digest: self.store.images.keep(&image.config).await?,
            reference: image.reference.clone(),
            digest: image.digest.clone(),
        })
    }

    /// A recorded image with its configuration. One that the store lost is the local image's, where that
    /// is still the same, or empty: a workspace is not given up for it.
    pub(crate) async fn resolved(&self, image: &RecordedImage) -> Result<ResolvedImage> {
        let config = match self.store.images.get(&image.config_digest).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                tracing::warn!(image = %image.reference, "its configuration is not in the store");
                match self.runtime.images.get(&image.reference).await {
                    Ok(local) if local.resolved.digest == image.digest => local.resolved.config,
                    _ => ImageConfig::default(),
                }
            }
            config => config?,
        };
        Ok(ResolvedImage {
            config,
            reference: image.reference.clone(),
            digest: image.digest.clone(),
        })
    }

    /// The snapshot of a local image's files.
    pub(crate) async fn unpacked_image(
        &self,
        lease: &LeaseId,
        image: &ImageRef,
    ) -> Result<SnapshotKey> {
        self.config.bounds.check_image(image)?;
        let unpack = async { Ok(self.runtime.images.unpack(lease, image).await?) };
        disk::with_free_space(&self.config, unpack).await
    }
}

/// The longest text that a process can be given in its environment, without the zero at its end
/// (execve(2), MAX_ARG_STRLEN).
const MOST_ENVIRONMENT: usize = (128 << 10) - 1;

/// Refuses variables with which no process can be started, in words for whoever made the image.
fn check_environment(variables: &[String]) -> Result<(), String> {
    let shown = |variable: &str| variable.chars().take(64).collect::<String>();
    for variable in variables {
        match variable.split_once('=') {
            None | Some(("", _)) => {
                return Err(format!(
                    "its environment has {:?}, and every entry must be NAME=value; build the image again without it",
                    shown(variable)
                ));
            }
            Some((name, _)) if variable.len() > MOST_ENVIRONMENT => {
                return Err(format!(
                    "its environment variable {} has {} bytes, and Linux starts no process with one of more \
                     than {MOST_ENVIRONMENT}; build the image again with a shorter one",
                    shown(name),
                    variable.len()
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_no_process_can_have_is_refused_by_name() {
        let check = |variable: String| check_environment(&["A=1".to_owned(), variable]);
        for good in ["B=", "B=x=y", "_=\n"] {
            check(good.to_owned()).unwrap();
        }
        assert!(check("BARE".to_owned()).unwrap_err().contains("\"BARE\""));
        assert!(check("=x".to_owned()).unwrap_err().contains("NAME=value"));
        let long = |bytes: usize| format!("LONG={}", "x".repeat(bytes - "LONG=".len()));
        check(long(MOST_ENVIRONMENT)).unwrap();
        let refused = check(long(MOST_ENVIRONMENT + 1)).unwrap_err();
        assert!(refused.contains("LONG has 131072 bytes"), "{refused}");
    }
}
