//! Archives on their way to an import.

use crate::HttpConfig;
use crate::extract::content_length;
use crate::problem::Problem;
use crate::spool::{Error, Spooled};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use botstead_authz::Actor;
use botstead_types::ImageRef;
use botstead_workspace::Image;
use botstead_workspace::Workspaces;
use futures_util::StreamExt;

/// Receives the body of a request into a file.
pub(super) async fn receive(
    request: &HttpRequest,
    mut payload: web::Payload,
    config: &HttpConfig,
    workspaces: &Workspaces,
) -> Result<Spooled, Problem> {
    let limit = config.max_import_bytes;
    let refused = |error: Error<Problem>| error.into_problem("archive_too_large", "the archive");
    if content_length(request).is_some_and(|announced| announced > limit) {
        return Err(refused(Error::TooLarge(limit)));
    }
    let received = Spooled::receive(config, workspaces, limit, async || {
        let chunk = tokio::time::timeout(config.body_timeout, payload.next())
            .await
            .map_err(|_| Problem::from_status(StatusCode::REQUEST_TIMEOUT))?;
        chunk.transpose().map_err(|error| {
            Problem::invalid("invalid_body", "the archive could not be received").caused_by(error)
        })
    });
    let archive = received.await.map_err(refused)?;
    if archive.size == 0 {
        return Err(Problem::invalid(
            "invalid_body",
            "this request needs an image archive as its body",
        ));
    }
    Ok(archive)
}

/// Imports the archive. The file lives as long as the import, which goes on when its client
/// leaves.
pub(super) async fn import(
    workspaces: Workspaces,
    actor: Actor,
    archive: Spooled,
    name: Option<ImageRef>,
) -> Result<Vec<Image>, Problem> {
    let task = actix_web::rt::spawn(async move {
        let imported = workspaces
            .import_images(&actor, archive.path().to_owned(), name)
            .await;
        drop(archive);
        imported
    });
    Ok(task.await.map_err(Problem::internal)??)
}
