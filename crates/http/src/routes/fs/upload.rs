//! Uploads: multipart, streamed into the workspace as they come.

use crate::auth::Caller;
use crate::extract::IdOf;
use crate::problem::Problem;
use crate::spool::{Spooled, TooLarge};
use crate::state::SharedState;
use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, post, web};
use botstead_types::{BotId, FilePath, escaped};
use botstead_workspace::WriteFile;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

/// Longer text fields than a path are refused.
const MAX_TEXT: usize = 8 << 10;
/// Chunks under way between the connection and the workspace.
const QUEUE: usize = 8;

/// A file to be uploaded, as multipart/form-data.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form for the document only")]
pub(super) struct UploadForm {
    /// Where the file shall be, absolute.
    path: String,
    /// The file.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// The file that was uploaded.
#[derive(Serialize, ToSchema)]
pub(super) struct Uploaded {
    /// Its path, resolved.
    path: String,
    /// Its size in bytes.
    size: u64,
    /// Its revision.
    revision: String,
}

/// Why an upload did not become a file.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the body could not be read")]
    Body(#[source] std::io::Error),
    #[error("the body stood still for too long")]
    Idle,
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
}

/// Upload a file of any size.
///
/// `path` and `file` may come in either order; with `path` first, nothing is stored on the way. The
/// file appears as a whole and atomically, with missing directories made; an upload that breaks off
/// changes nothing.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Uploaded),
        (status = 400, description = "`invalid_body`: `path` or `file` is missing."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 413, description = "`file_too_large`."),
        (status = 503, description = "`workspace_unreachable`."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/upload")]
pub(super) async fn upload(
    caller: Caller,
    id: IdOf<BotId>,
    mut form: Multipart,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let idle = state.config.body_timeout;
    let limit = state.config.max_upload_bytes;
    let mut path = None;
    let mut early: Option<Spooled> = None;
    while let Some(mut field) = next_field(&mut form, idle).await? {
        match field.name().unwrap_or_default() {
            "path" => {
                path = Some(FilePath::new(text(&mut field, idle).await?)?);
                if early.is_some() {
                    break;
                }
            }
            "file" if early.is_none() => {
                if let Some(path) = &path {
                    return stream(&caller, id.0, path, &mut field, &state).await;
                }
                let spooled =
                    Spooled::receive(&state.config, limit, async || chunk(&mut field, idle).await);
                early = Some(spooled.await.map_err(|error| match error {
                    crate::spool::Error::Source(broken) => problem(&broken, limit),
                    crate::spool::Error::Io(error) => crate::spool::failed(error),
                })?);
                if path.is_some() {
                    break;
                }
            }
            // Unknown fields are of newer clients; their bytes are passed over.
            _ => {
                while chunk(&mut field, idle)
                    .await
                    .map_err(|e| problem(&e, limit))?
                    .is_some()
                {}
            }
        }
    }
    let missing =
        |field: &str| Problem::invalid("invalid_body", format!("the form has no field `{field}`"));
    let path = path.ok_or_else(|| missing("path"))?;
    let early = early.ok_or_else(|| missing("file"))?;
    let content = early.into_stream().await.map_err(crate::spool::failed)?;
    let written = state
        .services
        .workspaces
        .write_file(&caller.actor, id.0, &path, how(), content)
        .await?;
    Ok(reply(written.0))
}

fn how() -> WriteFile {
    WriteFile {
        parents: true,
        ..WriteFile::default()
    }
}

fn reply(entry: botstead_workspace::FileEntry) -> HttpResponse {
    HttpResponse::Ok().json(Uploaded {
        path: escaped(&entry.path),
        size: entry.size,
        revision: entry.revision,
    })
}

/// Passes the file on while it arrives.
async fn stream(
    caller: &Caller,
    bot: BotId,
    path: &FilePath,
    field: &mut Field,
    state: &SharedState,
) -> Result<HttpResponse, Problem> {
    let (idle, limit) = (state.config.body_timeout, state.config.max_upload_bytes);
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Broken>>(QUEUE);
    let workspaces = &state.services.workspaces;
    // The form's field belongs to this thread; what reads the channel may be anywhere.
    let written = workspaces.write_file(
        &caller.actor,
        bot,
        path,
        how(),
        ReceiverStream::new(receiver),
    );
    let feed = async move {
        let mut received = 0u64;
        loop {
            let next = match chunk(field, idle).await {
                Ok(Some(data)) => {
                    received += data.len() as u64;
                    match received > limit {
                        true => Err(Broken::TooLarge(limit)),
                        false => Ok(data),
                    }
                }
                Ok(None) => return None,
                Err(broken) => Err(broken),
            };
            let refused = next.as_ref().err().map(|broken| problem(broken, limit));
            // Nobody takes it any more when the workspace refused; its answer says why.
            let taken = sender.send(next).await.is_ok();
            if refused.is_some() || !taken {
                return refused;
            }
        }
    };
    let (refused, written) = futures_util::join!(feed, written);
    match refused {
        Some(problem) => Err(problem),
        None => Ok(reply(written?.0)),
    }
}

impl From<TooLarge> for Broken {
    fn from(TooLarge(limit): TooLarge) -> Self {
        Self::TooLarge(limit)
    }
}

async fn next_field(form: &mut Multipart, idle: Duration) -> Result<Option<Field>, Problem> {
    let next = tokio::time::timeout(idle, form.next()).await;
    let next = next.map_err(|_| Problem::from_status(StatusCode::REQUEST_TIMEOUT))?;
    next.transpose().map_err(|error: MultipartError| {
        Problem::invalid(
            "invalid_body",
            format!("this is no multipart form: {error}"),
        )
    })
}

async fn chunk(field: &mut Field, idle: Duration) -> Result<Option<Bytes>, Broken> {
    match tokio::time::timeout(idle, field.next()).await {
        Err(_) => Err(Broken::Idle),
        Ok(next) => next
            .transpose()
            .map_err(|error| Broken::Body(std::io::Error::other(error.to_string()))),
    }
}

async fn text(field: &mut Field, idle: Duration) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    while let Some(data) = chunk(field, idle).await.map_err(|e| problem(&e, 0))? {
        if text.len() + data.len() > MAX_TEXT {
            return Err(Problem::invalid(
                "invalid_body",
                "the field `path` is too long",
            ));
        }
        text.extend_from_slice(&data);
    }
    Ok(text)
}

fn problem(broken: &Broken, limit: u64) -> Problem {
    match broken {
        Broken::Body(error) => {
            Problem::invalid("invalid_body", "the body could not be read").caused_by(error)
        }
        Broken::Idle => Problem::from_status(StatusCode::REQUEST_TIMEOUT),
        Broken::TooLarge(_) => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "file_too_large",
            format!("the file is larger than {limit} bytes"),
        ),
    }
}
