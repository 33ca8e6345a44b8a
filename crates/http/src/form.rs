//! Forms with files (multipart/form-data): their fields one after the other, none of which may take
//! for ever or be one that nobody asked for.

use crate::problem::Problem;
use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;

/// A form on its way.
pub(crate) struct Form {
    parts: Multipart,
    idle: Duration,
}

/// Why a field did not come whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection broke or the form is malformed.
    #[error("the body could not be read")]
    Body(#[source] std::io::Error),
    /// Nothing came for too long.
    #[error("the body stood still for too long")]
    Idle,
}

impl From<Broken> for Problem {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Body(error) => {
                Self::invalid("invalid_body", "the body could not be read").caused_by(error)
            }
            Broken::Idle => Self::from_status(StatusCode::REQUEST_TIMEOUT),
        }
    }
}

impl Form {
    /// `idle` is how long it may stand still.
    pub(crate) fn new(parts: Multipart, idle: Duration) -> Self {
        Self { parts, idle }
    }

    /// The next field; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Field>, Problem> {
        let next = tokio::time::timeout(self.idle, self.parts.next()).await;
        let next = next.map_err(|_| Problem::from(Broken::Idle))?;
        next.transpose()
            .map_err(|error: MultipartError| match error {
                MultipartError::ContentTypeMissing
                | MultipartError::ContentTypeParse
                | MultipartError::ContentTypeIncompatible => Problem::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "unsupported_media_type",
                    "the body must have the header Content-Type: multipart/form-data",
                ),
                error => {
                    Problem::invalid("invalid_body", format!("invalid multipart form: {error}"))
                }
            })
    }

    /// Refuses whatever comes after the last field that the form may have.
    pub(crate) async fn end(&mut self, known: &[&str]) -> Result<(), Problem> {
        match self.next().await? {
            None => Ok(()),
            Some(field) => Err(unexpected(&field, known)),
        }
    }
}

/// The refusal of a field that the form does not have, or that came before.
pub(crate) fn unexpected(field: &Field, known: &[&str]) -> Problem {
    let name: String = field.name().unwrap_or_default().chars().take(64).collect();
    let takes = known.join("`, `");
    let detail = match known.contains(&name.as_str()) {
        true => format!(
            "the form may have the field `{name}` only once, and none after `file` once `path` is known"
        ),
        false => format!("there is no field `{name}`; this form takes `{takes}`"),
    };
    Problem::invalid("invalid_body", detail)
}

/// The next piece of a field; `None` at its end.
pub(crate) async fn chunk(field: &mut Field, idle: Duration) -> Result<Option<Bytes>, Broken> {
    match tokio::time::timeout(idle, field.next()).await {
        Err(_) => Err(Broken::Idle),
        Ok(next) => next
            .transpose()
            .map_err(|error| Broken::Body(std::io::Error::other(error.to_string()))),
    }
}

/// A field that is text.
pub(crate) async fn text(
    field: &mut Field,
    idle: Duration,
    most: usize,
) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    while let Some(data) = chunk(field, idle).await? {
        if text.len() + data.len() > most {
            let name = field.name().unwrap_or_default();
            return Err(Problem::invalid(
                "invalid_body",
                format!("the field `{name}` is longer than {most} bytes"),
            ));
        }
        text.extend_from_slice(&data);
    }
    Ok(text)
}
