//! /bots/{bot_id}/container: create, look, start, stop, delete.
//!
//! The shapes are fixed, because existing clients speak them.

use crate::auth::Caller;
use crate::context::RequestId;
use crate::extract::{Body, BodyOrDefault, IdOf, QueryOf, flag};
use crate::problem::Problem;
use crate::shapes::LimitsShape;
use crate::sse::{self, Step};
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, post, put, web};
use botstead_types::{BotId, CdiDevice, ImageRef, InvalidValue, Limits, VersionNumber};
use botstead_workspace::{
    AgentInfo, CreateEvent, CreateRequest, CreatedWorkspace, DeleteRequest, ImageChange,
    OutOfMemory, PullPolicy, WorkspaceInfo,
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

mod metrics;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(create)
        .service(get_container)
        .service(metrics::get_metrics)
        .service(start)
        .service(stop)
        .service(delete_container)
        .service(change_image)
        .service(fork);
}

/// Wishes for a new workspace. What is absent comes from the bot's `metadata.workspace`, then from
/// the server's defaults.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateContainer {
    /// The snapshotter; anything but the backend's own is refused.
    snapshotter: Option<String>,
    /// Whether preserved data is brought back: absent or `true` does, `false` keeps it preserved.
    restore_data: Option<bool>,
    /// The image, as in `docker pull`.
    #[schema(example = "debian:12")]
    image: Option<String>,
    /// Devices.
    gpu: Option<Gpu>,
    /// Limits.
    #[schema(value_type = Option<LimitsShape>)]
    limits: Option<Limits>,
    /// When to ask the registry for a new workspace's image.
    pull: Option<Pull>,
}

/// Devices for a workspace.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Gpu {
    /// CDI names such as `nvidia.com/gpu=0`; an empty list means none, whatever the bot prefers.
    devices: Option<Vec<String>>,
}

/// When to ask the registry for an image.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Pull {
    /// Only when it is not local.
    IfNotPresent,
    /// Always: a moved tag is followed.
    Always,
}

fn policy(pull: Option<Pull>) -> PullPolicy {
    match pull {
        None | Some(Pull::IfNotPresent) => PullPolicy::IfNotPresent,
        Some(Pull::Always) => PullPolicy::Always,
    }
}

impl TryFrom<CreateContainer> for CreateRequest {
    type Error = InvalidValue;

    fn try_from(body: CreateContainer) -> Result<Self, InvalidValue> {
        let filled = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let devices = body.gpu.and_then(|gpu| gpu.devices).map(|names| {
            let parsed = names.into_iter().map(CdiDevice::try_from);
            parsed.collect::<Result<Vec<_>, _>>()
        });
        let limits = body.limits.map(|limits| LimitsShape::from(limits).check());
        Ok(Self {
            snapshotter: filled(body.snapshotter),
            restore_data: body.restore_data,
            image: filled(body.image).map(|image| image.parse()).transpose()?,
            devices: devices.transpose()?,
            limits: limits.transpose()?,
            pull: policy(body.pull),
        })
    }
}

/// An event of a creation, besides `pull_progress` and `error`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum CreationEvent {
    Pulling { image: String },
    Creating,
    Restoring,
    Complete { container: CreatedContainer },
}

/// The workspace at the end of a creation.
#[derive(Serialize, ToSchema)]
struct CreatedContainer {
    /// The container's id.
    container_id: String,
    /// Its image.
    image: String,
    /// The digest that the image's name stood for when the workspace was made from it.
    image_digest: String,
    /// Its snapshotter.
    snapshotter: String,
    /// Its devices, by their CDI names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    cdi_devices: Vec<String>,
    /// Whether it runs.
    started: bool,
    /// Whether preserved data was brought back.
    data_restored: bool,
    /// Whether preserved data exists now.
    has_preserved_data: bool,
}

impl From<CreatedWorkspace> for CreatedContainer {
    fn from(created: CreatedWorkspace) -> Self {
        Self {
            container_id: created.container.into(),
            image: created.image.into(),
            image_digest: created.image_digest,
            snapshotter: created.snapshotter,
            cdi_devices: created.devices.into_iter().map(String::from).collect(),
            started: created.started,
            data_restored: created.data_restored,
            has_preserved_data: created.has_preserved_data,
        }
    }
}

fn creation_step(event: CreateEvent) -> Step<CreationEvent> {
    match event {
        CreateEvent::Pulling { image } => Step::Event(CreationEvent::Pulling {
            image: image.into(),
        }),
        CreateEvent::PullProgress { layers } => Step::Progress(layers),
        CreateEvent::Creating => Step::Event(CreationEvent::Creating),
        CreateEvent::Restoring => Step::Event(CreationEvent::Restoring),
        CreateEvent::Complete(created) => Step::Last(CreationEvent::Complete {
            container: created.into(),
        }),
        CreateEvent::Failed(error) => Step::Failed(error.into()),
    }
}

/// Create and start a bot's workspace.
///
/// The reply is a stream of events, one JSON object per `data:` line, in this order:
/// `{"type":"pulling","image"}`; `{"type":"pull_progress","layers":[{"ref","offset","total"}]}`
/// repeatedly; `{"type":"creating"}`; `{"type":"restoring"}` only when preserved data is brought
/// back; then exactly one of `{"type":"complete","container"}` and
/// `{"type":"error","message","code","request_id"}`. Comments come every 15 s.
///
/// On an existing workspace the same image, devices and limits, or none of them, make sure that it
/// runs. It keeps what it was made from, also with `"pull":"always"`: no registry is asked, and
/// `image_digest` of the last event tells which image it has. `PUT /bots/{bot_id}/container/image` with
/// `"pull":"always"` gives it what the name stands for now. A second request with the same body joins a creation under way. The creation goes on when
/// its client leaves.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = CreateContainer,
    responses(
        (status = 200, description = "The events.", content_type = "text/event-stream", body = String),
        (status = 400, description = "A value is not valid, such as the image or another snapshotter than the backend's; `image_not_allowed`, `device_not_allowed` or `limit_too_high` for what this server does not allow."),
        (status = 404, description = "`bot_not_found`."),
        (status = 409, description = "`container_exists` with another image, devices or limits, `creation_under_way` with another body, or `busy`."),
        (status = 422, description = "`preference_unreadable`: the bot's `metadata.workspace` cannot be used."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container")]
async fn create(
    caller: Caller,
    id: IdOf<BotId>,
    request_id: RequestId,
    body: BodyOrDefault<CreateContainer>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let request = CreateRequest::try_from(body.0)?;
    let workspaces = &state.services.workspaces;
    let events = workspaces.create(&caller.actor, id.0, request).await?;
    let steps = events.map(creation_step).boxed();
    Ok(sse::reply(&state, &caller, request_id, steps))
}

/// The agent inside a workspace: what serves files, commands and terminals.
#[derive(Serialize, ToSchema)]
struct Agent {
    /// Its version.
    version: String,
    /// How long it runs, in seconds.
    uptime_seconds: u64,
    /// Commands and terminals that run.
    running: u32,
    /// What to do when it is of another release than the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl From<AgentInfo> for Agent {
    fn from(info: AgentInfo) -> Self {
        Self {
            version: info.version,
            uptime_seconds: info.uptime.as_secs(),
            running: info.running,
            advice: info.advice,
        }
    }
}

/// Processes of a workspace that the kernel killed because it was at its memory limit.
#[derive(Serialize, ToSchema)]
struct OutOfMemoryKills {
    /// How many since its task was started.
    kills: u64,
    /// When the last one was noticed, also before that start.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<DateTime<Utc>>,
}

impl From<OutOfMemory> for OutOfMemoryKills {
    fn from(known: OutOfMemory) -> Self {
        Self {
            kills: known.kills,
            last_at: known.last_at,
        }
    }
}

/// A workspace as it is.
#[derive(Serialize, ToSchema)]
struct Container {
    /// The container's id.
    container_id: String,
    /// Its image.
    image: String,
    /// What the image's name stood for when the workspace was made from it: a moved tag has another one.
    #[schema(example = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    image_digest: String,
    /// `created`, `running`, `stopped`, `error` or `unknown`.
    #[schema(example = "running")]
    status: &'static str,
    /// The runtime's namespace.
    namespace: String,
    /// Where the bot's own files live inside.
    container_path: String,
    /// Its devices, by their CDI names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    cdi_devices: Vec<String>,
    /// Its limits, defaults applied.
    limits: LimitsShape,
    /// Whether its task runs.
    task_running: bool,
    /// Whether it runs, its network is up and its agent answers.
    reachable: bool,
    /// The agent inside, where it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
    /// Whether preserved data exists.
    has_preserved_data: bool,
    /// Always `false`: there are no workspaces of an older layout.
    legacy: bool,
    /// The version that its state came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_version: Option<u32>,
    /// Why the last operation failed, until one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// That the kernel killed processes of it for lack of memory, where that happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_memory: Option<OutOfMemoryKills>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it last changed.
    updated_at: DateTime<Utc>,
}

impl From<WorkspaceInfo> for Container {
    fn from(info: WorkspaceInfo) -> Self {
        Self {
            container_id: info.container.into(),
            image: info.image.into(),
            image_digest: info.image_digest,
            status: info.status.as_str(),
            namespace: info.namespace,
            container_path: info.container_path,
            cdi_devices: info.devices.into_iter().map(String::from).collect(),
            limits: info.limits.into(),
            task_running: info.task_running,
            reachable: info.reachable,
            agent: info.agent.map(Agent::from),
            has_preserved_data: info.has_preserved_data,
            legacy: false,
            head_version: info.head_version.map(|version| version.get()),
            last_error: info.last_error,
            out_of_memory: info.out_of_memory.map(OutOfMemoryKills::from),
            created_at: info.created_at,
            updated_at: info.updated_at,
        }
    }
}

/// A bot's workspace.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = Container),
        (status = 404, description = "`bot_not_found`, or `workspace_not_found` when it has none."),
    ),
)]
#[get("/bots/{bot_id}/container")]
async fn get_container(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let info = state.services.workspaces.get(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(Container::from(info)))
}

/// The reply of a start.
#[derive(Serialize, ToSchema)]
struct Started {
    /// Always `true`.
    started: bool,
}

/// Start a workspace. A missing container is made from what is recorded, or from the defaults.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = Started),
        (status = 404, description = "`bot_not_found`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/start")]
async fn start(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces.start(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(Started { started: true }))
}

/// The reply of a stop.
#[derive(Serialize, ToSchema)]
struct Stopped {
    /// Always `true`.
    stopped: bool,
}

/// Stop a workspace. It stays stopped, also after a restart of the server.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = Stopped),
        (status = 404, description = "`bot_not_found`, or `workspace_not_found` when it has none."),
        (status = 409, description = "`busy`: another operation is under way."),
    ),
)]
#[post("/bots/{bot_id}/container/stop")]
async fn stop(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    workspaces.stop(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(Stopped { stopped: true }))
}

/// Another image.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeImage {
    /// The image, as in `docker pull`.
    #[schema(example = "debian:12")]
    image: String,
    /// When to ask the registry.
    pull: Option<Pull>,
}

/// Give a workspace another image and keep its `/data`.
///
/// Everything else that was changed in it is kept in a version first, to which a rollback leads back.
/// The reply is a stream of events as that of a creation.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = ChangeImage,
    responses(
        (status = 200, description = "The events.", content_type = "text/event-stream", body = String),
        (status = 400, description = "An image that is not valid or not allowed."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`creation_under_way`."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[put("/bots/{bot_id}/container/image")]
async fn change_image(
    caller: Caller,
    id: IdOf<BotId>,
    request_id: RequestId,
    body: Body<ChangeImage>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let mut change = ImageChange::from(body.0.image.parse::<ImageRef>()?);
    change.pull = policy(body.0.pull);
    let workspaces = &state.services.workspaces;
    let events = workspaces.change_image(&caller.actor, id.0, change).await?;
    let steps = events.map(creation_step).boxed();
    Ok(sse::reply(&state, &caller, request_id, steps))
}

/// Where a fork begins.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Fork {
    /// The other bot.
    #[schema(value_type = uuid::Uuid)]
    from_bot: String,
    /// Its version; its present state when absent.
    #[schema(minimum = 1)]
    version: Option<i64>,
}

/// Make a workspace from another bot's, without copying what they share.
///
/// The other goes on untouched, and may be deleted afterwards. The fork has a host name, an address and
/// a machine id of its own, its first version is the state that it began with, and it runs when the
/// other does.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot, which has no workspace yet.")),
    request_body = Fork,
    responses(
        (status = 201, body = Container),
        (status = 404, description = "`bot_not_found` for either bot, `version_not_found`, or `workspace_not_found` when the other has none."),
        (status = 409, description = "`container_exists`, or `busy`."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/fork")]
async fn fork(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<Fork>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let from: BotId = body.0.from_bot.parse()?;
    let version = body.0.version.map(VersionNumber::try_from).transpose()?;
    let workspaces = &state.services.workspaces;
    let info = workspaces.fork(&caller.actor, id.0, from, version).await?;
    Ok(HttpResponse::Created().json(Container::from(info)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Keep `/data` as an archive; nothing is deleted unless that was done.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    preserve_data: bool,
    /// Remove the versions too.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    delete_versions: bool,
}

/// Remove a workspace. Its versions stay unless asked otherwise, and a rollback rebuilds it from
/// one.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot."), DeleteQuery),
    responses(
        (status = 204, description = "There is no workspace any more."),
        (status = 404, description = "`bot_not_found`, or `workspace_not_found` when data was to be kept of none."),
        (status = 409, description = "`busy`: another operation is under way."),
    ),
)]
#[delete("/bots/{bot_id}/container")]
async fn delete_container(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<DeleteQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let request = DeleteRequest {
        preserve_data: query.0.preserve_data,
        delete_versions: query.0.delete_versions,
    };
    let workspaces = &state.services.workspaces;
    workspaces.delete(&caller.actor, id.0, request).await?;
    Ok(HttpResponse::NoContent().finish())
}
