//! Watching what changes.

use super::by;
use crate::auth::Caller;
use crate::context::RequestId;
use crate::extract::{IdOf, QueryOf, flag};
use crate::paths::{QueryPath, to_base64};
use crate::problem::Problem;
use crate::sse::{self, Step};
use crate::state::SharedState;
use actix_web::{HttpResponse, get, web};
use botstead_types::{BotId, escaped};
use botstead_workspace::{FileChange, WatchEvent};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchQuery {
    /// Watch directories beneath it as well.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    recursive: bool,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

/// An event of a watch.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Ready { directories: u64, truncated: bool },
    Created(Entry),
    Modified(Entry),
    Removed(Entry),
    MovedFrom(Entry),
    MovedTo(Entry),
    Renamed(Entry),
    Attributes(Entry),
    Overflow,
}

#[derive(Serialize)]
struct Entry {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_base64: Option<String>,
    is_dir: bool,
}

impl From<WatchEvent> for Event {
    fn from(event: WatchEvent) -> Self {
        let coded = |path: &Vec<u8>| std::str::from_utf8(path).is_err().then(|| to_base64(path));
        match event {
            WatchEvent::Ready {
                directories,
                truncated,
            } => Self::Ready {
                directories,
                truncated,
            },
            WatchEvent::Overflow => Self::Overflow,
            WatchEvent::Changed {
                change,
                path,
                to,
                is_directory,
            } => {
                let entry = Entry {
                    path_base64: coded(&path),
                    path: escaped(&path),
                    to_base64: to.as_ref().and_then(coded),
                    to: to.as_deref().map(escaped),
                    is_dir: is_directory,
                };
                match change {
                    FileChange::Created => Self::Created(entry),
                    FileChange::Modified => Self::Modified(entry),
                    FileChange::Removed => Self::Removed(entry),
                    FileChange::MovedFrom => Self::MovedFrom(entry),
                    FileChange::MovedTo => Self::MovedTo(entry),
                    FileChange::Renamed => Self::Renamed(entry),
                    FileChange::Attributes => Self::Attributes(entry),
                }
            }
        }
    }
}

/// Follow what changes at or beneath a path: a directory's content, or a single file, also one that is replaced
/// or removed and made again.
///
/// The reply is a stream of events, one JSON object per `data:` line. `{"type":"ready","directories",
/// "truncated"}` comes first: what happens from then on is reported. Then `created`, `modified`,
/// `removed`, `moved_from`, `moved_to`, `renamed` and `attributes`, each with `path`, `is_dir` and,
/// for `renamed`, `to`; and `overflow` when events were lost, after which the client looks again.
/// The stream ends with `{"type":"error",..}` when the workspace stops.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "What to watch: an absolute path, percent-encoded bytes."),
        WatchQuery
    ),
    responses(
        (status = 200, description = "The events.", content_type = "text/event-stream", body = String),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`no_such_user`."),
        (status = 429, description = "`workspace_limit`: the workspace has 64 watches, or the host no more."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs/watch")]
pub(super) async fn watch(
    caller: Caller,
    id: IdOf<BotId>,
    request_id: RequestId,
    path: QueryPath,
    query: QueryOf<WatchQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let by = by(&caller, query.0.user.as_deref());
    let events = workspaces
        .watch_files(by, id.0, &path.0, query.0.recursive)
        .await?;
    let steps = events
        .map(|event| match event {
            Ok(event) => Step::Event(Event::from(event)),
            Err(error) => Step::Failed(error.into()),
        })
        .chain(futures_util::stream::once(async {
            Step::Failed(Problem::new(
                actix_web::http::StatusCode::SERVICE_UNAVAILABLE,
                "watch_ended",
                "what was watched is gone, or the workspace stopped",
            ))
        }));
    Ok(sse::reply_until_shutdown(
        &state,
        &caller,
        request_id,
        steps.boxed(),
    ))
}
