//! Uploads on their way to an import: streamed to a file that only the server can read and that
//! is always removed.

use crate::HttpConfig;
use crate::extract::content_length;
use crate::problem::Problem;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use botstead_authz::Actor;
use botstead_types::ImageRef;
use botstead_workspace::Image;
use botstead_workspace::Workspaces;
use futures_util::StreamExt;
use std::io;
use tempfile::TempPath;
use tokio::io::{AsyncWriteExt, BufWriter};

/// Few and large writes: each is a hop to a blocking thread.
const BUFFER_BYTES: usize = 1 << 20;

/// Receives the body of a request into a file.
pub(super) async fn receive(
    request: &HttpRequest,
    mut payload: web::Payload,
    config: &HttpConfig,
) -> Result<TempPath, Problem> {
    let limit = config.max_import_bytes;
    if content_length(request).is_some_and(|announced| announced > limit) {
        return Err(too_large(limit));
    }
    let directory = config.spool_dir.clone();
    // Mode 0600, and a name that nobody can guess.
    let created = web::block(move || {
        tempfile::Builder::new()
            .prefix("import-")
            .tempfile_in(directory)
    });
    let (file, path) = created
        .await
        .map_err(Problem::internal)?
        .map_err(failed)?
        .into_parts();
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file));
    let mut received = 0u64;
    loop {
        let chunk = tokio::time::timeout(config.body_timeout, payload.next())
            .await
            .map_err(|_| Problem::from_status(StatusCode::REQUEST_TIMEOUT))?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|error| {
            Problem::invalid("invalid_body", "the archive could not be received").caused_by(error)
        })?;
        received += chunk.len() as u64;
        if received > limit {
            return Err(too_large(limit));
        }
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    if received == 0 {
        return Err(Problem::invalid(
            "invalid_body",
            "this request needs an image archive as its body",
        ));
    }
    Ok(path)
}

/// Imports the archive. The file lives as long as the import, which goes on when its client
/// leaves.
pub(super) async fn import(
    workspaces: Workspaces,
    actor: Actor,
    archive: TempPath,
    name: Option<ImageRef>,
) -> Result<Vec<Image>, Problem> {
    let task = actix_web::rt::spawn(async move {
        let imported = workspaces
            .import_images(&actor, archive.to_path_buf(), name)
            .await;
        drop(archive);
        imported
    });
    Ok(task.await.map_err(Problem::internal)??)
}

fn too_large(limit: u64) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "archive_too_large",
        format!("the archive is larger than {limit} bytes"),
    )
}

fn failed(error: io::Error) -> Problem {
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage",
            "the host is short of disk space for the archive",
        )
        .caused_by(error)
    } else {
        Problem::internal(error)
    }
}
