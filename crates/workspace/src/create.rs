//! Creation: one per bot at a time, joined by everyone who asks for the same, detached from all of
//! them.
//!
//! Everything that [`Workspaces::create`] can refuse it refuses before the first event. The steps
//! themselves are in `create/steps.rs`.

mod steps;
mod stream;

pub(crate) use stream::events;

use crate::model::{CreateEvent, CreateRequest, CreatedWorkspace, PullPolicy};
use crate::operations::{LiveOperation, new_operation};
use crate::preferences::preferences;
use crate::service::{Inner, Workspaces};
use crate::{Error, Result, disk};
use botstead_authz::{Action, Actor};
use botstead_store::{Bot, ContainerRecord, OperationKind, OperationState};
use botstead_types::{
    BotId, Bounds, CdiDevice, ImageRef, Limits, OperationId, PreservedId, SnapshotKey,
};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::sync::watch;

const OTHER_IMAGE: &str = "another image; change its image, or delete the workspace first";
const OTHER_DEVICES: &str =
    "other devices, which are set when it is created; delete the workspace and keep its data first";
const OTHER_LIMITS: &str =
    "other limits, which are set when it is created; delete the workspace and keep its data first";

/// A creation, or a change of image, under way.
pub(crate) struct Creation {
    request: CreateRequest,
    /// Whether the workspace exists and gets another image.
    change: bool,
    image: ImageRef,
    live: Arc<LiveOperation>,
    pub(crate) phase: watch::Sender<Phase>,
}

impl Creation {
    pub(crate) fn live(&self) -> &Arc<LiveOperation> {
        &self.live
    }
}

/// How far a creation is.
#[derive(Clone)]
pub(crate) enum Phase {
    Pulling,
    Creating,
    Restoring,
    Done(Arc<Result<CreatedWorkspace>>),
}

/// What a creation makes: the request, with preferences and defaults where it is silent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wishes {
    pub(crate) image: ImageRef,
    pub(crate) devices: Vec<CdiDevice>,
    pub(crate) limits: Limits,
    pub(crate) pull_always: bool,
    /// Whether preserved data is brought back where there is any.
    #[serde(default)]
    pub(crate) restore: bool,
    /// What was brought back, once that is recorded.
    #[serde(default)]
    pub(crate) returned: Option<Returned>,
}

/// Where earlier data came from; removed once it is in a workspace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Returned {
    /// A writable snapshot whose container was gone.
    Orphan(SnapshotKey),
    /// The preserved archive of an earlier server, which had one per bot.
    Preserved,
    /// A preserved archive.
    Archive(PreservedId),
}

impl Returned {
    pub(crate) fn is_orphan(&self) -> bool {
        matches!(self, Self::Orphan(_))
    }
}

impl Wishes {
    /// Refuses what this server does not allow.
    fn check(&self, bounds: &Bounds) -> Result<()> {
        bounds.check_image(&self.image)?;
        bounds.check_devices(&self.devices)?;
        bounds.check_limits(&self.limits)?;
        Ok(())
    }
}

impl Workspaces {
    /// Creates the bot's workspace and starts it, reporting how far it is. Nobody needs to listen:
    /// the creation goes on when the stream is dropped. Where the workspace exists and the request
    /// fits it, it is started; where the same request is under way, this joins it.
    ///
    /// # Errors
    /// Before the first event: `BotNotFound`, `ContainerExists`, `CreationUnderWay`,
    /// `PreferenceUnreadable`, `OutOfBounds`, `InsufficientStorage`, an unknown snapshotter, limits under which
    /// nothing starts. Everything else is the stream's last event.
    pub async fn create(
        &self,
        actor: &Actor,
        bot: BotId,
        request: CreateRequest,
    ) -> Result<BoxStream<'static, CreateEvent>> {
        let creation = self.begin_creation(actor, bot, request).await?;
        Ok(events(creation))
    }

    pub(crate) async fn create_and_wait(
        &self,
        actor: &Actor,
        bot: BotId,
        request: CreateRequest,
    ) -> Result<()> {
        let mut events = self.create(actor, bot, request).await?;
        while let Some(event) = events.next().await {
            match event {
                CreateEvent::Complete(_) => return Ok(()),
                CreateEvent::Failed(error) => return Err(error),
                _ => {}
            }
        }
        Err(Error::ShuttingDown)
    }

    async fn begin_creation(
        &self,
        actor: &Actor,
        bot: BotId,
        request: CreateRequest,
    ) -> Result<Arc<Creation>> {
        let inner = &self.inner;
        let bot = inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        inner.refuse_unknown_snapshotter(request.snapshotter.as_deref())?;
        if let Some(limits) = &request.limits {
            limits.check()?;
        }
        let record = inner.record(bot.id).await?;
        let wishes = inner.wishes(&bot, record.as_ref(), &request)?;
        match &record {
            Some(record) => inner.refuse_other(record, &request)?,
            None => {
                disk::require_free_space(&inner.config)?;
                // Before the first event, and before an image is pulled for nothing.
                if !wishes.devices.is_empty() {
                    inner
                        .runtime
                        .containers
                        .check_devices(&wishes.devices)
                        .await?;
                }
            }
        }
        let kind = OperationKind::Create;
        inner.join_or_begin(
            bot.id,
            kind,
            request,
            wishes.clone(),
            |inner, creation| async move { inner.create_or_start(&creation, wishes).await },
        )
    }
}

impl Inner {
    pub(crate) fn refuse_unknown_snapshotter(&self, asked: Option<&str>) -> Result<()> {
        let own = &self.runtime.backend.capabilities().snapshotter;
        match asked {
            Some(asked) if asked != own => Err(Error::InvalidRequest {
                code: "unknown_snapshotter",
                message: format!(
                    "snapshotter {asked:?} is not served here; this server uses {own:?}"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// What a creation makes, within the server's bounds. A workspace that exists has its image, devices
    /// and limits already, and goes on with them.
    fn wishes(
        &self,
        bot: &Bot,
        record: Option<&ContainerRecord>,
        request: &CreateRequest,
    ) -> Result<Wishes> {
        let preferences = preferences(bot)?;
        let image = request
            .image
            .clone()
            .or_else(|| record.map(|record| record.image.reference.clone()))
            .or(preferences.image)
            .unwrap_or_else(|| self.config.default_image.clone());
        let devices = request
            .devices
            .clone()
            .or_else(|| record.map(|record| record.devices.clone()))
            .unwrap_or(preferences.devices);
        let limits = request.limits.unwrap_or_default().or(preferences.limits);
        limits.check()?;
        let wishes = Wishes {
            image,
            devices,
            limits,
            pull_always: request.pull == PullPolicy::Always,
            restore: request.restore_data.unwrap_or(true),
            returned: None,
        };
        if record.is_none() {
            wishes.check(&self.config.bounds)?;
        }
        Ok(wishes)
    }

    fn creations(&self) -> MutexGuard<'_, std::collections::HashMap<BotId, Arc<Creation>>> {
        self.creations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins what is under way when it is the same, or begins `work`.
    pub(crate) fn join_or_begin<W>(
        self: &Arc<Self>,
        bot: BotId,
        kind: OperationKind,
        request: CreateRequest,
        wishes: Wishes,
        work: impl FnOnce(Arc<Self>, Arc<Creation>) -> W + Send + 'static,
    ) -> Result<Arc<Creation>>
    where
        W: Future<Output = Result<CreatedWorkspace>> + Send + 'static,
    {
        let change = kind == OperationKind::ChangeImage;
        let mut creations = self.creations();
        if let Some(running) = creations.get(&bot) {
            return if running.request == request && running.change == change {
                Ok(Arc::clone(running))
            } else {
                Err(Error::CreationUnderWay(running.live.record.id))
            };
        }
        let id = OperationId::generate();
        let live = self.register(new_operation(id, bot, kind, &wishes)?);
        let creation = Arc::new(Creation {
            request,
            change,
            image: wishes.image.clone(),
            live,
            phase: watch::Sender::new(Phase::Pulling),
        });
        creations.insert(bot, Arc::clone(&creation));
        drop(creations);
        let (inner, ended) = (Arc::clone(self), Arc::clone(&creation));
        let work = work(Arc::clone(self), Arc::clone(&creation));
        self.spawn(async move {
            // In a task of its own, so that a panic still ends the creation for those who wait.
            let done = inner.detached(work).await;
            let outcome = match &done {
                Ok(_) => OperationState::Succeeded,
                Err(Error::Cancelled) => OperationState::Cancelled,
                Err(error) => {
                    tracing::warn!(%bot, operation = %id, error = %error.chain(), "creation failed");
                    OperationState::Failed
                }
            };
            inner.creations().remove(&bot);
            inner.unregister(&ended.live, outcome);
            ended.phase.send_replace(Phase::Done(Arc::new(done)));
        });
        Ok(creation)
    }

    /// Refuses a request that does not fit the workspace that exists.
    fn refuse_other(&self, record: &ContainerRecord, request: &CreateRequest) -> Result<()> {
        let CreateRequest {
            image,
            devices,
            limits,
            ..
        } = request;
        if image
            .as_ref()
            .is_some_and(|image| *image != record.image.reference)
        {
            return Err(Error::ContainerExists(OTHER_IMAGE));
        }
        if devices
            .as_ref()
            .is_some_and(|devices| *devices != record.devices)
        {
            return Err(Error::ContainerExists(OTHER_DEVICES));
        }
        let own = record.limits.or(self.config.default_limits);
        if limits.is_some_and(|limits| limits.or(own) != own) {
            return Err(Error::ContainerExists(OTHER_LIMITS));
        }
        Ok(())
    }
}
