//! /bots/{bot_id}/container/data: a workspace's data in and out.

use crate::archives::{self, Packing};
use crate::auth::Caller;
use crate::extract::{IdOf, QueryOf, content_length};
use crate::form::{self, Form};
use crate::problem::Problem;
use crate::spool::{self, Spooled};
use crate::state::SharedState;
use actix_multipart::Multipart;
use actix_web::http::header::CONTENT_DISPOSITION;
use actix_web::{HttpRequest, HttpResponse, post, web};
use botstead_types::{BotId, VersionNumber};
use botstead_workspace::{ArchiveFormat, Error, ImportMode, ImportOptions};
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config.service(export).service(import);
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// How the archive is packed; `tar.gz` when absent.
    #[param(inline)]
    format: Option<Format>,
}

impl ExportQuery {
    /// The format, and how it is packed.
    pub(super) fn format(&self) -> (ArchiveFormat, Packing) {
        match self.format {
            None | Some(Format::TarGz) => (ArchiveFormat::TarGz, Packing::Gzip),
            Some(Format::TarZst) => (ArchiveFormat::TarZst, Packing::Zstd),
        }
    }
}

/// How an archive is packed.
#[derive(Clone, Copy, Deserialize, ToSchema)]
pub(super) enum Format {
    /// tar in gzip.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// tar in zstd.
    #[serde(rename = "tar.zst")]
    TarZst,
}

/// Download `/data` as an archive: what it is at one moment. The workspace goes on meanwhile.
///
/// Everything is in a folder `data`. Modes, owners, times, links, extended attributes, holes and names
/// of any bytes are kept; sockets and devices are left out. An archive that fails on its way ends in the middle of
/// what packs it: unpacking it is an error.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot."), ExportQuery),
    responses(
        (status = 200, description = "The archive.", content_type = "application/gzip", body = Vec<u8>),
        (status = 404, description = "`bot_not_found`, `workspace_not_found`, or `path_not_found` when there is no `/data`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 422, description = "`data_not_a_directory`: `/data` is neither a directory nor a link to one."),
        (status = 429, description = "`too_many_exports`: read those that are under way first."),
        (status = 501, description = "`unsupported`: this backend's snapshots cannot be looked into."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/data/export")]
async fn export(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<ExportQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let (format, packing) = query.0.format();
    let workspaces = &state.services.workspaces;
    let archive = workspaces.export_data(&caller.actor, id.0, format).await?;
    let name = format!("{}-data.{}", id.0, format.extension());
    Ok(archive_reply(&name, packing, archive))
}

/// An archive to be saved under this name, which has no quotes.
pub(super) fn archive_reply(
    name: &str,
    packing: Packing,
    archive: impl Stream<Item = Result<Bytes, Error>> + 'static,
) -> HttpResponse {
    let mut reply = HttpResponse::Ok();
    reply.insert_header((
        CONTENT_DISPOSITION,
        format!("attachment; filename=\"{name}\""),
    ));
    archives::send(&mut reply, packing, archive)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// `merge` keeps what the archive does not have; `replace` does not. `merge` when absent.
    #[param(inline)]
    mode: Option<Mode>,
    /// Whom everything shall belong to: `user`, `uid`, `user:group` or `uid:gid`, as in the workspace, or
    /// empty for the workspace's own user. When absent, the numbers in the archive. Directories that the
    /// archive only implies belong to the workspace's own user then.
    as_user: Option<String>,
}

/// What becomes of what is there.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ImportMode)]
enum Mode {
    /// It stays, but for what the archive has under the same names.
    Merge,
    /// It goes.
    Replace,
}

/// An archive, as multipart/form-data.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form for the document only")]
struct ImportForm {
    /// A tar archive, plain or in gzip, zstd, xz or bzip2.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// The reply of an import.
#[derive(Serialize, ToSchema)]
struct Imported {
    /// Always `true`.
    imported: bool,
    /// The version that holds the state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_version: Option<u32>,
}

/// Put an archive into `/data`, all of it or nothing.
///
/// The whole archive is judged before anything is touched. Then the present state is kept as a version
/// and the workspace gets the new one in one step; a running workspace runs again afterwards.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot."), ImportQuery),
    request_body(content = ImportForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Imported),
        (status = 400, description = "`invalid_body`: the form has no `file`."),
        (status = 404, description = "`bot_not_found` or `workspace_not_found`."),
        (status = 409, description = "`busy`: another operation is under way."),
        (status = 413, description = "`archive_too_large`."),
        (status = 422, description = "`archive_refused`, with the entry and the reason, `data_not_a_directory` when it is to be merged into something else, or `no_such_user`; nothing was changed."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[post("/bots/{bot_id}/container/data/import")]
async fn import(
    caller: Caller,
    id: IdOf<BotId>,
    query: QueryOf<ImportQuery>,
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let ImportQuery { mode, as_user } = query.0;
    let mut options = ImportOptions::from(match mode {
        None | Some(Mode::Merge) => ImportMode::Merge,
        Some(Mode::Replace) => ImportMode::Replace,
    });
    options.as_user = as_user;
    let workspaces = &state.services.workspaces;
    // Whoever may not import is refused before gigabytes are received, and so is what has no room.
    let announced = content_length(&request).unwrap_or(0);
    workspaces
        .before_import(&caller.actor, id.0, announced)
        .await?;
    // Not before: what is no form is told only to those who may send one.
    let form = Multipart::new(request.headers(), payload);
    let archive = receive(form, &state).await?;
    let file = archive.into_file().await.map_err(spool::failed)?;
    let safety = workspaces
        .import_data(&caller.actor, id.0, file, options)
        .await?;
    Ok(HttpResponse::Ok().json(Imported {
        imported: true,
        safety_version: safety.map(VersionNumber::get),
    }))
}

const FIELDS: &[&str] = &["file"];

/// Receives the form's file onto the disk.
async fn receive(form: Multipart, state: &SharedState) -> Result<Spooled, Problem> {
    let config = &state.config;
    let idle = config.body_timeout;
    let mut form = Form::new(form, idle);
    if let Some(mut field) = form.next().await? {
        if field.name() != Some("file") {
            return Err(form::unexpected(&field, FIELDS));
        }
        let workspaces = &state.services.workspaces;
        let chunks = async || form::chunk(&mut field, idle).await;
        let received = Spooled::receive(config, workspaces, config.max_upload_bytes, chunks);
        let received = received
            .await
            .map_err(|error| error.into_problem("archive_too_large", "the archive"))?;
        drop(field);
        form.end(FIELDS).await?;
        return Ok(received);
    }
    Err(Problem::invalid(
        "invalid_body",
        "the form has no field `file`",
    ))
}
