//! /images: local images, for admins.

use crate::auth::Caller;
use crate::context::RequestId;
use crate::extract::{Body, PageQuery, QueryOf, content_length};
use crate::problem::Problem;
use crate::shapes::List;
use crate::sse::{self, Step};
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use botstead_types::{ImageRef, PageRequest};
use botstead_workspace::Image;
use botstead_workspace::ImageEvent;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

mod spool;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_images)
        .service(pull_image)
        .service(import_images)
        .service(delete_image);
}

/// An image that is local.
#[derive(Serialize, ToSchema)]
#[schema(as = Image)]
struct ImageShape {
    /// Its reference.
    #[serde(rename = "ref")]
    #[schema(example = "docker.io/library/debian:12")]
    reference: String,
    /// The digest of its manifest or index.
    digest: String,
    /// The size of its compressed layers, in bytes.
    size_bytes: u64,
    /// Its architecture, in Go's words.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false, example = "amd64")]
    architecture: String,
    /// When it was pulled or imported.
    created_at: DateTime<Utc>,
}

impl From<Image> for ImageShape {
    fn from(image: Image) -> Self {
        Self {
            reference: image.resolved.reference.into(),
            digest: image.resolved.digest,
            size_bytes: image.size_bytes,
            architecture: image.resolved.config.architecture,
            created_at: image.created_at,
        }
    }
}

/// List local images, by name.
///
/// Without `limit` a hundred.
#[utoipa::path(
    tag = "images",
    params(PageQuery),
    responses(
        (status = 200, body = List<ImageShape>),
        (status = 403, description = "The caller is not an admin."),
    ),
)]
#[get("/images")]
async fn list_images(
    caller: Caller,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let page = PageRequest::try_from(query.0)?;
    let workspaces = &state.services.workspaces;
    let images = workspaces.images(&caller.actor, &page).await?;
    Ok(HttpResponse::Ok().json(List::from(images.map(ImageShape::from))))
}

/// An image to be pulled.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PullImage {
    /// Its reference, as in `docker pull`.
    #[serde(rename = "ref")]
    #[schema(example = "debian:12")]
    reference: String,
}

/// An event of a pull, besides `pull_progress` and `error`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum PullEvent {
    Pulling { image: String },
    Complete { image: ImageShape },
}

fn pull_step(event: ImageEvent) -> Step<PullEvent> {
    match event {
        ImageEvent::Pulling { image } => Step::Event(PullEvent::Pulling {
            image: image.into(),
        }),
        ImageEvent::PullProgress { layers } => Step::Progress(layers),
        ImageEvent::Complete(image) => Step::Last(PullEvent::Complete {
            image: (*image).into(),
        }),
        ImageEvent::Failed(error) => Step::Failed(error.into()),
    }
}

/// Pull an image from its registry.
///
/// The reply is a stream of events, one JSON object per `data:` line:
/// `{"type":"pulling","image"}`, `{"type":"pull_progress","layers"}` repeatedly, then exactly one
/// of `{"type":"complete","image"}` and `{"type":"error","message","code","request_id"}`.
#[utoipa::path(
    tag = "images",
    request_body = PullImage,
    responses(
        (status = 200, description = "The events.", content_type = "text/event-stream", body = String),
        (status = 400, description = "The reference is not valid."),
        (status = 403, description = "The caller is not an admin."),
    ),
)]
#[post("/images")]
async fn pull_image(
    caller: Caller,
    request_id: RequestId,
    body: Body<PullImage>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let reference: ImageRef = body.0.reference.parse()?;
    let workspaces = &state.services.workspaces;
    let events = workspaces.pull_image(&caller.actor, reference).await?;
    let steps = events.map(pull_step).boxed();
    Ok(sse::reply(&state, &caller, request_id, steps))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// The reference for an image that has none in the archive.
    name: Option<String>,
}

/// Import every image of an OCI or docker archive, a tar file as it is or compressed with gzip,
/// zstd, xz or bzip2.
#[utoipa::path(
    tag = "images",
    params(ImportQuery),
    request_body(content = String, content_type = "application/octet-stream", description = "The archive."),
    responses(
        (status = 201, body = List<ImageShape>, description = "The images that it held."),
        (status = 403, description = "The caller is not an admin."),
        (status = 413, description = "`archive_too_large`, or `image_too_large` for one that is larger than this server takes."),
        (status = 422, description = "The archive holds no usable image."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/images/import")]
async fn import_images(
    caller: Caller,
    query: QueryOf<ImportQuery>,
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let name = query.0.name.filter(|name| !name.is_empty());
    let name: Option<ImageRef> = name.map(|name| name.parse()).transpose()?;
    let workspaces = &state.services.workspaces;
    // Whoever may not import is refused before gigabytes are received, and so is what has no room.
    workspaces.before_image_import(&caller.actor, content_length(&request).unwrap_or(0))?;
    let archive = spool::receive(&request, payload, &state.config, workspaces).await?;
    let images = spool::import(workspaces.clone(), caller.actor, archive, name).await?;
    let images = images.into_iter().map(ImageShape::from);
    Ok(HttpResponse::Created().json(List::fitting(images, false, &state.config)))
}

/// Remove an image. Workspaces that were made from it go on.
#[utoipa::path(
    tag = "images",
    params(("ref" = String, Path, description = "The image's reference; its slashes need no escaping.")),
    responses(
        (status = 204, description = "The image is gone."),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`image_not_found`."),
    ),
)]
#[delete("/images/{ref:.+}")]
async fn delete_image(
    caller: Caller,
    path: web::Path<String>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let reference: ImageRef = path.parse()?;
    let workspaces = &state.services.workspaces;
    workspaces.delete_image(&caller.actor, &reference).await?;
    Ok(HttpResponse::NoContent().finish())
}
