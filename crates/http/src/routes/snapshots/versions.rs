//! One version: rename, pin, delete, compare, bring single paths back.

use super::Version;
use crate::auth::Caller;
use crate::budget::Budget;
use crate::extract::{Body, IdOf, PageQuery, QueryOf, nullable};
use crate::paths::{in_body, to_base64};
use crate::problem::Problem;
use crate::shapes::List;
use crate::shapes::{from_cursor, to_cursor};
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use botstead_types::{BotId, InvalidValue, PageRequest, VersionNumber, escaped};
use botstead_workspace::{PathChange, PathChangeKind, PathKind, VersionOrCurrent, VersionUpdate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

fn number(request: &HttpRequest, segment: &str) -> Result<VersionNumber, InvalidValue> {
    let text = request.match_info().get(segment).unwrap_or_default();
    let number: i64 = text
        .parse()
        .map_err(|_| InvalidValue::new("version", text, "must be a whole number"))?;
    VersionNumber::try_from(number)
}

/// What changes in a version; absent fields stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateVersion {
    /// A name, or `null` for none.
    #[serde(default, deserialize_with = "nullable")]
    display_name: Option<Option<String>>,
    /// A pinned version is kept whatever the rules of retention say, and is not deleted.
    pinned: Option<bool>,
}

/// Rename or pin a version.
#[utoipa::path(
    tag = "snapshots",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("version" = u32, Path, description = "The version."),
    ),
    request_body = UpdateVersion,
    responses(
        (status = 200, body = Version),
        (status = 400, description = "A name that is too long."),
        (status = 404, description = "`bot_not_found` or `version_not_found`."),
        (status = 503, description = "`runtime_unavailable`: the runtime keeps name and pin as well."),
    ),
)]
#[patch("/bots/{bot_id}/container/snapshots/{version}")]
pub(super) async fn update(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    body: Body<UpdateVersion>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let update = VersionUpdate {
        name: body.0.display_name,
        pinned: body.0.pinned,
    };
    let number = number(&request, "version")?;
    let workspaces = &state.services.workspaces;
    let version = workspaces
        .update_version(&caller.actor, id.0, number, update)
        .await?;
    Ok(HttpResponse::Ok().json(Version::from(version)))
}

/// Delete a version. Those that grew from it stay as they are.
#[utoipa::path(
    tag = "snapshots",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("version" = u32, Path, description = "The version."),
    ),
    responses(
        (status = 204, description = "It is gone, and its number is not used again."),
        (status = 404, description = "`bot_not_found` or `version_not_found`."),
        (status = 409, description = "`version_pinned`, or `busy`."),
    ),
)]
#[delete("/bots/{bot_id}/container/snapshots/{version}")]
pub(super) async fn delete(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let number = number(&request, "version")?;
    let workspaces = &state.services.workspaces;
    workspaces
        .delete_version(&caller.actor, id.0, number)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A path that differs.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangedPath {
    /// The path; one that is not UTF-8 is percent-escaped.
    path: String,
    /// The path's bytes, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// `added`, `changed` or `removed`.
    #[schema(example = "changed")]
    change: &'static str,
    /// A file's size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// `file`, `directory`, `symlink` or `other`.
    #[schema(example = "file")]
    kind: &'static str,
}

impl From<PathChange> for ChangedPath {
    fn from(change: PathChange) -> Self {
        Self {
            path_base64: std::str::from_utf8(&change.path)
                .is_err()
                .then(|| to_base64(&change.path)),
            path: escaped(&change.path),
            change: match change.change {
                PathChangeKind::Added => "added",
                PathChangeKind::Changed => "changed",
                PathChangeKind::Removed => "removed",
            },
            size: change.size,
            kind: match change.kind {
                PathKind::File => "file",
                PathKind::Directory => "directory",
                PathKind::Symlink => "symlink",
                _ => "other",
            },
        }
    }
}

/// What differs between a version and another one, or `current`: added, changed and removed as seen
/// from the first.
///
/// Without `limit` a hundred.
#[utoipa::path(
    tag = "snapshots",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("a" = u32, Path, description = "A version."),
        ("b" = String, Path, description = "Another version, or `current`."),
        PageQuery
    ),
    responses(
        (status = 200, body = List<ChangedPath>),
        (status = 404, description = "`bot_not_found`, `version_not_found`, or `workspace_not_found` for `current`."),
        (status = 409, description = "`replaced_meanwhile`: `current` became another state while it was read."),
        (status = 501, description = "`unsupported`: this backend's snapshots cannot be looked into."),
    ),
)]
#[get("/bots/{bot_id}/container/snapshots/{a}/diff/{b}")]
pub(super) async fn diff(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let from = number(&request, "a")?;
    let to = match request.match_info().get("b") {
        Some("current") => VersionOrCurrent::Current,
        _ => VersionOrCurrent::Version(number(&request, "b")?),
    };
    let page = PageRequest::try_from(query.0)?;
    let after = from_cursor(page.cursor.as_deref())?;
    let workspaces = &state.services.workspaces;
    let changes = workspaces
        .diff(&caller.actor, id.0, from, to, after, page.limit as usize)
        .await?;
    let paths: Vec<Vec<u8>> = changes.items.iter().map(|it| it.path.clone()).collect();
    let budget = Budget::new(state.config.max_reply_bytes);
    let (items, cut) = budget.fit(changes.items.into_iter().map(ChangedPath::from));
    let last = items.len().checked_sub(1).filter(|_| cut);
    let next = match last {
        // Beneath the root, as the pages of a comparison are.
        Some(last) => paths[last].get(1..).map(<[u8]>::to_vec),
        None => changes.next,
    };
    Ok(HttpResponse::Ok().json(List {
        items,
        next_cursor: next.map(to_cursor),
        truncated: false,
    }))
}

/// A path to be brought back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestorePath {
    /// The path in the version, absolute.
    path: Option<String>,
    /// The same as bytes in base64.
    path_base64: Option<String>,
    /// Where it goes; its own place when absent.
    target: Option<String>,
    /// The same as bytes in base64.
    target_base64: Option<String>,
}

/// The reply of a restore.
#[derive(Serialize, ToSchema)]
pub(super) struct RestoredPath {
    /// Always `true`.
    restored: bool,
    /// The version that holds the state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_version: Option<u32>,
}

/// Bring one path of a version back, file or directory. The present state is kept as a version first,
/// and a running workspace runs again afterwards.
#[utoipa::path(
    tag = "snapshots",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("version" = u32, Path, description = "The version."),
    ),
    request_body = RestorePath,
    responses(
        (status = 200, body = RestoredPath),
        (status = 403, description = "`forbidden`: the root; use a rollback."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found`, `version_not_found` or `path_not_found`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/snapshots/{version}/restore-path")]
pub(super) async fn restore_path(
    caller: Caller,
    id: IdOf<BotId>,
    request: HttpRequest,
    body: Body<RestorePath>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let number = number(&request, "version")?;
    let body = body.0;
    let path = in_body("path", body.path, body.path_base64.as_deref())?;
    let target = match (&body.target, &body.target_base64) {
        (None, None) => None,
        _ => Some(in_body(
            "target",
            body.target,
            body.target_base64.as_deref(),
        )?),
    };
    let workspaces = &state.services.workspaces;
    let safety = workspaces
        .restore_path(&caller.actor, id.0, number, path, target)
        .await?;
    Ok(HttpResponse::Ok().json(RestoredPath {
        restored: true,
        safety_version: safety.map(VersionNumber::get),
    }))
}
