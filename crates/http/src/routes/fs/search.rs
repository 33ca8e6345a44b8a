//! Search by name and content.

use super::by;
use crate::auth::Caller;
use crate::budget::Budget;
use crate::context::RequestId;
use crate::extract::{IdOf, QueryOf, flag, wants_events};
use crate::paths::{QueryPath, to_base64};
use crate::problem::Problem;
use crate::sse::{self, Step};
use crate::state::SharedState;
use actix_web::{HttpRequest, HttpResponse, get, web};
use botstead_types::{BotId, escaped};
use botstead_workspace::{FileKind, SearchEvent, SearchFiles, SearchLine, SkipReason, SkippedFile};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Matches of a search that does not say how many.
const DEFAULT_LIMIT: u32 = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchQuery {
    /// Globs on the paths below, separated by commas outside of braces, such as `*.{js,ts},src/**`; `!`
    /// excludes.
    glob: Option<String>,
    /// A regular expression on lines; without it, entries are found by name.
    pattern: Option<String>,
    /// The pattern is plain text.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    literal: bool,
    /// Upper and lower case are the same.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    ignore_case: bool,
    /// Leave out what .gitignore and .ignore files name, and .git.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    respect_gitignore: bool,
    /// Leave out names that begin with a dot.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    skip_hidden: bool,
    /// Lines before and after each match, at most 20.
    #[serde(default)]
    #[param(maximum = 20)]
    context: u32,
    /// At most this many matches, 1 to 10000; 100 when absent.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

impl From<SearchQuery> for SearchFiles {
    fn from(query: SearchQuery) -> Self {
        let globs = query.glob.unwrap_or_default();
        Self {
            globs: split(&globs),
            pattern: query.pattern.filter(|pattern| !pattern.is_empty()),
            literal: query.literal,
            ignore_case: query.ignore_case,
            respect_ignore_files: query.respect_gitignore,
            skip_hidden: query.skip_hidden,
            limit: query.limit.unwrap_or(DEFAULT_LIMIT),
            context: query.context,
        }
    }
}

/// Splits at the commas between globs, not at those within one.
fn split(globs: &str) -> Vec<String> {
    let mut split = vec![String::new()];
    let (mut braces, mut class, mut escaped) = (0_usize, false, false);
    for character in globs.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
            }
            '[' => class = true,
            ']' => class = false,
            '{' if !class => braces += 1,
            '}' if !class => braces = braces.saturating_sub(1),
            ',' if !class && braces == 0 => {
                split.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = split.last_mut() {
            last.push(character);
        }
    }
    let split = split.iter().map(|glob| glob.trim());
    split
        .filter(|glob| !glob.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Something that was found.
#[derive(Serialize, ToSchema)]
pub(super) struct Match {
    /// The entry's path; one that is not UTF-8 is percent-escaped.
    path: String,
    /// The path's bytes, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// Whether the entry is a directory.
    is_dir: bool,
    /// The line that matches, with its context; absent for a match by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    lines: Vec<Line>,
}

/// A line of a file.
#[derive(Serialize, ToSchema)]
struct Line {
    /// Its number, from 1.
    line: u64,
    /// Its text; what is not UTF-8 is replaced by U+FFFD.
    text: String,
    /// The parts that match, as ranges of characters in `text`; absent for context.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    matches: Vec<[usize; 2]>,
}

impl From<SearchLine> for Line {
    fn from(line: SearchLine) -> Self {
        // How many characters begin before each byte: looked up, as there may be many spans.
        let mut before = Vec::with_capacity(line.text.len() + 1);
        let mut characters = 0;
        let mut one = |bytes: usize| {
            before.push(characters);
            characters += 1;
            before.extend(std::iter::repeat_n(characters, bytes - 1));
        };
        for chunk in line.text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| one(c.len_utf8()));
            if !chunk.invalid().is_empty() {
                one(chunk.invalid().len());
            }
        }
        let at = |byte: u32| before.get(byte as usize).copied().unwrap_or(characters);
        let spans = line.spans.iter();
        Self {
            line: line.number,
            matches: spans.map(|(start, end)| [at(*start), at(*end)]).collect(),
            text: String::from_utf8_lossy(&line.text).into_owned(),
        }
    }
}

/// What a search found.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Found {
    /// The matches.
    matches: Vec<Match>,
    /// Files that were looked into; 0 where the size of the reply ended the search.
    files_searched: u64,
    /// Whether there is more than the limit, or than fits into a reply: narrow it down, or ask for an
    /// event stream.
    truncated: bool,
    /// Files and directories that could not be read.
    unreadable: u64,
    /// Files that were not searched, or not to their end, and directories that could not be read, the first 100:
    /// there may be matches in them.
    skipped: Vec<Skipped>,
    /// How many such files there are.
    skipped_files: u64,
}

/// A file that was not searched, or not to its end.
#[derive(Serialize, ToSchema)]
pub(super) struct Skipped {
    /// Its path; one that is not UTF-8 is percent-escaped.
    path: String,
    /// The path's bytes, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// `binary` has a zero byte (name the file itself as `path` to search it all the same), `long_line` has a
    /// line of more than 8 MiB or, with a large pattern, of less, `unreadable` cannot be read.
    #[schema(example = "binary")]
    reason: &'static str,
}

impl From<SkippedFile> for Skipped {
    fn from(skipped: SkippedFile) -> Self {
        Self {
            path_base64: std::str::from_utf8(&skipped.path)
                .is_err()
                .then(|| to_base64(&skipped.path)),
            path: escaped(&skipped.path),
            reason: match skipped.reason {
                SkipReason::Unreadable => "unreadable",
                SkipReason::Binary => "binary",
                SkipReason::LongLine => "long_line",
                SkipReason::TooLarge => "too_large",
            },
        }
    }
}

/// An event of a search that is followed.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Match(Match),
    Done {
        files_searched: u64,
        matches: u64,
        truncated: bool,
        unreadable: u64,
        skipped: Vec<Skipped>,
        skipped_files: u64,
    },
}

impl From<SearchEvent> for Event {
    fn from(event: SearchEvent) -> Self {
        match event {
            SearchEvent::Match { path, kind, lines } => Self::Match(Match {
                path_base64: std::str::from_utf8(&path)
                    .is_err()
                    .then(|| to_base64(&path)),
                path: escaped(&path),
                is_dir: kind == FileKind::Directory,
                lines: lines.into_iter().map(Line::from).collect(),
            }),
            SearchEvent::Done {
                files_searched,
                matches,
                truncated,
                unreadable,
                skipped,
                skipped_files,
            } => Self::Done {
                files_searched,
                matches,
                truncated,
                unreadable,
                skipped: skipped.into_iter().map(Skipped::from).collect(),
                skipped_files,
            },
        }
    }
}

/// Search files of a workspace by name and content.
///
/// With `Accept: text/event-stream` matches come as they are found, one JSON object per `data:`
/// line: `{"type":"match",..}` repeatedly, then `{"type":"done",..}` or `{"type":"error",..}`.
#[utoipa::path(
    tag = "files",
    params(
        ("bot_id" = Uuid, Path, description = "The bot."),
        ("path" = String, Query, description = "Where to search: an absolute path, percent-encoded bytes."),
        SearchQuery
    ),
    responses(
        (status = 200, body = Found),
        (status = 400, description = "A pattern or glob that cannot be read."),
        (status = 403, description = "`permission_denied`: `user` may not read the place itself."),
        (status = 404, description = "`bot_not_found`, `workspace_not_found` or `path_not_found`."),
        (status = 409, description = "`workspace_not_running`."),
        (status = 422, description = "`no_such_user`."),
        (status = 503, description = "`workspace_unreachable` or `workspace_stalled`."),
    ),
)]
#[get("/bots/{bot_id}/container/fs/search")]
pub(super) async fn search(
    caller: Caller,
    id: IdOf<BotId>,
    request_id: RequestId,
    request: HttpRequest,
    path: QueryPath,
    mut query: QueryOf<SearchQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let user = query.0.user.take();
    let workspaces = &state.services.workspaces;
    let mut events = workspaces
        .search_files(by(&caller, user.as_deref()), id.0, &path.0, query.0.into())
        .await?;
    if wants_events(&request) {
        let steps = events.map(|event| match event {
            Ok(event @ SearchEvent::Done { .. }) => Step::Last(Event::from(event)),
            Ok(event) => Step::Event(Event::from(event)),
            Err(error) => Step::Failed(error.into()),
        });
        return Ok(sse::reply(&state, &caller, request_id, steps.boxed()));
    }
    let mut found = Found::default();
    let mut budget = Budget::new(state.config.max_reply_bytes);
    // The matches, and the reply that is made of them.
    let most = 2 * state.config.max_reply_bytes;
    let mut room = state.memory.room(Some(caller.user));
    while let Some(event) = events.next().await {
        match Event::from(event?) {
            Event::Match(one) if budget.take(&one) => {
                room.reserve(2 * budget.taken(), most).await?;
                found.matches.push(one);
            }
            Event::Match(_) => {
                // Leaving ends the search.
                found.truncated = true;
                break;
            }
            Event::Done {
                files_searched,
                truncated,
                unreadable,
                skipped,
                skipped_files,
                ..
            } => {
                found.files_searched = files_searched;
                found.truncated = truncated;
                found.unreadable = unreadable;
                found.skipped = skipped;
                found.skipped_files = skipped_files;
            }
        }
    }
    Ok(room.held_by(HttpResponse::Ok().json(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_split_at_the_commas_between_them() {
        for (globs, expected) in [
            ("", &[][..]),
            ("*.rs, src/**,", &["*.rs", "src/**"]),
            ("*.{js,ts},!{a,{b,c}}", &["*.{js,ts}", "!{a,{b,c}}"]),
            ("[,{]x,y", &["[,{]x", "y"]),
            (r"a\,b,c\{,d", &[r"a\,b", r"c\{", "d"]),
            ("{a,b", &["{a,b"]),
        ] {
            assert_eq!(split(globs), expected, "{globs}");
        }
    }

    #[test]
    fn spans_count_characters_of_the_text_that_is_shown() {
        let line = Line::from(SearchLine {
            number: 1,
            text: "\u{e4}\u{fc}x".as_bytes().to_vec(),
            spans: vec![(2, 5), (4, 99)],
        });
        assert_eq!(line.matches, [[1, 3], [2, 3]]);
        let line = Line::from(SearchLine {
            number: 1,
            text: b"a\xff\xfe\xe4\xb8x".to_vec(),
            spans: vec![(0, 1), (1, 3), (5, 6)],
        });
        assert_eq!(line.text.chars().count(), 5);
        assert_eq!(line.matches, [[0, 1], [1, 3], [4, 5]]);
    }
}
