//! What surrounds every request: its id, its span, its problem reply, its line in the access log
//! and its figures; and what of its reply depends on the version of HTTP.

use crate::auth::Caller;
use crate::client_address;
use crate::connections::{Connection, UnderWay};
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError, web};
use bytes::Bytes;
use futures_util::FutureExt;
use std::any::Any;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::{Instrument, Span};
use uuid::Uuid;

/// The header with the request's id.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: in its reply, in every line that the log has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    /// The caller's id where it has a harmless form, else a new one.
    fn of(given: Option<&HeaderValue>) -> Self {
        let valid = given.and_then(|value| value.to_str().ok()).filter(|id| {
            (1..=128).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        });
        Self(valid.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned))
    }
}

impl FromRequest for RequestId {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.extensions().get::<Self>().cloned();
        ready(Ok(id.unwrap_or_else(|| Self::of(None))))
    }
}

/// The outermost layer around every route.
pub(crate) async fn surround(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let id = RequestId::of(request.headers().get(X_REQUEST_ID));
    let route = request
        .match_pattern()
        .unwrap_or_else(|| "unmatched".to_owned());
    let span = tracing::info_span!(
        "request",
        request_id = %id.0,
        method = %request.method(),
        route,
        user = tracing::field::Empty,
    );
    let shared = request.app_data::<web::Data<SharedState>>().cloned();
    let connection = request.conn_data::<Arc<Connection>>();
    let client = shared
        .as_ref()
        .and_then(|state| client_address::of(request.request(), &state.config));
    let begun = match connection.map(|connection| connection.begin(client)) {
        None => Begun::Unwatched,
        Some(Some(under_way)) => Begun::Counted(under_way),
        Some(None) => Begun::Crowded,
    };
    let crowded = matches!(begun, Begun::Crowded);
    let mut line = AccessLine {
        id: id.clone(),
        method: request.method().clone(),
        route,
        user: None,
        status: None,
        begun: Instant::now(),
        finished: false,
        _request: begun,
        state: shared,
    };
    request.extensions_mut().insert(id.clone());
    let mut reply = match crowded {
        true => request.into_response(too_many_requests().error_response()),
        false => {
            // The request itself must not be held: routing needs it alone.
            let path = request.path().to_owned();
            let called = AssertUnwindSafe(next.call(request).instrument(span.clone()));
            match called.catch_unwind().await {
                Ok(reply) => reply?,
                Err(panic) => {
                    let problem = Problem::internal(words_of(&*panic));
                    span.in_scope(|| problem.log());
                    let mut rendered = problem.render(&id.0, &path);
                    add_headers(&mut rendered, &id);
                    line.status = Some(rendered.status());
                    line.finished = true;
                    return Err(InternalError::from_response(problem, rendered).into());
                }
            }
        }
    };

    // Routing knows better than the path, which may be spelt in other ways.
    if let Some(route) = reply.request().match_pattern() {
        line.route = route;
    }
    line.user = reply
        .request()
        .extensions()
        .get::<Caller>()
        .map(|caller| caller.user);
    let problem = reply.response_mut().extensions_mut().remove::<Problem>();
    let status = reply.status();
    if problem.is_some() || is_bare_failure(reply.response()) {
        let problem = problem.unwrap_or_else(|| Problem::from_status(status));
        span.in_scope(|| problem.log());
        let rendered = problem.render(&id.0, reply.request().path());
        reply = reply.into_response(rendered);
    }
    line.status = Some(reply.status());
    add_headers(reply.response_mut(), &id);
    if reply.request().version() < Version::HTTP_11 {
        send_no_chunks(reply.response_mut());
    }
    Ok(reply.map_body(|_, body| {
        line.finished = matches!(body.size(), BodySize::None | BodySize::Sized(0));
        BoxBody::new(SurroundedBody { body, span, line })
    }))
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a handler panicked: {}", said.unwrap_or("without words"))
}

/// What became of a request at the count of those under way.
enum Begun {
    /// Its connection is none of those that are watched.
    Unwatched,
    /// It counts until this is dropped.
    Counted(#[expect(dead_code, reason = "held")] UnderWay),
    /// As many of its client are under way as there may be.
    Crowded,
}

fn too_many_requests() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_requests",
        "too many requests from your network are under way; try again when some of them ended",
    )
}

/// Whether the framework refused the request in its own words.
fn is_bare_failure(reply: &HttpResponse) -> bool {
    let status = reply.status();
    (status.is_client_error() || status.is_server_error())
        && reply
            .headers()
            .get(header::CONTENT_TYPE)
            .is_none_or(|kind| kind.as_bytes() != crate::problem::CONTENT_TYPE.as_bytes())
}

/// Lets the end of the connection be that of a body whose length is not known: HTTP/1.0 has no chunks (RFC
/// 9112, 7.1).
fn send_no_chunks(reply: &mut HttpResponse) {
    if reply.body().size() == BodySize::Stream {
        let head = reply.head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
}

fn add_headers(reply: &mut HttpResponse, id: &RequestId) {
    let headers = reply.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        // Replies hold tokens and live state.
        (header::CACHE_CONTROL, "no-store"),
    ] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// One line of the access log, written when the reply is through or its client left.
struct AccessLine {
    id: RequestId,
    method: Method,
    route: String,
    user: Option<botstead_types::UserId>,
    status: Option<StatusCode>,
    begun: Instant,
    finished: bool,
    /// The connection is idle again when the line is written.
    _request: Begun,
    state: Option<web::Data<SharedState>>,
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        // 499 as other servers log it: the client left before there was a reply.
        let status = self.status.map_or(499, |status| status.as_u16());
        if let Some(state) = &self.state {
            state
                .monitoring
                .observe(&self.method, &self.route, status, took);
        }
        tracing::info!(
            target: "botstead_http::access",
            parent: None,
            request_id = self.id.0,
            method = %self.method,
            route = self.route,
            status,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            user = self.user.map(tracing::field::display),
            client_left = !self.finished,
            "request"
        );
    }
}

/// A reply's body, sent within the request's span.
struct SurroundedBody {
    body: BoxBody,
    span: Span,
    line: AccessLine,
}

impl MessageBody for SurroundedBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        let chunk = Pin::new(&mut this.body).poll_next(cx);
        match &chunk {
            Poll::Ready(None) => this.line.finished = true,
            // The framework does not ask again once it has what a sized body announced.
            Poll::Ready(Some(Ok(_))) if matches!(this.body.size(), BodySize::Sized(_)) => {
                this.line.finished = true;
            }
            _ => {}
        }
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn a_panic_of_a_handler_is_a_reply() {
        async fn broken() -> HttpResponse {
            panic!("secret words")
        }
        let app = actix_web::App::new()
            .wrap(actix_web::middleware::from_fn(surround))
            .route("/broken", web::get().to(broken));
        let app = actix_web::test::init_service(app).await;
        let request = actix_web::test::TestRequest::get().uri("/broken");
        let request = request.insert_header(("X-Request-Id", "r1")).to_request();
        let failed = actix_web::test::try_call_service(&app, request).await;
        let reply = failed.unwrap_err().error_response();
        assert_eq!(reply.status(), 500);
        assert_eq!(reply.headers().get("x-request-id").unwrap(), "r1");
        let body = actix_web::body::to_bytes(reply.into_body()).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["code"], &body["request_id"]),
            (&"internal".into(), &"r1".into())
        );
        assert!(!body.to_string().contains("secret"), "{body}");
    }

    #[test]
    fn a_harmless_id_of_the_caller_is_kept() {
        for id in ["a", "A-b_c.9", &"x".repeat(128)] {
            let value = HeaderValue::from_str(id).unwrap();
            assert_eq!(RequestId::of(Some(&value)).0, id);
        }
    }

    #[test]
    fn any_other_id_is_replaced_by_a_new_one() {
        let long = "x".repeat(129);
        for id in ["", "a b", "a\"b", "a/b", "é", &long] {
            let value = HeaderValue::from_str(id).unwrap();
            let new = RequestId::of(Some(&value)).0;
            assert!(Uuid::try_parse(&new).is_ok(), "{id:?} gave {new:?}");
        }
        assert_ne!(RequestId::of(None), RequestId::of(None));
    }
}
