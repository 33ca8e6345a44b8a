//! Uploads: multipart, streamed into the workspace as they come.

use super::by;
use super::octal::Octal;
use crate::auth::Caller;
use crate::extract::{IdOf, content_length};
use crate::form::{self, Broken, Form};
use crate::problem::Problem;
use crate::spool::{LOOK_BYTES, Spooled};
use crate::state::SharedState;
use actix_multipart::{Field, Multipart};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, post, web};
use botstead_types::{BotId, FilePath, escaped};
use botstead_workspace::{FileActor, WriteFile};
use bytes::Bytes;
use serde::Serialize;
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
    /// Permission bits of a new file as octal text; `0644` when absent. Those of an existing file stay. It comes
    /// before `file`, or `file` before `path`.
    #[schema(value_type = Option<String>, example = "0755")]
    mode: Option<String>,
    /// Written with the rights of this user, such as `user`, `uid` or `uid:gid`, to whom a new file belongs; absent
    /// is root, for whom it belongs to the workspace's user. It comes before `file`, or `file` before `path`.
    user: Option<String>,
    /// The file, one.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

const FIELDS: &[&str] = &["path", "mode", "user", "file"];

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
enum Failed {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the disk is too full")]
    Space(#[source] botstead_workspace::Error),
    #[error("{0}")]
    Form(Problem),
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
        (status = 400, description = "`invalid_body`: `path` or `file` is missing or there twice, or there is another field; nothing was written."),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 413, description = "`file_too_large`."),
        (status = 422, description = "`no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/upload")]
pub(super) async fn upload(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let idle = state.config.body_timeout;
    let limit = state.config.max_upload_bytes;
    let workspaces = &state.services.workspaces;
    // Whoever may not write is refused before gigabytes are received, and so is what has no room.
    let announced = content_length(&request).unwrap_or(0);
    workspaces
        .before_upload(&caller.actor, id.0, announced)
        .await?;
    // Not before: what is no form is told only to those who may send one.
    let mut form = Form::new(Multipart::new(request.headers(), payload), idle);
    let mut path = None;
    let mut mode = None;
    let mut user: Option<String> = None;
    let mut early: Option<Spooled> = None;
    while let Some(mut field) = form.next().await? {
        match field.name().unwrap_or_default() {
            "path" if path.is_none() => {
                let text = form::text(&mut field, idle, MAX_TEXT).await?;
                path = Some(FilePath::new(text)?);
            }
            "mode" if mode.is_none() => {
                let text = form::text(&mut field, idle, MAX_TEXT).await?;
                mode = Some(Octal::parse(&String::from_utf8_lossy(&text))?.0);
            }
            "user" if user.is_none() => {
                let text = form::text(&mut field, idle, MAX_TEXT).await?;
                let text = String::from_utf8(text);
                user = Some(
                    text.map_err(|_| Problem::invalid("invalid_body", "user: must be UTF-8"))?,
                );
            }
            "file" if early.is_none() => {
                if let Some(path) = &path {
                    let file = File { path, mode };
                    let by = by(&caller, user.as_deref());
                    return stream(by, id.0, file, (&mut form, field), &state).await;
                }
                let chunks = async || form::chunk(&mut field, idle).await;
                let spooled = Spooled::receive(&state.config, workspaces, limit, chunks).await;
                early = Some(
                    spooled.map_err(|error| error.into_problem("file_too_large", "the file"))?,
                );
            }
            _ => return Err(form::unexpected(&field, FIELDS)),
        }
    }
    let missing =
        |field: &str| Problem::invalid("invalid_body", format!("the form has no field `{field}`"));
    let path = path.ok_or_else(|| missing("path"))?;
    let early = early.ok_or_else(|| missing("file"))?;
    let content = early.into_stream().await.map_err(crate::spool::failed)?;
    let written = workspaces
        .write_file(
            by(&caller, user.as_deref()),
            id.0,
            &path,
            how(mode),
            content,
        )
        .await?;
    Ok(reply(written.0))
}

/// What the fields before a file say of it.
struct File<'a> {
    path: &'a FilePath,
    mode: Option<u32>,
}

fn how(mode: Option<u32>) -> WriteFile {
    WriteFile {
        mode,
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
    by: FileActor<'_>,
    bot: BotId,
    file: File<'_>,
    (form, mut field): (&mut Form, Field),
    state: &SharedState,
) -> Result<HttpResponse, Problem> {
    let (idle, limit) = (state.config.body_timeout, state.config.max_upload_bytes);
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Failed>>(QUEUE);
    let workspaces = &state.services.workspaces;
    // The form's field belongs to this thread; what reads the channel may be anywhere.
    let written = workspaces.write_file(
        by,
        bot,
        file.path,
        how(file.mode),
        ReceiverStream::new(receiver),
    );
    let feed = async move {
        let (mut received, mut looked) = (0u64, 0u64);
        loop {
            let next = match form::chunk(&mut field, idle).await {
                Ok(Some(data)) => {
                    received += data.len() as u64;
                    let look = received - looked >= LOOK_BYTES;
                    let room = match look {
                        true => workspaces.require_space(LOOK_BYTES),
                        false => Ok(()),
                    };
                    if look {
                        looked = received;
                    }
                    match room {
                        _ if received > limit => Err(Failed::TooLarge(limit)),
                        Err(error) => Err(Failed::Space(error)),
                        Ok(()) => Ok(data),
                    }
                }
                Ok(None) => {
                    // Before the file appears, so that a second one is not lost unseen.
                    drop(field);
                    let Err(problem) = form.end(FIELDS).await else {
                        return None;
                    };
                    let _ = sender.send(Err(Failed::Form(problem.clone()))).await;
                    return Some(problem);
                }
                Err(broken) => Err(Failed::Broken(broken)),
            };
            let refused = next.as_ref().err().map(problem);
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

fn problem(failed: &Failed) -> Problem {
    match failed {
        Failed::Broken(Broken::Body(error)) => {
            Problem::invalid("invalid_body", "the body could not be read").caused_by(error)
        }
        Failed::Broken(Broken::Idle) => Problem::from_status(StatusCode::REQUEST_TIMEOUT),
        Failed::TooLarge(limit) => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "file_too_large",
            format!("the file is larger than {limit} bytes"),
        ),
        Failed::Form(problem) => problem.clone(),
        Failed::Space(error) => Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage",
            error.to_string(),
        ),
    }
}
