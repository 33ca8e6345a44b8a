//! Downloads: files with ranges and conditions (RFC 9110, sections 13 and 14), directories as tar.gz.

use super::{attachment, name_of};
use crate::auth::Caller;
use crate::extract::IdOf;
use crate::paths::QueryPath;
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    self, ByteRangeSpec, ContentRange, ContentRangeSpec, ETag, EntityTag, Header, IfMatch,
    IfNoneMatch, IfRange, Range,
};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, get, head, web};
use async_compression::tokio::bufread::GzipEncoder;
use botstead_types::{BotId, FilePath};
use botstead_workspace::{FileEntry, FileKind, FilePart, ReadFile};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use std::io;
use tokio_util::io::{ReaderStream, StreamReader};

/// Download a file, or a directory as tar.gz.
///
/// A file has an `ETag` and takes `Range` (one range), `If-Range`, `If-Match` and `If-None-Match`. A
/// browser may use a `?ticket=`.
///
/// An archive is of a directory that lives: what is made or vanishes meanwhile is in it or not, and sockets,
/// devices and pipes are not. When a file became shorter while it was read, or cannot be read, the connection
/// ends before the archive does.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes. A symlink is followed."),
    ),
    responses(
        (status = 200, description = "The file, or an archive of the directory.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The part that `Range` asks for."),
        (status = 304, description = "The file still has the tag of `If-None-Match`."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 412, description = "`precondition_failed`: the file has not the tag of `If-Match`."),
        (status = 416, description = "`range_not_satisfiable`."),
        (status = 422, description = "`not_a_regular_file`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs/download")]
pub(super) async fn download(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    answer(&caller, id.0, &path.0, &request, &state, true).await
}

/// What a download would answer, without the content.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes."),
    ),
    responses((status = 200, description = "The headers of the download.")),
)]
#[head("/bots/{bot_id}/container/fs/download")]
pub(super) async fn download_head(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    answer(&caller, id.0, &path.0, &request, &state, false).await
}

async fn answer(
    caller: &Caller,
    bot: BotId,
    path: &FilePath,
    request: &HttpRequest,
    state: &SharedState,
    with_content: bool,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let entry = workspaces.stat_file(&caller.actor, bot, path, true).await?;
    if entry.kind == FileKind::Directory {
        let mut reply = HttpResponse::Ok();
        let mut name = match name_of(&entry.path) {
            b"/" => b"root".to_vec(),
            name => name.to_vec(),
        };
        name.extend_from_slice(b".tar.gz");
        reply
            .content_type("application/gzip")
            .insert_header(attachment(&name));
        if !with_content {
            return Ok(reply.finish());
        }
        let archive = workspaces.archive_files(&caller.actor, bot, path).await?;
        return Ok(reply.streaming(gzip(archive)));
    }
    let tag = EntityTag::new_strong(entry.revision.clone());
    let wanted = match condition(request, &tag) {
        Condition::Failed => {
            return Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "the file was changed: it has not the tag of If-Match any more",
            ));
        }
        Condition::NotModified => {
            return Ok(HttpResponse::NotModified()
                .insert_header(ETag(tag))
                .finish());
        }
        Condition::Send => range(request, &tag, entry.size)?,
    };
    let mut reply = match &wanted {
        None => HttpResponse::Ok(),
        Some((first, last)) => {
            let mut reply = HttpResponse::PartialContent();
            reply.insert_header(ContentRange(ContentRangeSpec::Bytes {
                range: Some((*first, *last)),
                instance_length: Some(entry.size),
            }));
            reply
        }
    };
    describe(&mut reply, &entry, tag);
    // Files of the kernel tell no size.
    let sized = entry.size > 0;
    if sized {
        reply.insert_header((header::ACCEPT_RANGES, "bytes"));
    }
    if !with_content {
        if sized {
            let length = wanted.map_or(entry.size, |(first, last)| last - first + 1);
            // The framework takes the length from a body, and sends none of it.
            let nothing = futures_util::stream::empty::<Result<Bytes, io::Error>>();
            return Ok(reply.body(SizedStream::new(length, nothing)));
        }
        return Ok(reply.finish());
    }
    let read = ReadFile {
        part: match wanted {
            None => FilePart::Whole,
            Some((first, last)) => FilePart::Range {
                offset: first,
                length: Some(last - first + 1),
            },
        },
        expected_revision: Some(entry.revision).filter(|revision| !revision.is_empty()),
        limit: None,
    };
    let file = workspaces.read_file(&caller.actor, bot, path, read).await?;
    Ok(match file.length {
        Some(length) => reply.body(SizedStream::new(length, exactly(length, file.data))),
        None => reply.streaming(file.data.map_err(io::Error::other)),
    })
}

fn describe(reply: &mut HttpResponseBuilder, entry: &FileEntry, tag: EntityTag) {
    let name = name_of(&entry.path);
    let text = String::from_utf8_lossy(name);
    let kind = mime_guess::from_path(text.as_ref()).first_or_octet_stream();
    reply
        .content_type(kind.as_ref())
        .insert_header(attachment(name))
        .insert_header(header::LastModified(
            // A date before 1970 cannot be said in a header.
            std::time::SystemTime::from(entry.modified)
                .max(std::time::SystemTime::UNIX_EPOCH)
                .into(),
        ));
    if !tag.tag().is_empty() {
        reply.insert_header(ETag(tag));
    }
}

/// What the conditions of a request ask for.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Send,
    NotModified,
    Failed,
}

/// If-Match first, then If-None-Match (RFC 9110, section 13.2.2). One that cannot be read is none.
fn condition(request: &HttpRequest, tag: &EntityTag) -> Condition {
    let has = |name| request.headers().contains_key(name);
    if has(header::IF_MATCH) {
        let matches = match IfMatch::parse(request) {
            Ok(IfMatch::Any) => true,
            Ok(IfMatch::Items(tags)) => tags.iter().any(|given| given.strong_eq(tag)),
            Err(_) => true,
        };
        if !matches {
            return Condition::Failed;
        }
    }
    if has(header::IF_NONE_MATCH) {
        let matches = match IfNoneMatch::parse(request) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|given| given.weak_eq(tag)),
            Err(_) => false,
        };
        if matches {
            return Condition::NotModified;
        }
    }
    Condition::Send
}

/// The first and last byte that are asked for; `None` is all of it. More than one range, and units
/// that are not bytes, are answered with all of it, which is allowed (RFC 9110, section 14.2).
fn range(request: &HttpRequest, tag: &EntityTag, size: u64) -> Result<Option<(u64, u64)>, Problem> {
    if !request.headers().contains_key(header::RANGE) || size == 0 {
        return Ok(None);
    }
    if request.headers().contains_key(header::IF_RANGE) {
        match IfRange::parse(request) {
            Ok(IfRange::EntityTag(given)) if given.strong_eq(tag) => {}
            // A date is too coarse to prove that nothing changed.
            _ => return Ok(None),
        }
    }
    let Ok(Range::Bytes(parts)) = Range::parse(request) else {
        return Ok(None);
    };
    let [part] = parts.as_slice() else {
        return Ok(None);
    };
    let satisfied = match *part {
        ByteRangeSpec::FromTo(first, last) if first <= last && first < size => {
            Some((first, last.min(size - 1)))
        }
        ByteRangeSpec::From(first) if first < size => Some((first, size - 1)),
        ByteRangeSpec::Last(length) if length > 0 => Some((size.saturating_sub(length), size - 1)),
        _ => None,
    };
    satisfied.map(Some).ok_or_else(|| {
        Problem::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            format!("the file has {size} bytes"),
        )
    })
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
    use actix_web::test::TestRequest;

    fn tag() -> EntityTag {
        EntityTag::new_strong("r1".to_owned())
    }

    #[test]
    fn conditions_compare_tags() {
        for (name, value, expected) in [
            ("if-match", "\"r1\"", Condition::Send),
            ("if-match", "\"r0\", \"r1\"", Condition::Send),
            ("if-match", "*", Condition::Send),
            ("if-match", "\"r0\"", Condition::Failed),
            ("if-match", "W/\"r1\"", Condition::Failed),
            ("if-none-match", "\"r1\"", Condition::NotModified),
            ("if-none-match", "W/\"r1\"", Condition::NotModified),
            ("if-none-match", "\"r0\"", Condition::Send),
        ] {
            let request = TestRequest::default().insert_header((name, value));
            let found = condition(&request.to_http_request(), &tag());
            assert_eq!(found, expected, "{name}: {value}");
        }
    }

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (value, condition, expected) in [
            ("bytes=0-9", None, Some(Some((0, 9)))),
            ("bytes=90-", None, Some(Some((90, 99)))),
            ("bytes=90-1000", None, Some(Some((90, 99)))),
            ("bytes=-10", None, Some(Some((90, 99)))),
            ("bytes=-1000", None, Some(Some((0, 99)))),
            ("bytes=100-", None, None),
            ("bytes=-0", None, None),
            ("bytes=0-1,5-6", None, Some(None)),
            ("lines=0-1", None, Some(None)),
            ("nonsense", None, Some(None)),
            ("bytes=0-9", Some("\"r1\""), Some(Some((0, 9)))),
            ("bytes=0-9", Some("\"r0\""), Some(None)),
            (
                "bytes=0-9",
                Some("Tue, 24 Nov 2026 00:00:00 GMT"),
                Some(None),
            ),
        ] {
            let mut request = TestRequest::default().insert_header(("range", value));
            if let Some(condition) = condition {
                request = request.insert_header(("if-range", condition));
            }
            let found = range(&request.to_http_request(), &tag(), 100).ok();
            assert_eq!(found, expected, "{value} {condition:?}");
        }
    }

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
