//! What handlers take from a request: ids in the path, the query, a JSON body. Every refusal is a
//! problem reply that names the field.

use crate::HttpConfig;
use crate::auth::Caller;
use crate::connections::{Connection, Who};
use crate::memory::Room;
use crate::plain::Plain;
use crate::problem::Problem;
use crate::state::SharedState;
use crate::words;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use botstead_types::{BotId, InvalidValue, OperationId, PageRequest, UserId};
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::future::{Ready, ready};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use utoipa::IntoParams;

/// An id that is a segment of the path.
pub(crate) trait PathId: FromStr<Err = InvalidValue> {
    /// The segment's name in the route.
    const SEGMENT: &'static str;
}

impl PathId for BotId {
    const SEGMENT: &'static str = "bot_id";
}

impl PathId for UserId {
    const SEGMENT: &'static str = "user_id";
}

impl PathId for OperationId {
    const SEGMENT: &'static str = "operation_id";
}

/// An id from the path; 400 when it has not the form of one.
#[derive(Debug)]
pub(crate) struct IdOf<T>(pub(crate) T);

impl<T: PathId> FromRequest for IdOf<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let text = request.match_info().get(T::SEGMENT).unwrap_or_default();
        ready(text.parse().map(Self).map_err(Problem::from))
    }
}

/// The query; 400 when it does not fit.
#[derive(Debug)]
pub(crate) struct QueryOf<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest for QueryOf<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(read_query(request.query_string()).map(Self))
    }
}

/// Reads a query; a refusal names the parameter.
fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let deserializer = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = words::plain(&error.into_inner().to_string());
        let given = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| *name == path);
        let detail = match (path.as_str(), given) {
            (".", _) => inner,
            // What the standard library says of numbers does not tell which.
            (name, Some((_, value))) if !tells(&inner, &value) => {
                let shown: String = value.chars().take(128).collect();
                format!("{name} {shown:?} is not valid: {inner}")
            }
            (name, _) => format!("{name}: {inner}"),
        };
        Problem::invalid("invalid_query", detail)
    })
}

/// Whether a message has the value that it is about.
fn tells(message: &str, value: &str) -> bool {
    message.contains(&format!("{value:?}")) || message.contains(&format!("`{value}`"))
}

/// A part of a list that can grow.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// At most this many items, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageQuery {
    /// How many items are asked for at most, where that is said.
    pub(crate) fn limit(&self) -> Result<Option<usize>, InvalidValue> {
        match self.limit {
            Some(limit) if !(1..=PageRequest::MAX_LIMIT).contains(&limit) => Err(
                InvalidValue::new("limit", &limit.to_string(), "must be from 1 to 100"),
            ),
            limit => Ok(limit.map(|limit| limit as usize)),
        }
    }

    /// The cursor of the page, where it is not the first.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref().filter(|cursor| !cursor.is_empty())
    }
}

impl TryFrom<PageQuery> for PageRequest {
    type Error = Problem;

    fn try_from(query: PageQuery) -> Result<Self, Problem> {
        query.limit()?;
        Ok(Self {
            limit: query.limit.unwrap_or(Self::MAX_LIMIT),
            cursor: query.cursor.filter(|cursor| !cursor.is_empty()),
        })
    }
}

/// A flag in a query: `true` or `false`, `1` or `0`, or the bare name for true.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is not a flag: true or false is expected"
        ))),
    }
}

/// A field that may be absent, `null` or a value, for partial updates: `None`, `Some(None)` and
/// `Some(Some(_))`. Use with `#[serde(default, deserialize_with = ...)]`.
pub(crate) fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            match read_and_hold(&request, payload).await? {
                Some(body) => Ok(Self(body)),
                None => Err(Problem::invalid("invalid_body", NO_BODY)),
            }
        })
    }
}

/// A sign-in: a JSON body of a few words, from somebody who is not known yet.
#[derive(Debug)]
pub(crate) struct SmallBody<T>(pub(crate) T);

/// The longest password as JSON, with every character escaped, has 3 KiB.
const SMALL_BODY_BYTES: usize = 8 << 10;
/// How long it may take.
const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(5);

impl<T: DeserializeOwned + 'static> FromRequest for SmallBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let limit = |config: &HttpConfig| config.max_json_bytes.min(SMALL_BODY_BYTES);
            let body = tokio::time::timeout(SMALL_BODY_TIMEOUT, read(&request, payload, limit));
            let body = body
                .await
                .map_err(|_| Problem::from_status(StatusCode::REQUEST_TIMEOUT))?;
            match body? {
                Some((body, _)) => {
                    if let Some(connection) = request.conn_data::<Arc<Connection>>() {
                        connection.introduced(Who::SigningIn);
                    }
                    Ok(Self(body))
                }
                None => Err(Problem::invalid("invalid_body", NO_BODY)),
            }
        })
    }
}

/// A JSON body that carries the text of a file, for a bot that its sender may write to, and the memory that
/// it has: whoever goes on with the text keeps both.
pub(crate) struct LargeBody<T>(pub(crate) T, pub(crate) Room);

impl<T: DeserializeOwned + 'static> FromRequest for LargeBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            // Base64 takes four bytes for three.
            let limit = |config: &HttpConfig| {
                config.max_json_bytes + config.max_text_bytes.div_ceil(3).saturating_mul(4)
            };
            let caller = Caller::extract(&request).await?;
            let bot = IdOf::<BotId>::extract(&request).await?;
            let state = state(&request)?;
            let workspaces = &state.services.workspaces;
            workspaces.before_write(&caller.actor, bot.0).await?;
            match read(&request, payload, limit).await? {
                Some((body, room)) => Ok(Self(body, room)),
                None => Err(Problem::invalid("invalid_body", NO_BODY)),
            }
        })
    }
}

const NO_BODY: &str = "this request needs a JSON body";

/// A JSON body that may be absent, which means an empty object.
#[derive(Debug)]
pub(crate) struct BodyOrDefault<T>(pub(crate) T);

impl<T: DeserializeOwned + Default + 'static> FromRequest for BodyOrDefault<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let body = read_and_hold(&request, payload).await?;
            Ok(Self(body.unwrap_or_default()))
        })
    }
}

fn state(request: &HttpRequest) -> Result<&SharedState, Problem> {
    let state = request.app_data::<web::Data<SharedState>>();
    let state = state.ok_or_else(|| Problem::internal("the server has no state"))?;
    Ok(state.get_ref())
}

/// Reads a JSON body, once its sender may know of the bot that it is for. Its memory is given back when the
/// request is answered.
async fn read_and_hold<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
) -> Result<Option<T>, Problem> {
    let caller = request.extensions().get::<Caller>().cloned();
    let bot = request.match_info().get(BotId::SEGMENT);
    if let (Some(caller), Some(Ok(bot))) = (caller, bot.map(str::parse)) {
        let workspaces = &state(request)?.services.workspaces;
        workspaces.before_body(&caller.actor, bot).await?;
    }
    let read = read(request, payload, |config| config.max_json_bytes).await?;
    Ok(read.map(|(body, room)| {
        request.extensions_mut().insert(room);
        body
    }))
}

/// Reads a JSON body: `None` when there are no bytes. The memory is that of its bytes and of what is made
/// of them, which can be thirty times as much and is counted before it is made.
async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    limit: impl FnOnce(&HttpConfig) -> usize,
) -> Result<Option<(T, Room)>, Problem> {
    let state = state(request)?;
    let limit = limit(&state.config);
    let user = request.extensions().get::<Caller>().map(|it| it.user);
    let mut room = state.memory.room(user);
    let announced = content_length(request);
    let collected = tokio::time::timeout(
        state.config.body_timeout,
        collect(payload, announced, limit, &mut room),
    );
    let bytes = collected
        .await
        .map_err(|_| Problem::from_status(StatusCode::REQUEST_TIMEOUT))??;
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(request) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must have the header Content-Type: application/json",
        ));
    }
    let size = 2 * bytes.len() + values_size(&bytes);
    room.reserve(size, size).await?;
    let body = parse(&bytes)?;
    room.keep(size);
    Ok(Some((body, room)))
}

/// Whether the client asks for an event stream.
pub(crate) fn wants_events(request: &HttpRequest) -> bool {
    let mut accepts = request.headers().get_all(header::ACCEPT);
    accepts.any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.to_ascii_lowercase().contains("text/event-stream"))
    })
}

pub(crate) fn content_length(request: &HttpRequest) -> Option<u64> {
    let value = request.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

async fn collect(
    mut payload: Payload,
    announced: Option<u64>,
    limit: usize,
    room: &mut Room,
) -> Result<BytesMut, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is larger than {limit} bytes"),
        )
    };
    if announced.is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    let announced = announced.and_then(|it| usize::try_from(it).ok());
    let most = 2 * announced.unwrap_or(limit);
    let mut bytes = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| {
            Problem::invalid("invalid_body", "the body could not be read").caused_by(error)
        })?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        room.reserve(2 * (bytes.len() + chunk.len()), most).await?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn is_json(request: &HttpRequest) -> bool {
    let kind = request.content_type();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
        || kind
            .rsplit_once('+')
            .is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json"))
}

/// The most bytes that the values of a JSON text take beside their characters: one of them in a list or map,
/// the smallest list with anything in it, the smallest map.
fn values_size(text: &[u8]) -> usize {
    const VALUE: usize = 64;
    const LIST: usize = 192;
    const MAP: usize = 640;
    let (mut size, mut quoted, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' | b':' if !quoted => size += VALUE,
            b'[' if !quoted => size += LIST,
            b'{' if !quoted => size += MAP,
            _ => {}
        }
    }
    size
}

/// Parses JSON; a refusal names the field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would do for an object whose fields it has in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        let detail = "the body is not right: a JSON object is expected";
        return Err(Problem::invalid("invalid_body", detail));
    }
    let _: Plain = parse_as(bytes)?;
    parse_as(bytes)
}

fn parse_as<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let said = words::plain(&inner.to_string());
        if matches!(inner.classify(), serde_json::error::Category::Data) && path != "." {
            Problem::invalid("invalid_body", format!("{path}: {said}"))
        } else {
            Problem::invalid("invalid_body", format!("the body is not right: {said}"))
        }
    })?;
    deserializer.end().map_err(|error| {
        Problem::invalid("invalid_body", format!("the body is not right: {error}"))
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        count: u8,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        inner: Inner,
        #[serde(default, deserialize_with = "nullable")]
        name: Option<Option<String>>,
    }

    #[test]
    fn a_refused_body_names_the_field() {
        for (body, expected) in [
            (
                r#"{"inner":{"count":"x"}}"#,
                "inner.count: invalid type: string \"x\", expected a whole number from 0 to 255",
            ),
            (
                r#"{"inner":7}"#,
                "inner: invalid type: integer `7`, expected an object",
            ),
            (
                r#"{"inner":{"count":1,"more":2}}"#,
                "inner.more: unknown field `more`",
            ),
            (r#"{"inner":{}}"#, "missing field `count`"),
            (r#"{}"#, "missing field `inner`"),
            (r#"{"inner":"#, "EOF"),
            (r#"{"inner":{"count":1}} x"#, "trailing characters"),
            ("[{\"count\":1}]", "a JSON object is expected"),
            ("null", "a JSON object is expected"),
        ] {
            let problem = parse::<Outer>(body.as_bytes()).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.code()),
                (400, "invalid_body")
            );
            assert!(problem.detail().contains(expected), "{body}: {problem}");
        }
    }

    #[test]
    fn what_becomes_of_json_counts_and_characters_in_strings_do_not() {
        for (text, expected) in [
            (r#""a,b:[{""#, 0),
            (r#""a\",[\\""#, 0),
            (r#""\\",1"#, 64),
            ("[1,1,1]", 192 + 2 * 64),
            (r#"{"a":{"b":"c"}}"#, 2 * (640 + 64)),
        ] {
            assert_eq!(values_size(text.as_bytes()), expected, "{text}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Merge,
    }

    #[derive(Debug, Deserialize)]
    struct Few {
        limit: Option<u32>,
        mode: Option<Mode>,
    }

    #[test]
    fn a_refused_query_names_the_parameter() {
        let read = |query| read_query::<Few>(query);
        let fine = read("limit=7&mode=merge").unwrap();
        assert!(matches!(
            (fine.limit, fine.mode),
            (Some(7), Some(Mode::Merge))
        ));
        for (query, expected) in [
            (
                "limit=x",
                "limit \"x\" is not valid: a whole number is expected",
            ),
            (
                "limit=",
                "limit \"\" is not valid: a whole number is expected",
            ),
            (
                "limit=-1",
                "limit \"-1\" is not valid: a whole number is expected",
            ),
            (
                "limit=99999999999",
                "limit \"99999999999\" is not valid: the number is too large",
            ),
            ("mode=x", "mode: unknown variant `x`, expected `merge`"),
            ("limit=1&limit=2", "duplicate field `limit`"),
        ] {
            let problem = read(query).unwrap_err();
            assert_eq!(problem.code(), "invalid_query");
            assert_eq!(problem.detail(), expected, "{query}");
        }
    }

    #[test]
    fn absent_null_and_a_value_differ() {
        for (body, expected) in [
            (r#"{"inner":{"count":1}}"#, None),
            (r#"{"inner":{"count":1},"name":null}"#, Some(None)),
            (
                r#"{"inner":{"count":1},"name":"n"}"#,
                Some(Some("n".to_owned())),
            ),
        ] {
            assert_eq!(parse::<Outer>(body.as_bytes()).unwrap().name, expected);
        }
    }

    #[test]
    fn pages_have_one_to_a_hundred_items() {
        let page = |limit| {
            PageRequest::try_from(PageQuery {
                limit,
                cursor: Some(String::new()),
            })
        };
        assert_eq!(page(None).unwrap(), PageRequest::default());
        assert_eq!(page(Some(1)).unwrap().limit, 1);
        for bad in [0, 101] {
            assert_eq!(page(Some(bad)).unwrap_err().status(), 400);
        }
    }

    #[test]
    fn flags_have_the_usual_spellings() {
        #[derive(Deserialize)]
        struct Flags {
            #[serde(default, deserialize_with = "flag")]
            on: bool,
        }
        for (query, expected) in [
            ("on=true", Some(true)),
            ("on=1", Some(true)),
            ("on", Some(true)),
            ("on=false", Some(false)),
            ("on=0", Some(false)),
            ("", Some(false)),
            ("on=maybe", None),
        ] {
            let flags = serde_urlencoded::from_str::<Flags>(query).ok();
            assert_eq!(flags.map(|flags| flags.on), expected, "{query}");
        }
    }
}
