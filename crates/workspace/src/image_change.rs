//! Another image for a workspace that exists, with its `/data`.

use crate::create::{Creation, Phase, Wishes, events};
use crate::model::{CreateEvent, CreateRequest, CreatedWorkspace, PullPolicy};
use crate::replace::{Base, Edit, Replacement};
use crate::service::{Inner, Workspaces};
use crate::users::number;
use crate::{Result, disk};
use botstead_authz::{Action, Actor};
use botstead_store::OperationKind;
use botstead_types::{BotId, ImageRef, LeaseId, VersionSource};
use futures_util::stream::BoxStream;
use std::sync::Arc;

/// Another image for a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageChange {
    /// The image.
    pub image: ImageRef,
    /// When to ask its registry.
    pub pull: PullPolicy,
}

impl From<ImageRef> for ImageChange {
    fn from(image: ImageRef) -> Self {
        Self {
            image,
            pull: PullPolicy::default(),
        }
    }
}

impl Workspaces {
    /// Gives the workspace another image and keeps its `/data`; everything else that was changed in
    /// it is left behind in a version with source `image`. Reports how far it is as a creation does; a
    /// listener who leaves does not end it. A workspace that runs is stopped when the image is there,
    /// and runs again afterwards.
    ///
    /// # Errors
    /// Before the first event: `BotNotFound`, `WorkspaceNotFound`, an image that is not allowed,
    /// `CreationUnderWay`, `InsufficientStorage`. Everything else is the stream's last event.
    pub async fn change_image(
        &self,
        actor: &Actor,
        bot: BotId,
        change: impl Into<ImageChange>,
    ) -> Result<BoxStream<'static, CreateEvent>> {
        let inner = &self.inner;
        let ImageChange { image, pull } = change.into();
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        inner.config.bounds.check_image(&image)?;
        let record = inner.required_record(bot).await?;
        disk::require_free_space(&inner.config)?;
        let request = CreateRequest {
            image: Some(image.clone()),
            pull,
            ..CreateRequest::default()
        };
        let wishes = Wishes {
            image,
            devices: record.devices,
            limits: record.limits,
            pull_always: pull == PullPolicy::Always,
            restore: false,
            returned: None,
        };
        let kind = OperationKind::ChangeImage;
        let creation = inner.join_or_begin(
            bot,
            kind,
            request,
            wishes.clone(),
            |inner, creation| async move { inner.change_image_steps(&creation, wishes).await },
        )?;
        Ok(events(creation))
    }
}

impl Inner {
    async fn change_image_steps(
        self: &Arc<Self>,
        creation: &Creation,
        wishes: Wishes,
    ) -> Result<CreatedWorkspace> {
        let live = creation.live();
        let (id, bot) = (live.record.id, live.record.bot);
        // The pull holds nobody up; its lease goes with an operation that nobody knows.
        let lease = LeaseId::for_operation(id);
        self.runtime.leases.create(&lease).await?;
        let image = async {
            let local = self.good_enough(&wishes).await?;
            let image = self.wished_image(&lease, &wishes, local, live).await?;
            let recorded = self.recorded(&image.resolved).await?;
            // Numbers need no files.
            if number(&image.resolved.config.user).is_none() {
                let files = self.unpacked_image(&lease, &recorded.reference).await?;
                self.check_user(&lease, &image.resolved, &files).await?;
            }
            Ok((recorded, image.resolved.config.user))
        };
        let (image, user) = match image.await {
            Ok(image) => image,
            Err(error) => {
                self.drop_lease(id);
                return Err(error);
            }
        };
        creation.phase.send_replace(Phase::Creating);
        let held = async {
            let guard = self.lock(bot, id, "change_image").await?;
            let record = self.present_record(bot).await?;
            let user = self.resolved(&record.image).await?.config.user;
            Ok((guard, record, user))
        };
        let (_guard, record, before) = match held.await {
            Ok(held) => held,
            Err(error) => {
                self.drop_lease(id);
                return Err(error);
            }
        };
        let base = Base::Image(Box::new(image));
        let what = Replacement::of(&record, VersionSource::Image, base, true);
        let work = self
            .begin_replacement(id, bot, OperationKind::ChangeImage, &what)
            .await?;
        let edit = Edit::Data {
            from: before,
            to: user,
        };
        self.replace_or_undo(&work, Some(&record), &what, edit)
            .await?;
        Ok(self.found(&self.required_record(bot).await?).await)
    }
}
