//! Changing: write text, make directories, rename, copy, delete.

use super::by;
use super::octal::Octal;
use crate::auth::Caller;
use crate::extract::{Body, IdOf, LargeBody};
use crate::paths::in_body;
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::{HttpResponse, post, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use botstead_types::{BotId, InvalidValue};
use botstead_workspace::{ChangeFile, WriteFile};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use utoipa::ToSchema;

/// A file to be written.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    /// Its path, absolute.
    path: Option<String>,
    /// The same as bytes in base64, for names that are not UTF-8.
    path_base64: Option<String>,
    /// Its whole new content.
    content: String,
    /// `utf-8` or `base64`: how `content` is given.
    encoding: Option<String>,
    /// Fails with 409 `stale_revision` when the file has another one, or is missing.
    expected_revision: Option<String>,
    /// Fails with 409 `path_exists` when anything is there.
    #[serde(default)]
    create_new: bool,
    /// Permission bits of a new file as octal text; `0644` when absent. Those of an existing file stay.
    #[schema(value_type = Option<String>, example = "0755")]
    mode: Option<Octal>,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`, and what is made belongs to them;
    /// absent is root, for whom what is made belongs to the workspace's user.
    user: Option<String>,
}

/// The file that was written.
#[derive(Serialize, ToSchema)]
pub(super) struct Written {
    /// Always `true`.
    ok: bool,
    /// Its revision now.
    revision: String,
    /// Its size in bytes.
    size: u64,
    /// Whether it is new.
    created: bool,
}

/// Write a file of a workspace as a whole and atomically.
///
/// Missing directories are made. An existing file keeps its mode and owner; what stands at the end
/// of a symlink is written, and the link stays. A file that something is mounted on, such as /etc/hosts, is
/// written in place, which is not atomic.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = Write,
    responses(
        (status = 200, body = Written),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`stale_revision`, `path_exists` or `workspace_not_running`."),
        (status = 413, description = "`body_too_large`: use the upload."),
        (status = 422, description = "`is_a_directory`, `not_a_directory` or `not_a_regular_file`; `no_such_user`."),
        (status = 503, description = "`workspace_unreachable`, `workspace_stalled` when it takes nothing, or `too_much_in_flight`: the bodies and replies under way take as much memory as they may."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/write")]
pub(super) async fn write(
    caller: Caller,
    id: IdOf<BotId>,
    body: LargeBody<Write>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let LargeBody(body, room) = body;
    let path = in_body("path", body.path, body.path_base64.as_deref())?;
    let content = match body.encoding.as_deref() {
        None | Some("utf-8" | "") => Bytes::from(body.content),
        Some("base64") => STANDARD
            .decode(&body.content)
            .map(Bytes::from)
            .map_err(|_| {
                Problem::invalid(
                    "invalid_body",
                    "content: must be base64, as `encoding` says",
                )
            })?,
        Some(other) => {
            return Err(InvalidValue::new("encoding", other, "must be utf-8 or base64").into());
        }
    };
    let how = WriteFile {
        mode: body.mode.map(|mode| mode.0),
        parents: true,
        expected_revision: body.expected_revision.filter(|word| !word.is_empty()),
        create_new: body.create_new,
    };
    let content = futures_util::stream::iter([Ok::<_, Infallible>(content)]);
    let workspaces = state.services.workspaces.clone();
    // It goes on when its client leaves: all of it is here.
    let written = actix_web::rt::spawn(async move {
        let _room = room;
        workspaces
            .write_file(by(&caller, body.user.as_deref()), id.0, &path, how, content)
            .await
    });
    let (entry, created) = written.await.map_err(Problem::internal)??;
    Ok(HttpResponse::Ok().json(Written {
        ok: true,
        revision: entry.revision,
        size: entry.size,
        created,
    }))
}

/// The reply of a change.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    /// Always `true`.
    ok: bool,
}

fn done() -> HttpResponse {
    HttpResponse::Ok().json(Done { ok: true })
}

/// A directory to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Mkdir {
    /// Its path, absolute.
    path: Option<String>,
    /// The same as bytes in base64.
    path_base64: Option<String>,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`, and what is made belongs to them;
    /// absent is root, for whom what is made belongs to the workspace's user.
    user: Option<String>,
}

/// Make a directory with its parents. One that exists is no error.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = Mkdir,
    responses(
        (status = 200, body = Done),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`path_exists`: something else is there; `workspace_not_running`."),
        (status = 422, description = "`no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/mkdir")]
pub(super) async fn mkdir(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<Mkdir>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let path = in_body("path", body.path, body.path_base64.as_deref())?;
    let workspaces = &state.services.workspaces;
    workspaces
        .make_directory(by(&caller, body.user.as_deref()), id.0, &path, true)
        .await?;
    Ok(done())
}

/// Something to be moved or copied.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FromTo {
    /// Where it is, absolute.
    old_path: Option<String>,
    /// The same as bytes in base64.
    #[serde(rename = "oldPath_base64")]
    old_path_base64: Option<String>,
    /// Where it shall be, absolute.
    new_path: Option<String>,
    /// The same as bytes in base64.
    #[serde(rename = "newPath_base64")]
    new_path_base64: Option<String>,
    /// Replace what is there.
    #[serde(default)]
    overwrite: bool,
    /// Only for a copy: a directory with everything in it.
    #[serde(default)]
    recursive: bool,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`, and a copy belongs to them; absent is
    /// root, and a copy keeps its owner.
    user: Option<String>,
}

/// Rename or move a file or directory.
///
/// Onto a file that something is mounted on, such as /etc/hosts, the content is copied in place and the old file
/// removed. A mount point itself is 409 `path_busy`: copy it.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = FromTo,
    responses(
        (status = 200, body = Done),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`path_exists` unless `overwrite` is given; `workspace_not_running`."),
        (status = 422, description = "`other_filesystem`; `no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/rename")]
pub(super) async fn rename(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<FromTo>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let from = in_body("oldPath", body.old_path, body.old_path_base64.as_deref())?;
    let to = in_body("newPath", body.new_path, body.new_path_base64.as_deref())?;
    let workspaces = &state.services.workspaces;
    workspaces
        .rename_file(
            by(&caller, body.user.as_deref()),
            id.0,
            &from,
            &to,
            body.overwrite,
        )
        .await?;
    Ok(done())
}

/// Copy a file or, with `recursive`, a directory.
///
/// With `overwrite`, a file that something is mounted on, such as /etc/hosts, gets the content in place.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = FromTo,
    responses(
        (status = 200, body = Done),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`path_exists` unless `overwrite` is given; `workspace_not_running`."),
        (status = 422, description = "`is_a_directory` without `recursive`; `no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/copy")]
pub(super) async fn copy(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<FromTo>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let from = in_body("oldPath", body.old_path, body.old_path_base64.as_deref())?;
    let to = in_body("newPath", body.new_path, body.new_path_base64.as_deref())?;
    let workspaces = &state.services.workspaces;
    workspaces
        .copy_file(
            by(&caller, body.user.as_deref()),
            id.0,
            &from,
            &to,
            body.recursive,
            body.overwrite,
        )
        .await?;
    Ok(done())
}

/// What shall be changed of a file or directory.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Chmod {
    /// Its path, absolute. A symlink is followed.
    path: Option<String>,
    /// The same as bytes in base64.
    path_base64: Option<String>,
    /// Permission bits as octal text.
    #[schema(value_type = Option<String>, example = "0755")]
    mode: Option<Octal>,
    /// `user`, `uid`, `user:group` or `uid:gid`, as the workspace knows them. Without a group that stays.
    #[schema(example = "1000:1000")]
    owner: Option<String>,
    /// Also all that is below a directory; symlinks are not followed there.
    #[serde(default)]
    recursive: bool,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

/// What was changed.
#[derive(Serialize, ToSchema)]
pub(super) struct Changed {
    /// Always `true`.
    ok: bool,
    /// How many entries.
    changed: u64,
}

/// Change the permission bits, the owner, or both, of a file, a directory, or with `recursive` a tree.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = Chmod,
    responses(
        (status = 200, body = Changed),
        (status = 400, description = "Neither `mode` nor `owner` is given, or `mode` is not octal text."),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/chmod")]
pub(super) async fn chmod(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<Chmod>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let path = in_body("path", body.path, body.path_base64.as_deref())?;
    let change = ChangeFile {
        mode: body.mode.map(|mode| mode.0),
        owner: body.owner.filter(|owner| !owner.is_empty()),
        recursive: body.recursive,
    };
    let workspaces = &state.services.workspaces;
    let changed = workspaces
        .change_file(by(&caller, body.user.as_deref()), id.0, &path, change)
        .await?;
    Ok(HttpResponse::Ok().json(Changed { ok: true, changed }))
}

/// Something to be deleted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    /// Its path, absolute.
    path: Option<String>,
    /// The same as bytes in base64.
    path_base64: Option<String>,
    /// A directory with everything in it.
    #[serde(default)]
    recursive: bool,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

/// Delete a file, a symlink itself, an empty directory, or with `recursive` a tree.
#[utoipa::path(
    tag = "files",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    request_body = Delete,
    responses(
        (status = 200, body = Done),
        (status = 403, description = "`forbidden`: the root; `permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`directory_not_empty` without `recursive`; `workspace_not_running`."),
        (status = 422, description = "`no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[post("/bots/{bot_id}/container/fs/delete")]
pub(super) async fn delete(
    caller: Caller,
    id: IdOf<BotId>,
    body: Body<Delete>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let path = in_body("path", body.path, body.path_base64.as_deref())?;
    let workspaces = &state.services.workspaces;
    workspaces
        .remove_file(
            by(&caller, body.user.as_deref()),
            id.0,
            &path,
            body.recursive,
        )
        .await?;
    Ok(done())
}
