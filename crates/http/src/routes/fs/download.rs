//! Downloads: files with ranges and conditions (RFC 9110, sections 13 and 14), directories as tar.gz.

use super::conditions::{
    Condition, Validators, Wanted, condition, if_range_holds, to_date, wanted,
};
use super::kinds::media_type;
use super::{UserQuery, attachment, by, name_of};
use crate::archives::{self, Packing};
use crate::auth::Caller;
use crate::extract::{IdOf, QueryOf};
use crate::paths::QueryPath;
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::body::SizedStream;
use actix_web::http::header;
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, get, head, web};
use async_compression::tokio::bufread::GzipEncoder;
use botstead_types::{BotId, FilePath};
use botstead_workspace::{FileActor, FileEntry, FileKind, FilePart, ReadFile};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use std::io;
use tokio_util::io::{ReaderStream, StreamReader};

/// Download a file, or a directory as tar.gz.
///
/// A file has an `ETag` and a `Last-Modified` and takes `Range` (one range), `If-Range`, `If-Match`,
/// `If-None-Match`, `If-Modified-Since` and `If-Unmodified-Since`; what the kernel makes up, as in /proc, has
/// neither and is sent whole. What is sent is the file as it was opened, also while somebody writes to it. A
/// browser may use a `?ticket=`.
///
/// An archive is of a directory that lives: what is made or vanishes meanwhile is in it or not, and sockets,
/// devices and pipes are not. When a file became shorter while it was read, or cannot be read, the archive ends in
/// the middle of what packs it: unpacking it is an error. A file that fails on its way has fewer bytes than its
/// `Content-Length` says, and the connection is cut.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes. A symlink is followed."),
        UserQuery
    ),
    responses(
        (status = 200, description = "The file, or an archive of the directory.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The part that `Range` asks for."),
        (status = 304, description = "The file still has the tag of `If-None-Match`, or was not changed after `If-Modified-Since`."),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 412, description = "`precondition_failed`: the file has not the tag of `If-Match`, or was changed after `If-Unmodified-Since`."),
        (status = 416, description = "`range_not_satisfiable`; `Content-Range` says the size."),
        (status = 422, description = "`not_a_regular_file` or `no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs/download")]
pub(super) async fn download(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    query: QueryOf<UserQuery>,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let by = by(&caller, query.0.user.as_deref());
    answer(by, id.0, &path.0, &request, &state).await
}

/// What a download would answer, without the content.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes."),
        UserQuery
    ),
    responses(
        (status = 200, description = "The headers of the download, whose every status and header a HEAD has."),
    ),
)]
#[head("/bots/{bot_id}/container/fs/download")]
pub(super) async fn download_head(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    query: QueryOf<UserQuery>,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let by = by(&caller, query.0.user.as_deref());
    answer(by, id.0, &path.0, &request, &state).await
}

async fn answer(
    by: FileActor<'_>,
    bot: BotId,
    path: &FilePath,
    request: &HttpRequest,
    state: &SharedState,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let entry = workspaces.stat_file(by, bot, path, true).await?;
    if entry.kind == FileKind::Directory {
        let archive = workspaces.archive_files(by, bot, path).await?;
        let mut name = match name_of(&entry.path) {
            b"/" => b"root".to_vec(),
            name => name.to_vec(),
        };
        name.extend_from_slice(b".tar.gz");
        let mut reply = HttpResponse::Ok();
        reply.insert_header(attachment(&name));
        return Ok(match is_head(request) {
            true => archives::send(&mut reply, Packing::Gzip, nothing()),
            false => archives::send(&mut reply, Packing::Gzip, gzip(archive)),
        });
    }
    let open = async |part| {
        let read = ReadFile {
            part,
            ..ReadFile::default()
        };
        workspaces.read_file(by, bot, path, read).await
    };
    // What was opened is what is compared, described and sent: a file that somebody writes to can be read.
    let asked = wanted(request);
    let mut file = open(part(asked)).await?;
    let mut validators = validators_of(&file.entry);
    let mut sent = asked.filter(|_| {
        let size = file
            .length
            .map(|_| file.entry.size)
            .filter(|size| *size > 0);
        size.is_some() && if_range_holds(request, &validators)
    });
    if asked.is_some() && sent.is_none() {
        file = open(FilePart::Whole).await?;
        validators = validators_of(&file.entry);
    }
    match condition(request, &validators) {
        Condition::Failed(header) => {
            return Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                format!("the file was changed: the condition of the header {header} does not hold"),
            ));
        }
        Condition::NotModified => {
            let mut reply = HttpResponse::NotModified();
            add_validators(&mut reply, &validators);
            return Ok(reply.finish());
        }
        Condition::Send => {}
    }
    let size = file.entry.size;
    let mut reply = match sent.take() {
        None => HttpResponse::Ok(),
        Some(_) if file.length == Some(0) => return Err(not_satisfiable(size)),
        Some(_) => {
            let last = file
                .length
                .and_then(|length| file.offset.checked_add(length - 1));
            let last = last.filter(|last| *last < size).ok_or_else(broken)?;
            let mut reply = HttpResponse::PartialContent();
            let range = format!("bytes {}-{last}/{size}", file.offset);
            reply.insert_header((header::CONTENT_RANGE, range));
            reply
        }
    };
    let name = name_of(&file.entry.path);
    reply
        .content_type(media_type(name))
        .insert_header(attachment(name));
    add_validators(&mut reply, &validators);
    if file.length.is_some() {
        reply.insert_header((header::ACCEPT_RANGES, "bytes"));
    }
    // The framework takes the length from a body, and sends none of it to a HEAD.
    Ok(match (file.length, is_head(request)) {
        (Some(length), true) => reply.body(SizedStream::new(length, nothing())),
        (Some(length), false) => reply.body(SizedStream::new(length, exactly(length, file.data))),
        (None, true) => reply.streaming(nothing()),
        (None, false) => reply.streaming(file.data.map_err(io::Error::other)),
    })
}

fn is_head(request: &HttpRequest) -> bool {
    request.method() == Method::HEAD
}

fn nothing() -> impl Stream<Item = Result<Bytes, io::Error>> + 'static {
    futures_util::stream::empty()
}

/// An agent that does not say what it sends.
fn broken() -> Problem {
    botstead_workspace::Error::Unreachable(None).into()
}

fn not_satisfiable(size: u64) -> Problem {
    Problem::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        format!("the file has {size} bytes"),
    )
    .of_size(size)
}

fn part(wanted: Option<Wanted>) -> FilePart {
    match wanted {
        None => FilePart::Whole,
        Some(Wanted::Last(length)) => FilePart::Last(length),
        Some(Wanted::From(first, last)) => FilePart::Range {
            offset: first,
            // No file has as many bytes as this may lack one of.
            length: last.map(|last| (last - first).saturating_add(1)),
        },
    }
}

/// What the kernel makes up has no revision, and its times are those of the look.
fn validators_of(entry: &FileEntry) -> Validators {
    if entry.revision.is_empty() {
        return Validators::default();
    }
    Validators {
        tag: format!("\"{}\"", entry.revision).parse().ok(),
        modified: Some(entry.modified),
    }
}

fn add_validators(reply: &mut HttpResponseBuilder, validators: &Validators) {
    if let Some(modified) = validators.modified {
        reply.insert_header((header::LAST_MODIFIED, to_date(modified)));
    }
    if let Some(tag) = &validators.tag {
        reply.insert_header((header::ETAG, tag.to_string()));
    }
}

/// The stream, as long as was announced or an error: the client then sees a cut connection instead
/// of a file that looks whole.
fn exactly<E: std::error::Error + Send + Sync + 'static>(
    length: u64,
    data: impl Stream<Item = Result<Bytes, E>> + 'static,
) -> impl Stream<Item = Result<Bytes, io::Error>> + 'static {
    async_stream::try_stream! {
        let mut left = length;
        let mut data = std::pin::pin!(data);
        while let Some(chunk) = data.next().await {
            let chunk = chunk.map_err(io::Error::other)?;
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or(io::ErrorKind::InvalidData)?;
            yield chunk;
        }
        if left > 0 {
            Err(io::ErrorKind::UnexpectedEof)?;
        }
    }
}

/// Compresses as it comes. The level is the fastest: it is the network that waits.
fn gzip(
    data: BoxStream<'static, botstead_workspace::Result<Bytes>>,
) -> impl Stream<Item = io::Result<Bytes>> + 'static {
    let reader = StreamReader::new(data.map_err(io::Error::other));
    let level = async_compression::Level::Fastest;
    ReaderStream::with_capacity(GzipEncoder::with_quality(reader, level), 64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_of_another_length_than_announced_is_an_error() {
        let parts = |sizes: &[usize]| {
            let parts: Vec<_> = sizes
                .iter()
                .map(|size| Ok::<_, io::Error>(Bytes::from(vec![0; *size])))
                .collect();
            futures_util::stream::iter(parts)
        };
        let whole = |sizes: &'static [usize]| async move {
            let sent: io::Result<Vec<Bytes>> = exactly(10, parts(sizes)).try_collect().await;
            sent.is_ok()
        };
        assert!(whole(&[4, 6]).await);
        assert!(!whole(&[4, 5]).await);
        assert!(!whole(&[4, 7]).await);
    }
}
