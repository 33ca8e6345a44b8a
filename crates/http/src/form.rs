//! Forms with files (multipart/form-data): their fields one after the other, none of which may take
//! for ever or be passed over without end.

use crate::problem::Problem;
use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;

/// The most fields that are passed over, and the most bytes in them together: they are of newer
/// clients, or of nobody who means well.
const MAX_UNKNOWN: usize = 32;
const MAX_UNKNOWN_BYTES: usize = 1 << 20;

/// A form on its way.
pub(crate) struct Form {
    parts: Multipart,
    idle: Duration,
    unknown: usize,
    unknown_bytes: usize,
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
        Self {
            parts,
            idle,
            unknown: 0,
            unknown_bytes: 0,
        }
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

    /// Passes over a field that is not known.
    pub(crate) async fn skip(&mut self, mut field: Field) -> Result<(), Problem> {
        self.unknown += 1;
        while let Some(data) = chunk(&mut field, self.idle).await? {
            self.unknown_bytes += data.len();
            if self.unknown_bytes > MAX_UNKNOWN_BYTES {
                break;
            }
        }
        if self.unknown > MAX_UNKNOWN || self.unknown_bytes > MAX_UNKNOWN_BYTES {
            let name: String = field.name().unwrap_or_default().chars().take(64).collect();
            return Err(Problem::invalid(
                "invalid_body",
                format!(
                    "the form has too many unknown fields, or too much in them; leave out {name:?}"
                ),
            ));
        }
        Ok(())
    }
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
