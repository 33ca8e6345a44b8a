//! A query has no parameters but those of its route: one that is passed over may be the one that keeps
//! somebody's data.

use crate::problem::Problem;
use crate::state::SharedState;
use crate::{auth, openapi, paths};
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, ResponseError, web};

/// The longest part of a name that is told back.
const MAX_SHOWN: usize = 64;

/// Lets a request through unless its query has a parameter that its route does not know.
pub(crate) async fn refuse_unknown(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    match check(request.request()) {
        Ok(()) => next.call(request).await,
        Err(problem) => Ok(request.into_response(problem.error_response())),
    }
}

fn check(request: &HttpRequest) -> Result<(), Problem> {
    let state = request.app_data::<web::Data<SharedState>>();
    let route = request.match_pattern();
    let (Some(state), Some(route)) = (state, route) else {
        return Ok(());
    };
    let taken = state.takes.get(&openapi::documented(&route));
    // What no route takes is refused as that.
    let Some(known) = taken
        .into_iter()
        .flatten()
        .find(|one| one.method == request.method())
    else {
        return Ok(());
    };
    let is_known = |name: &str| {
        let documented = known.query.iter().any(|known| known == name);
        let path = name == paths::CODED && known.query.iter().any(|known| known == paths::PLAIN);
        documented || path || auth::IN_QUERY.contains(&name)
    };
    for (name, _) in form_urlencoded::parse(request.query_string().as_bytes()) {
        if !is_known(&name) {
            let shown: String = name.chars().take(MAX_SHOWN).collect();
            let detail = match &known.query[..] {
                [] => format!("there is no parameter `{shown}`: this request takes none"),
                known => format!(
                    "there is no parameter `{shown}`; this request takes `{}`",
                    known.join("`, `")
                ),
            };
            return Err(Problem::invalid("invalid_query", detail));
        }
    }
    Ok(())
}
