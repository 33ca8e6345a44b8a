//! HEAD is GET without its content (RFC 9110, section 9.3.2), for every route that has no HEAD of its own.

use crate::openapi;
use crate::state::SharedState;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web;
use bytes::Bytes;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Lets a HEAD be answered by the route of its GET.
pub(crate) async fn as_get(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if request.method() != Method::HEAD || has_its_own(&request) {
        return next.call(request).await;
    }
    request.head_mut().method = Method::GET;
    let reply = next.call(request).await?;
    // What would have sent the content ends here, as when a client leaves.
    Ok(reply.map_body(|_, body| BoxBody::new(Without(body.size()))))
}

fn has_its_own(request: &ServiceRequest) -> bool {
    let state = request.app_data::<web::Data<SharedState>>();
    let (Some(state), Some(route)) = (state, request.match_pattern()) else {
        return false;
    };
    let taken = state.takes.get(&openapi::documented(&route));
    taken
        .into_iter()
        .flatten()
        .any(|one| one.method == Method::HEAD)
}

/// A body of which only the length is told.
struct Without(BodySize);

impl MessageBody for Without {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
