//! Who calls: credentials in a request, and the caller that they prove.
//!
//! [`require`] surrounds every route but those that are registered as public (`routes::configure`):
//! routing itself decides which it is, so that no spelling of a path gets around it. What the caller
//! may do is decided by the services, beside each effect.

use crate::client_address;
use crate::connections::{Connection, Reading, Who};
use crate::memory::Room;
use crate::paths;
use crate::problem::Problem;
use crate::sessions::Serving;
use crate::state::SharedState;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, ResponseError, web};
use botstead_accounts::Session;
use botstead_authz::Actor;
use botstead_types::UserId;
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::sync::CancellationToken;

/// The routes that stream a file to a browser, which cannot send a header there: they take a
/// ticket.
const DOWNLOADS: &[&str] = &["/bots/{bot_id}/container/fs/download"];

/// What a query may have to prove the caller. It is no parameter of any route.
pub(crate) const IN_QUERY: [&str; 2] = ["ticket", "token"];

/// The user who sent the request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Who asks, for the services.
    pub(crate) actor: Actor,
    /// Their id, for the log.
    pub(crate) user: UserId,
    /// Cancelled when their session ends while the request is served.
    pub(crate) ended: CancellationToken,
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = request.extensions().get::<Self>().cloned();
        // Only a route that is public and asks for a caller gets here.
        ready(caller.ok_or_else(|| Problem::internal("the route asks for a caller and is public")))
    }
}

/// What proves who calls. A secret: it has no `Debug`.
#[derive(PartialEq, Eq)]
enum Credential {
    Token(String),
    Ticket(String),
}

/// Lets a request through when it proves who sends it, before anything else of it is looked at, and
/// ends it when that does not hold any more.
pub(crate) async fn require(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(state) = request.app_data::<web::Data<SharedState>>().cloned() else {
        let problem = Problem::internal("the server has no state");
        return Ok(request.into_response(problem.error_response()));
    };
    let session = match identify(request.request(), &state).await {
        Ok(session) => session,
        Err(problem) => return Ok(request.into_response(problem.error_response())),
    };
    let (actor, user) = (session.actor(), session.user.id);
    tracing::Span::current().record("user", tracing::field::display(user));
    let connection = request.conn_data::<Arc<Connection>>();
    if let Some(connection) = connection {
        connection.introduced(Who::User(user));
    }
    let (serving, ended) = state.sessions.serve(session, connection);
    let caller = Caller { actor, user, ended };
    request.extensions_mut().insert(caller);
    let (request, mut reply) = next.call(request).await?.into_parts();
    let room = reply.extensions_mut().remove::<Room>();
    let mut room = room.unwrap_or_else(|| state.memory.room(Some(user)));
    let reply = room.count(reply, request.method().is_safe()).await;
    let connection = request.conn_data::<Arc<Connection>>();
    let reading = room
        .reading_time(&state.config)
        .zip(connection)
        .map(|(time, connection)| connection.reading(time));
    let reply = ServiceResponse::new(request, reply);
    Ok(reply.map_body(|_, body| {
        BoxBody::new(ServedBody {
            body,
            _serving: serving,
            _room: room,
            _reading: reading,
        })
    }))
}

/// Who sent a request to a public route, where that is of use: a credential that proves nothing is
/// none.
pub(crate) async fn if_any(request: &HttpRequest, state: &SharedState) -> Option<Actor> {
    let session = identify(request, state).await.ok()?;
    Some(session.actor())
}

/// A token that came with a request to a public route, whatever it proves.
pub(crate) fn token_of(request: &HttpRequest) -> Option<String> {
    match credential(request.headers(), "", request.method(), "") {
        Ok(Credential::Token(token)) => Some(token),
        Ok(Credential::Ticket(_)) | Err(_) => None,
    }
}

async fn identify(request: &HttpRequest, state: &SharedState) -> Result<Session, Problem> {
    // Where the path is spelt in another way than the route, there is none: then no query counts.
    let route = request.match_pattern().unwrap_or_default();
    let credential = credential(
        request.headers(),
        request.query_string(),
        request.method(),
        &route,
    )?;
    let accounts = &state.services.accounts;
    let session = match credential {
        Credential::Token(token) => accounts.authenticate(&token).await,
        Credential::Ticket(ticket) => {
            let target = target_of(request, &route);
            accounts
                .redeem_ticket(&ticket, request.method().as_str(), &target)
                .await
        }
    }?;
    accounts.seen(&session, client_address::of(request, &state.config));
    Ok(session)
}

/// What a ticket for this request was issued for: of a download, which has what it gives in its query, that
/// as well.
fn target_of(request: &HttpRequest, route: &str) -> String {
    match DOWNLOADS.contains(&route) {
        true => target(request.path(), request.query_string()),
        false => request.path().to_owned(),
    }
}

/// A path with its query in one spelling of many, without what proves the caller.
pub(crate) fn target(path: &str, query: &str) -> String {
    let decoded = |text: &str| percent_encode(&paths::decoded(text), NON_ALPHANUMERIC).to_string();
    let mut pairs: Vec<String> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| !name.is_empty() && !IN_QUERY.contains(name))
        .map(|(name, value)| format!("{}={}", decoded(name), decoded(value)))
        .collect();
    pairs.sort();
    match pairs.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", pairs.join("&")),
    }
}

/// A reply's body, while which is sent the request is under way.
struct ServedBody {
    body: BoxBody,
    _serving: Serving,
    _room: Room,
    _reading: Option<Reading>,
}

impl MessageBody for ServedBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}

fn credential(
    headers: &HeaderMap,
    query: &str,
    method: &Method,
    route: &str,
) -> Result<Credential, Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.trim().split_once(' ')?;
            let token = token.trim();
            (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
        });
        return match token {
            Some(token) => Ok(Credential::Token(token.to_owned())),
            None => Err(Problem::unauthenticated(
                "the Authorization header is not of the form: Bearer <token>",
            )),
        };
    }
    if let Some(value) = headers.get("x-api-key") {
        return match value.to_str().map(str::trim) {
            Ok(token) if !token.is_empty() => Ok(Credential::Token(token.to_owned())),
            _ => Err(Problem::unauthenticated("the X-API-Key header is empty")),
        };
    }
    let upgrade = is_websocket_upgrade(headers, method);
    let ticket_allowed = upgrade || (method == Method::GET && DOWNLOADS.contains(&route));
    let mut elsewhere = false;
    // A query that cannot be read has no credential in it.
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
    for (name, value) in pairs {
        match name.as_str() {
            "ticket" if ticket_allowed => return Ok(Credential::Ticket(value)),
            "token" if upgrade => return Ok(Credential::Token(value)),
            "ticket" | "token" => elsewhere = true,
            _ => {}
        }
    }
    Err(Problem::unauthenticated(if elsewhere {
        "this request takes no token or ticket in its query; send the header Authorization: \
         Bearer <token>"
    } else {
        "send the header Authorization: Bearer <token>; POST /auth/login gives a token"
    }))
}

/// RFC 6455, section 4.1: a GET with `Connection: Upgrade` and `Upgrade: websocket`.
fn is_websocket_upgrade(headers: &HeaderMap, method: &Method) -> bool {
    let has = |name, word: &str| {
        headers.get_all(name).any(|value| {
            value.to_str().is_ok_and(|value| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(word))
            })
        })
    };
    method == Method::GET && has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    const DOWNLOAD: &str = DOWNLOADS[0];

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn found(
        pairs: &[(&'static str, &'static str)],
        query: &str,
        method: Method,
        route: &str,
    ) -> Option<String> {
        match credential(&headers(pairs), query, &method, route) {
            Ok(Credential::Token(token)) => Some(format!("token {token}")),
            Ok(Credential::Ticket(ticket)) => Some(format!("ticket {ticket}")),
            Err(problem) => {
                assert_eq!(problem.status(), 401);
                assert!(!problem.detail().contains("s3cret"), "{problem}");
                None
            }
        }
    }

    #[test]
    fn a_target_is_the_same_in_every_spelling_and_no_other() {
        let same = target("/x", "path=%2Fa%20b&y=1");
        for query in [
            "y=1&path=/a+b",
            "path=/a%20b&ticket=t&y=%31",
            "token=t&path=/a+b&y=1",
        ] {
            assert_eq!(target("/x", query), same, "{query}");
        }
        for query in [
            "path=/a+b",
            "path=/a+c&y=1",
            "path=/a+b&y=1&z",
            "path=/a%FFb&y=1",
        ] {
            assert_ne!(target("/x", query), same, "{query}");
        }
        assert_ne!(target("/x", "path=/a%FE"), target("/x", "path=/a%FF"));
        assert_eq!(target("/x", "ticket=t"), "/x");
    }

    #[test]
    fn a_header_proves_the_caller() {
        for (pairs, expected) in [
            (vec![("authorization", "Bearer abc")], Some("token abc")),
            (vec![("authorization", "bearer  abc ")], Some("token abc")),
            (vec![("x-api-key", "abc")], Some("token abc")),
            (
                vec![("authorization", "Bearer a"), ("x-api-key", "b")],
                Some("token a"),
            ),
            (vec![("authorization", "Bearer ")], None),
            (vec![("authorization", "Basic s3cret")], None),
            (vec![("x-api-key", " ")], None),
            (vec![], None),
        ] {
            assert_eq!(
                found(&pairs, "", Method::GET, "/bots").as_deref(),
                expected,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn a_query_proves_the_caller_only_where_a_browser_can_send_no_header() {
        let upgrade = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        for (pairs, query, method, route, expected) in [
            (
                &upgrade[..],
                "token=s3cret",
                Method::GET,
                "/x",
                Some("token s3cret"),
            ),
            (
                &upgrade[..],
                "ticket=s3cret",
                Method::GET,
                "/x",
                Some("ticket s3cret"),
            ),
            (&upgrade[..], "token=s3cret", Method::POST, "/x", None),
            (&upgrade[1..], "token=s3cret", Method::GET, "/x", None),
            (&[][..], "token=s3cret", Method::GET, DOWNLOAD, None),
            (
                &[][..],
                "ticket=s3cret",
                Method::GET,
                DOWNLOAD,
                Some("ticket s3cret"),
            ),
            (&[][..], "ticket=s3cret", Method::POST, DOWNLOAD, None),
            (&[][..], "ticket=s3cret", Method::GET, "/bots", None),
        ] {
            assert_eq!(
                found(pairs, query, method.clone(), route).as_deref(),
                expected,
                "{pairs:?} {query} {method} {route}"
            );
        }
    }
}
