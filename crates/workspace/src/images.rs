//! Images of the server: listed, pulled, imported and deleted by admins.

use crate::model::ImageEvent;
use crate::pools;
use crate::service::{Inner, Workspaces};
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_runtime::{Image, PullProgress};
use botstead_types::{ImageRef, LeaseId, OperationId, Page, PageRequest};
use futures_util::stream::{self, BoxStream, StreamExt};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

impl Workspaces {
    /// Local images, by name.
    ///
    /// # Errors
    /// `Forbidden`; the runtime does not answer.
    pub async fn images(&self, actor: &Actor, page: &PageRequest) -> Result<Page<Image>> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "list images")?;
        Ok(inner.runtime.images.list(page).await?)
    }

    /// Refuses what an import of so many bytes would refuse, before they are received.
    ///
    /// # Errors
    /// `Forbidden`, `InsufficientStorage`.
    pub fn before_image_import(&self, actor: &Actor, bytes: u64) -> Result<()> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "import images")?;
        inner.refuse_when_closing()?;
        self.require_space(bytes)
    }

    /// Pulls an image, reporting how far it is. The pull goes on when the stream is dropped.
    ///
    /// # Errors
    /// Before the first event: `Forbidden`, `InsufficientStorage`.
    pub async fn pull_image(
        &self,
        actor: &Actor,
        image: ImageRef,
    ) -> Result<BoxStream<'static, ImageEvent>> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "pull images")?;
        inner.refuse_when_closing()?;
        inner.config.bounds.check_image(&image)?;
        disk::require_free_space(&inner.config)?;
        let progress = Arc::new(watch::Sender::<PullProgress>::default());
        let shown = progress.subscribe();
        let (sender, result) = oneshot::channel();
        let (work, reference) = (Arc::clone(inner), image.clone());
        let of = pools::user(actor);
        inner.spawn(async move {
            let cancel = work.background.child_token();
            let under = Arc::clone(&work);
            let pulled = under
                .with_lease(|lease| async move {
                    let place = work.pulls.place(of, &progress, &cancel).await?;
                    let until = Instant::now() + work.config.pull_timeout;
                    let pull =
                        work.pulled_image(&place, &lease, &reference, &progress, &cancel, until);
                    pull.await
                })
                .await;
            // Nobody may listen any more.
            let _ = sender.send(pulled);
        });
        let begin = stream::once(async move { ImageEvent::Pulling { image } });
        Ok(begin
            .chain(stream::unfold(Some((shown, result)), next_event))
            .boxed())
    }

    /// Imports every image of an OCI or docker archive.
    ///
    /// # Errors
    /// `Forbidden`, `InsufficientStorage`; an archive that is none or is damaged.
    pub async fn import_images(
        &self,
        actor: &Actor,
        archive: PathBuf,
        name: Option<ImageRef>,
    ) -> Result<Vec<Image>> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "import images")?;
        inner.refuse_when_closing()?;
        disk::require_free_space(&inner.config)?;
        let work = Arc::clone(inner);
        inner
            .detached(async move {
                let images = Arc::clone(&work.runtime.images);
                let inner = Arc::clone(&work);
                work.with_lease(|lease| async move {
                    let cancel = CancellationToken::new();
                    let import = async {
                        let imported = images.import(&lease, &archive, name.as_ref(), &cancel);
                        Ok(imported.await?)
                    };
                    disk::with_free_space(&inner.config, import).await
                })
                .await
            })
            .await
    }

    /// Removes an image's name. Workspaces that were made from it go on.
    ///
    /// # Errors
    /// `Forbidden`, `ImageNotFound`.
    pub async fn delete_image(&self, actor: &Actor, image: &ImageRef) -> Result<()> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "delete images")?;
        inner.refuse_when_closing()?;
        match inner.runtime.images.delete(image).await {
            Err(error) if error.is_not_found() => Err(Error::ImageNotFound(image.clone())),
            deleted => Ok(deleted?),
        }
    }
}

impl Inner {
    /// Does something under a lease of its own, which ends with it.
    async fn with_lease<T, F>(self: Arc<Self>, work: impl FnOnce(LeaseId) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let operation = OperationId::generate();
        let lease = LeaseId::for_operation(operation);
        self.runtime.leases.create(&lease).await?;
        let done = work(lease).await;
        self.drop_lease(operation);
        done
    }
}

type Pull = (
    watch::Receiver<PullProgress>,
    oneshot::Receiver<Result<Image>>,
);

async fn next_event(pull: Option<Pull>) -> Option<(ImageEvent, Option<Pull>)> {
    let (mut shown, mut result) = pull?;
    let progress = |shown: &mut watch::Receiver<PullProgress>| {
        let layers = shown.borrow_and_update().layers.clone();
        ImageEvent::PullProgress { layers }
    };
    tokio::select! {
        biased;
        Ok(()) = shown.changed() => {
            let event = progress(&mut shown);
            Some((event, Some((shown, result))))
        }
        done = &mut result => {
            let event = match done {
                Ok(Ok(image)) => ImageEvent::Complete(Box::new(image)),
                Ok(Err(error)) => ImageEvent::Failed(error),
                Err(_) => ImageEvent::Failed(Error::ShuttingDown),
            };
            Some((event, None))
        }
    }
}
