//! Looking: one entry, a directory, the text of a file.

use super::{Entry, by};
use crate::auth::Caller;
use crate::budget::Budget;
use crate::extract::{IdOf, QueryOf, flag};
use crate::paths::{QueryPath, to_base64};
use crate::problem::Problem;
use crate::shapes::{from_cursor, to_cursor};
use crate::state::SharedState;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, get, web};
use botstead_types::{BotId, InvalidValue, escaped};
use botstead_workspace::{FilePart, ListFiles, ReadFile};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StatQuery {
    /// Follow a symlink at the end of the path.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    follow: bool,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

/// One entry of a workspace's filesystem.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes."),
        StatQuery
    ),
    responses(
        (status = 200, body = Entry),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs")]
pub(super) async fn stat(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    query: QueryOf<StatQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let by = by(&caller, query.0.user.as_deref());
    let entry = state
        .services
        .workspaces
        .stat_file(by, id.0, &path.0, query.0.follow)
        .await?;
    Ok(HttpResponse::Ok().json(Entry::from(entry)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Entries of directories beneath it as well.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    recursive: bool,
    /// How deep a recursive list goes; 1 is the directory itself.
    #[serde(default)]
    max_depth: u32,
    /// At most this many entries, 1 to 1000; 1000 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

/// A page of a directory.
#[derive(Serialize, ToSchema)]
pub(super) struct Directory {
    /// Its path, resolved.
    path: String,
    /// Its entries, sorted by the bytes of their paths.
    entries: Vec<Entry>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List a directory of a workspace.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes."),
        ListQuery
    ),
    responses(
        (status = 200, body = Directory),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`not_a_directory` or `no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs/list")]
pub(super) async fn list(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    query: QueryOf<ListQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let ListQuery {
        recursive,
        max_depth,
        limit,
        cursor,
        user,
    } = query.0;
    let wanted = ListFiles {
        recursive,
        max_depth,
        limit: limit.unwrap_or(ListFiles::MAX_LIMIT),
        after: from_cursor(cursor.as_deref())?,
    };
    let room = state.memory.for_list(caller.user).await?;
    let page = state
        .services
        .workspaces
        .list_files(by(&caller, user.as_deref()), id.0, &path.0, wanted)
        .await?;
    let paths: Vec<Vec<u8>> = page.entries.iter().map(|it| it.path.clone()).collect();
    let budget = Budget::new(state.config.max_reply_bytes);
    let (entries, cut) = budget.fit(page.entries.into_iter().map(Entry::from));
    let last = entries.len().checked_sub(1).filter(|_| page.more || cut);
    Ok(room.held_by(HttpResponse::Ok().json(Directory {
        next_cursor: last.map(|last| to_cursor(&paths[last])),
        path: escaped(&page.path),
        entries,
    })))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadQuery {
    /// Only lines from this one on, counted from 1.
    #[param(minimum = 1)]
    line: Option<u64>,
    /// With `line`: at most this many lines.
    #[param(minimum = 1)]
    lines: Option<u64>,
    /// Only bytes from this one on, counted from 0.
    offset: Option<u64>,
    /// With `offset`: at most this many bytes.
    #[param(minimum = 1)]
    length: Option<u64>,
    /// `base64` gives the content so also when it is text.
    encoding: Option<String>,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

impl ReadQuery {
    fn part(&self) -> Result<FilePart, InvalidValue> {
        let counted = |what, value: Option<u64>| match value {
            Some(0) => Err(InvalidValue::new(what, "0", "must be at least 1")),
            _ => Ok(()),
        };
        counted("line", self.line)?;
        counted("lines", self.lines)?;
        counted("length", self.length)?;
        let lines = self.line.is_some() || self.lines.is_some();
        let range = self.offset.is_some() || self.length.is_some();
        match (lines, range) {
            (true, true) => Err(InvalidValue::new(
                "line",
                "",
                "must not be together with offset and length",
            )),
            (true, false) => Ok(FilePart::Lines {
                first: self.line.unwrap_or(1),
                count: self.lines,
            }),
            (false, true) => Ok(FilePart::Range {
                offset: self.offset.unwrap_or(0),
                length: self.length,
            }),
            (false, false) => Ok(FilePart::Whole),
        }
    }
}

/// The content of a file.
#[derive(Serialize, ToSchema)]
pub(super) struct Content {
    /// Its path, resolved.
    path: String,
    /// The content, or the part that was asked for.
    content: String,
    /// The whole file's size in bytes.
    size: u64,
    /// `utf-8` or, for what is no such text, `base64`.
    #[schema(example = "utf-8")]
    encoding: &'static str,
    /// A word that differs whenever the file was changed or replaced: for `expected_revision`.
    revision: String,
}

/// Read a file of a workspace, or a part of it, as JSON.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "An absolute path, percent-encoded bytes."),
        ReadQuery
    ),
    responses(
        (status = 200, body = Content),
        (status = 403, description = "`permission_denied`: `user` may not do it."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 413, description = "`file_too_large`: use the download."),
        (status = 422, description = "`is_a_directory`, `not_a_regular_file` or `no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs/read")]
pub(super) async fn read(
    caller: Caller,
    id: IdOf<BotId>,
    path: QueryPath,
    query: QueryOf<ReadQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let as_base64 = match query.0.encoding.as_deref() {
        None | Some("utf-8" | "") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(InvalidValue::new("encoding", other, "must be utf-8 or base64").into());
        }
    };
    let limit = state.config.max_text_bytes;
    let wanted = ReadFile {
        part: query.0.part()?,
        expected_revision: None,
        limit: Some(limit as u64),
    };
    let workspaces = &state.services.workspaces;
    let file = workspaces
        .read_file(by(&caller, query.0.user.as_deref()), id.0, &path.0, wanted)
        .await;
    let mut file = match file {
        Err(error) if error.code() == "file_too_large" => return Err(too_large(limit)),
        file => file?,
    };
    let announced = file.length.and_then(|length| usize::try_from(length).ok());
    // The content, and the reply that is made of it.
    let most = 3 * announced.map_or(limit, |length| length.min(limit));
    let mut content = BytesMut::new();
    let mut room = state.memory.room(Some(caller.user));
    while let Some(data) = file.data.next().await {
        let data = data?;
        if content.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        room.reserve(3 * (content.len() + data.len()), most).await?;
        content.extend_from_slice(&data);
    }
    let (content, encoding) = match String::from_utf8(content.into()) {
        Ok(text) if !as_base64 && !is_mostly_escapes(&text) => (text, "utf-8"),
        Ok(text) => (to_base64(text.as_bytes()), "base64"),
        Err(error) => (to_base64(error.as_bytes()), "base64"),
    };
    Ok(room.held_by(HttpResponse::Ok().json(Content {
        path: escaped(&file.entry.path),
        content,
        size: file.entry.size,
        encoding,
        revision: file.entry.revision,
    })))
}

/// Whether JSON makes a text twice as long, because each of its control characters takes six bytes there:
/// that is no text that anybody reads. Coloured logs are.
fn is_mostly_escapes(text: &str) -> bool {
    let escaped = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r');
    text.bytes().filter(|byte| escaped(byte)).count() > text.len() / 5
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "file_too_large",
        format!(
            "more than {limit} bytes do not fit into a JSON reply; use \
             GET /bots/{{bot_id}}/container/fs/download, or ask for a part with `offset` and `length`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_lines_or_bytes_but_not_both() {
        let part = |query: &str| {
            let query: ReadQuery = serde_urlencoded::from_str(query).unwrap();
            query.part()
        };
        assert_eq!(part("").unwrap(), FilePart::Whole);
        let lines = FilePart::Lines {
            first: 1,
            count: Some(5),
        };
        assert_eq!(part("lines=5").unwrap(), lines);
        let range = FilePart::Range {
            offset: 7,
            length: None,
        };
        assert_eq!(part("offset=7").unwrap(), range);
        for bad in ["line=0", "length=0", "line=1&offset=0"] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_json_makes_long_is_no_text() {
        for (text, escapes) in [
            ("", false),
            ("a line\n\tand \"another\"\r\n", false),
            (
                "\u{1b}[1mbold\u{1b}[0m and much that is plain text after it",
                false,
            ),
            ("\u{1}", true),
            ("\u{0}\u{0}\u{0}abcdefghi", true),
            ("\u{1b}[31mred\u{1b}[0m\n", false),
        ] {
            assert_eq!(is_mostly_escapes(text), escapes, "{text:?}");
        }
    }
}
