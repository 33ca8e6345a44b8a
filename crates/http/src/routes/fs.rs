//! /bots/{bot_id}/container/fs: files of a running workspace.
//!
//! The shapes are fixed, because existing clients speak them.

mod change;
mod conditions;
mod download;
mod kinds;
mod look;
mod octal;
mod search;
mod upload;
mod watch;

use crate::auth::Caller;
use crate::paths::to_base64;
use actix_web::http::header::{CONTENT_DISPOSITION, HeaderValue};
use botstead_types::escaped;
use botstead_workspace::{FileActor, FileEntry, FileKind};
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(look::stat)
        .service(look::list)
        .service(look::read)
        .service(download::download)
        .service(download::download_head)
        .service(change::write)
        .service(change::mkdir)
        .service(change::rename)
        .service(change::copy)
        .service(change::chmod)
        .service(change::delete)
        .service(upload::upload)
        .service(search::search)
        .service(watch::watch);
}

/// The caller, with the user inside whose rights a request asks for.
fn by<'a>(caller: &'a Caller, user: Option<&'a str>) -> FileActor<'a> {
    FileActor {
        actor: &caller.actor,
        user: user.filter(|user| !user.is_empty()),
    }
}

/// A directory entry.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Its name. One that is not UTF-8 is percent-escaped.
    name: String,
    /// Its path. One that is not UTF-8 is percent-escaped, and fits into a query as it stands.
    path: String,
    /// The name's bytes, where they are not UTF-8.
    #[serde(rename = "name_base64", skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    /// The path's bytes, where they are not UTF-8.
    #[serde(rename = "path_base64", skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// Its size in bytes.
    size: u64,
    /// As `ls -l` shows it.
    #[schema(example = "-rw-r--r--")]
    mode: String,
    /// When its content changed last.
    mod_time: DateTime<Utc>,
    /// Whether it is a directory. A symlink is none.
    is_dir: bool,
    /// Whether it is a symlink.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    is_symlink: bool,
    /// What a symlink holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Whether a symlink leads to a directory.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    target_is_dir: bool,
    /// Its owner's number.
    uid: u32,
    /// Its group's number.
    gid: u32,
    /// A word that differs whenever a file was changed or replaced.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    revision: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl From<FileEntry> for Entry {
    fn from(entry: FileEntry) -> Self {
        let name = name_of(&entry.path);
        let coded = |bytes: &[u8]| {
            std::str::from_utf8(bytes)
                .is_err()
                .then(|| to_base64(bytes))
        };
        let is_symlink = entry.kind == FileKind::Symlink;
        Self {
            name: escaped(name),
            path: escaped(&entry.path),
            name_base64: coded(name),
            path_base64: coded(&entry.path),
            size: entry.size,
            mode: mode_string(entry.letter, entry.mode),
            mod_time: entry.modified,
            is_dir: entry.kind == FileKind::Directory,
            is_symlink,
            target: entry.target.as_deref().map(escaped),
            target_is_dir: is_symlink && entry.leads_to == FileKind::Directory,
            uid: entry.uid,
            gid: entry.gid,
            revision: entry.revision,
        }
    }
}

/// The last component of a path; `/` for the root.
fn name_of(path: &[u8]) -> &[u8] {
    match path.rsplit(|byte| *byte == b'/').next() {
        Some(b"") | None => b"/",
        Some(name) => name,
    }
}

/// Type and permissions as `ls -l` shows them (POSIX, "ls", long format).
fn mode_string(letter: char, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(letter);
    for (shift, special, with, without) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => with,
            (false, true) => without,
        });
    }
    text
}

/// The query of a call that has no other parameters but a path.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UserQuery {
    /// Done with the rights of this user, such as `user`, `uid` or `uid:gid`; those of root when absent.
    user: Option<String>,
}

/// What stands for itself in the value of an extended header parameter (RFC 8187, attr-char).
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Lets a browser save the reply under this name instead of showing it.
pub(super) fn attachment(name: &[u8]) -> (actix_web::http::header::HeaderName, HeaderValue) {
    let plain: String = String::from_utf8_lossy(name)
        .chars()
        .map(|c| match c {
            '"' | '\\' | '/' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        })
        .collect();
    let coded = percent_encode(name, ATTR_CHAR);
    let value = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{coded}");
    let value = HeaderValue::from_str(&value);
    (
        CONTENT_DISPOSITION,
        value.unwrap_or_else(|_| HeaderValue::from_static("attachment")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_ls_shows_them() {
        for (letter, mode, expected) in [
            ('-', 0o644, "-rw-r--r--"),
            ('d', 0o755, "drwxr-xr-x"),
            ('-', 0o4755, "-rwsr-xr-x"),
            ('-', 0o2644, "-rw-r-Sr--"),
            ('d', 0o1777, "drwxrwxrwt"),
            ('d', 0o1776, "drwxrwxrwT"),
            ('l', 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_string(letter, mode), expected);
        }
    }

    #[test]
    fn names_cannot_break_a_header() {
        let header = |name: &[u8]| attachment(name).1.to_str().unwrap().to_owned();
        assert_eq!(
            header(b"a \"b\"\r\nX: y"),
            "attachment; filename=\"a _b___X: y\"; filename*=UTF-8''a%20%22b%22%0D%0AX%3A%20y"
        );
        assert!(header("ä\u{0}".as_bytes()).ends_with("UTF-8''%C3%A4%00"));
    }

    #[test]
    fn names_are_the_last_component() {
        for (path, name) in [("/", "/"), ("/a", "a"), ("/a/b c", "b c")] {
            assert_eq!(name_of(path.as_bytes()), name.as_bytes());
        }
    }
}
