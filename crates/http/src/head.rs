//! HEAD is GET without its content (RFC 9110, section 9.3.2), for every route that has no HEAD of its own.

use crate::openapi;
use crate::state::SharedState;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ResponseHead, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderValue};
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
    // Whoever asks for another protocol wants to speak it.
    let upgrade = request.headers().contains_key(header::UPGRADE);
    if request.method() != Method::HEAD || upgrade || has_its_own(&request) {
        return next.call(request).await;
    }
    request.head_mut().method = Method::GET;
    let reply = next.call(request).await?;
    // What would have sent the content ends here, as when a client leaves.
    Ok(reply.map_body(|head, body| without(head, body.size())))
}

/// The library takes a reply for that of a HEAD by the request that it read last, which is another one when
/// a client does not wait for replies. So the length is a header only, and the body one that may end at once.
fn without(head: &mut ResponseHead, size: BodySize) -> BoxBody {
    match size {
        BodySize::None | BodySize::Sized(0) => return BoxBody::new(Without(size)),
        BodySize::Sized(length) => {
            let length = HeaderValue::from(length);
            head.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        BodySize::Stream => {}
    }
    head.no_chunking(true);
    BoxBody::new(Without(BodySize::Stream))
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

/// A body that ends at once.
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
