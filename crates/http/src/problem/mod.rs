//! Problem replies (RFC 9457): the one form in which every failure reaches a client.
//!
//! A handler fails with a [`Problem`]; the request context fills in what only it knows, the
//! request's id and path. Which failure has which status is in [`mapping`].

mod mapping;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;
use std::fmt;
use std::time::Duration;
use utoipa::ToSchema;

/// How long clients are asked to wait where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The media type of a problem reply.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// The text for whoever cannot do anything about a failure of the server's own.
const INTERNAL: &str = "the server failed; its log has the cause under this request id";

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    /// Apart, so that a `Result` with a problem stays small.
    rare: Box<Rare>,
}

/// What few problems have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rare {
    allow: Option<String>,
    size: Option<u64>,
    unavailable: Vec<&'static str>,
    cause: Option<String>,
}

impl Problem {
    /// A failure with a stable code and words for the client.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let retry = matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        );
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: retry.then_some(RETRY_AFTER),
            rare: Box::default(),
        }
    }

    /// A malformed request.
    pub(crate) fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A caller who did not prove who they are.
    pub(crate) fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// A failure of the server's own: the cause is for the log only.
    pub(crate) fn internal(cause: impl fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", INTERNAL).caused_by(cause)
    }

    /// What a bare status of the framework means, where nothing more is known.
    pub(crate) fn from_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::BAD_REQUEST => ("invalid_request", "the request is malformed"),
            StatusCode::UNAUTHORIZED => ("unauthenticated", "sign in first"),
            StatusCode::FORBIDDEN => ("forbidden", "you are not allowed to do this"),
            StatusCode::NOT_FOUND => ("route_not_found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method_not_allowed",
                "this path does not take the method of the request",
            ),
            StatusCode::REQUEST_TIMEOUT => (
                "request_timeout",
                "the body of the request did not arrive in time",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (
                "unsupported_media_type",
                "the body has a media type that this path does not take",
            ),
            _ if status.is_client_error() => ("invalid_request", "the request was refused"),
            _ => ("internal", INTERNAL),
        };
        Self::new(status, code, detail)
    }

    /// Tells the client when to come back.
    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait.or(self.retry_after);
        self
    }

    /// Names the methods that the path takes.
    #[must_use]
    pub(crate) fn allowing(mut self, methods: String) -> Self {
        self.rare.allow = Some(methods);
        self
    }

    /// Tells the size of what a range was asked of.
    #[must_use]
    pub(crate) fn of_size(mut self, bytes: u64) -> Self {
        self.rare.size = Some(bytes);
        self
    }

    /// Names what does not answer.
    #[must_use]
    pub(crate) fn unavailable(mut self, parts: Vec<&'static str>) -> Self {
        self.rare.unavailable = parts;
        self
    }

    /// Adds what the log should have and the client should not.
    #[must_use]
    pub(crate) fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.rare.cause = Some(cause.to_string());
        self
    }

    /// Its status.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// Its words for the client.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Writes the cause to the log; the request's span adds its id.
    pub(crate) fn log(&self) {
        let cause = self.rare.cause.as_deref().unwrap_or_default();
        if self.status.is_server_error() && self.status != StatusCode::NOT_IMPLEMENTED {
            tracing::error!(
                code = self.code,
                detail = self.detail,
                cause,
                "request failed"
            );
        } else if !cause.is_empty() {
            tracing::warn!(
                code = self.code,
                detail = self.detail,
                cause,
                "request refused"
            );
        }
    }

    /// The reply to the request with this id and path.
    pub(crate) fn render(&self, request_id: &str, instance: &str) -> HttpResponse {
        let body = ProblemBody {
            kind: format!("urn:botstead:problem:{}", self.code),
            title: title(self.code),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            instance: instance.to_owned(),
            code: self.code.to_owned(),
            message: self.detail.clone(),
            request_id: request_id.to_owned(),
            unavailable: self.rare.unavailable.clone(),
        };
        let mut reply = HttpResponseBuilder::new(self.status);
        self.headers(&mut reply);
        reply.content_type(CONTENT_TYPE).json(body)
    }

    fn headers(&self, reply: &mut HttpResponseBuilder) {
        if self.status == StatusCode::UNAUTHORIZED {
            reply.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            reply.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        if let Some(methods) = &self.rare.allow {
            reply.insert_header((header::ALLOW, methods.as_str()));
        }
        if let Some(size) = self.rare.size {
            reply.insert_header((header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    }
}

/// `workspace_not_found` as `Workspace not found`.
fn title(code: &str) -> String {
    let mut text = code.replace('_', " ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// A reply without a body that carries the problem: the request context renders it.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut reply = HttpResponse::new(self.status);
        reply.extensions_mut().insert(self.clone());
        reply
    }
}

/// A failed request (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// `urn:botstead:problem:<code>`.
    #[serde(rename = "type")]
    kind: String,
    /// The code as words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong, in words for a person.
    detail: String,
    /// The path of the request.
    instance: String,
    /// A stable machine word, such as `workspace_not_found`.
    #[schema(example = "workspace_not_found")]
    code: String,
    /// The same text as `detail`.
    message: String,
    /// The id under which the server's log has more; also the header `X-Request-Id`.
    request_id: String,
    /// Only in a reply of `/readyz`: what does not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<String>>)]
    unavailable: Vec<&'static str>,
}

#[cfg(test)]
mod tests;
