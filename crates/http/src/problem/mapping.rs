//! Which failure of a service has which status. The one place that knows.

use super::Problem;
use actix_web::http::StatusCode;
use botstead_accounts as accounts;
use botstead_types::InvalidValue;
use botstead_workspace as workspace;
use std::error::Error;

/// The status of each kind of failed use case.
pub(super) fn workspace_status(kind: workspace::ErrorKind) -> StatusCode {
    use workspace::ErrorKind as Kind;
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict | Kind::Cancelled => StatusCode::CONFLICT,
        Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::LimitReached => StatusCode::TOO_MANY_REQUESTS,
    }
}

/// The status of each kind of failed account operation.
pub(super) fn accounts_status(kind: accounts::ErrorKind) -> StatusCode {
    use accounts::ErrorKind as Kind;
    match kind {
        Kind::InvalidArgument => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Every cause of an error, outermost first; empty when it has none.
fn causes(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn problem(status: StatusCode, code: &'static str, error: &dyn Error) -> Problem {
    let causes = causes(error);
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        // The code may say where it happened; the text stays in the log.
        let mut problem = Problem::internal(if causes.is_empty() {
            error.to_string()
        } else {
            format!("{error}: {causes}")
        });
        problem.code = code;
        return problem;
    }
    let problem = Problem::new(status, code, error.to_string());
    if causes.is_empty() {
        problem
    } else {
        problem.caused_by(causes)
    }
}

impl From<workspace::Error> for Problem {
    fn from(error: workspace::Error) -> Self {
        problem(workspace_status(error.kind()), error.code(), &error)
    }
}

impl From<accounts::Error> for Problem {
    fn from(error: accounts::Error) -> Self {
        problem(accounts_status(error.kind()), error.code(), &error)
            .retry_after(error.retry_after())
    }
}

impl From<InvalidValue> for Problem {
    fn from(error: InvalidValue) -> Self {
        Self::invalid("invalid_value", error.to_string())
    }
}
