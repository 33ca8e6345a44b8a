//! Paths inside a workspace as requests name them: any bytes.
//!
//! In a query, `path` is percent-encoded bytes, so that every name can be given; `path_base64` is the
//! same for clients that can only send text. In a body, `path` is text and `path_base64` bytes.

use crate::problem::Problem;
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use botstead_types::{FilePath, InvalidValue};
use percent_encoding::percent_decode;
use std::future::{Ready, ready};

/// The parameter of a query that names a path.
pub(crate) const PLAIN: &str = "path";
/// The same in base64.
pub(crate) const CODED: &str = "path_base64";

/// The path that a query names.
#[derive(Debug)]
pub(crate) struct QueryPath(pub(crate) FilePath);

impl FromRequest for QueryPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(in_query(request.query_string()).map(Self))
    }
}

fn in_query(query: &str) -> Result<FilePath, Problem> {
    let pairs = query.split('&');
    let mut named = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| [PLAIN, CODED].contains(key));
    match (named.next(), named.next()) {
        (None, _) => Err(InvalidValue::new("path", "", "the query needs `path`").into()),
        (Some((CODED, value)), None) => from_base64(PLAIN, &decoded(value)),
        (Some((_, value)), None) => Ok(FilePath::new(decoded(value))?),
        (Some(_), Some(_)) => Err(Problem::invalid("invalid_query", both(PLAIN))),
    }
}

fn both(name: &str) -> String {
    format!("give `{name}` or `{name}_base64`, and only once")
}

/// application/x-www-form-urlencoded, where a plus is a space (URL standard, section 5.1).
pub(crate) fn decoded(value: &str) -> Vec<u8> {
    let value = value.replace('+', " ");
    percent_decode(value.as_bytes()).collect()
}

/// The path that a body gives as text, or as base64.
pub(crate) fn in_body(
    name: &'static str,
    text: Option<String>,
    base64: Option<&str>,
) -> Result<FilePath, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Problem::invalid("invalid_body", both(name))),
        (None, Some(base64)) => from_base64(name, base64.as_bytes()),
        (Some(text), None) => named(name, text),
        (None, None) => Err(Problem::invalid(
            "invalid_body",
            format!("missing field `{name}`"),
        )),
    }
}

/// A path, whose refusal names the field that it came in.
fn named(name: &'static str, bytes: impl Into<Vec<u8>>) -> Result<FilePath, Problem> {
    FilePath::new(bytes).map_err(|refused| {
        InvalidValue {
            what: name,
            ..refused
        }
        .into()
    })
}

fn from_base64(name: &'static str, base64: &[u8]) -> Result<FilePath, Problem> {
    // A plus in a query that was not percent-encoded arrives as a space.
    let base64: Vec<u8> = base64
        .iter()
        .map(|byte| if *byte == b' ' { b'+' } else { *byte })
        .collect();
    let bytes = STANDARD.decode(&base64).map_err(|_| {
        let shown = String::from_utf8_lossy(&base64);
        InvalidValue::new(name, &shown, format!("`{name}_base64` must be base64"))
    })?;
    named(name, bytes)
}

/// Bytes as base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_any_bytes() {
        for (query, expected) in [
            ("path=/data", &b"/data"[..]),
            ("x=1&path=%2Fdata%2Fa+b%2B&y", b"/data/a b+"),
            ("path=/bad%FF%0A", b"/bad\xff\n"),
            ("path_base64=L2JhZP8=", b"/bad\xff"),
        ] {
            let path = in_query(query).unwrap();
            assert_eq!(path.as_bytes(), expected, "{query}");
        }
        for bad in [
            "",
            "path=",
            "path=data",
            "path=/a%00",
            "path_base64=!",
            "other=/x",
            "path=/a&path_base64=L2E=",
            "path=/a&path=/b",
        ] {
            let problem = in_query(bad).unwrap_err();
            assert_eq!(problem.status(), 400, "{bad}");
        }
    }

    #[test]
    fn a_body_gives_text_or_base64() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(in_body("path", text("/ä"), None).unwrap().to_string(), "/ä");
        let bytes = in_body("path", None, Some("L2JhZP8=")).unwrap();
        assert_eq!(bytes.as_bytes(), b"/bad\xff");
        assert!(in_body("path", None, None).is_err());
        assert!(in_body("path", text("relative"), None).is_err());
        assert!(in_body("path", text("/a"), Some("L2E=")).is_err());
    }
}
