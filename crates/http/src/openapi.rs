//! The OpenAPI document, collected from the routes themselves.

use crate::MetricsAccess;
use crate::problem::{CONTENT_TYPE, ProblemBody};
use crate::routes;
use crate::shapes::StreamError;
use actix_web::App;
use actix_web::http::Method;
use std::collections::{HashMap, HashSet};
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};
use utoipa_actix_web::AppExt;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Botstead",
        description = "Isolated, versioned workspaces for bots.\n\n\
            Times are RFC 3339 in UTC. Sizes are bytes; durations end in their unit. A field that \
            is not required is left out when it is empty. Every reply has the header \
            `X-Request-Id`: the request's, where it has the form of 1 to 128 letters, digits, `.`, \
            `_` and `-`, else a new one. Every failure is a problem reply (RFC 9457) with a \
            stable `code`. A parameter in a query that a request does not know is refused (400 \
            `invalid_query`).\n\n\
            A call that changes a bot which is busy waits up to 30 s, then fails with 409 `busy`. \
            It goes on when its client leaves. Reads do not wait for a busy bot; a call to a workspace \
            waits for a place, then fails with 429 `too_many_calls`. Any request may get 429 \
            `too_many_requests` or 503 `too_much_in_flight`: try again later. To a caller without any \
            permission on a bot, the bot does not exist (404)."
    ),
    tags(
        (name = "auth", description = "Sign-in, the caller and one-time tickets."),
        (name = "users", description = "User accounts; admin only."),
        (name = "bots", description = "Bots: each has at most one workspace."),
        (name = "container", description = "A bot's workspace."),
        (name = "files", description = "Files of a running workspace."),
        (name = "exec", description = "Commands in a running workspace."),
        (name = "terminal", description = "Terminals in a running workspace."),
        (name = "snapshots", description = "Versions of a workspace."),
        (name = "operations", description = "What is under way on a bot, and what was."),
        (name = "images", description = "Local images; admin only."),
        (name = "recovery", description = "What the database does not know; admin only."),
        (name = "server", description = "Health, figures and this document."),
    ),
    components(schemas(ProblemBody, StreamError)),
)]
struct Document;

/// The OpenAPI document of the whole API. The committed copy is `docs/openapi.json`.
pub fn openapi() -> OpenApi {
    let (_, mut document) = App::new()
        .into_utoipa_app()
        .openapi(Document::openapi())
        .configure(|routes| routes::configure(routes, MetricsAccess::Admin))
        .split_for_parts();
    let public = public_paths();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("The access token that POST /auth/login gives."))
                .build(),
        ),
    );
    components.add_security_scheme(
        "api_key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            "X-API-Key",
            "The same token, for clients that cannot set Authorization.",
        ))),
    );
    for (path, item) in &mut document.paths.paths {
        let public = public.contains(path);
        for operation in operations_mut(item) {
            complete(operation, public);
        }
    }
    document
}

/// The paths that are registered as public.
fn public_paths() -> HashSet<String> {
    let (_, document) = App::new()
        .into_utoipa_app()
        .configure(|routes| routes::public(routes, MetricsAccess::Admin))
        .split_for_parts();
    document.paths.paths.into_keys().collect()
}

/// Adds what is true of every operation: who may call it and how it fails.
fn complete(operation: &mut Operation, public: bool) {
    let problem = || {
        ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build()
    };
    let schemes = || ["bearer", "api_key"].map(|name| SecurityRequirement::new(name, [""; 0]));
    operation.security = Some(if public { Vec::new() } else { schemes().into() });
    let responses = &mut operation.responses.responses;
    if !public {
        responses.entry("401".to_owned()).or_insert_with(|| {
            RefOr::T(
                ResponseBuilder::new()
                    .description("The token is missing, not valid or expired.")
                    .build(),
            )
        });
    }
    let calls_agent = matches!(
        responses.get("503"),
        Some(RefOr::T(response)) if response.description.contains("workspace_stalled")
    );
    if calls_agent {
        let refused = responses.entry("429".to_owned());
        if let RefOr::T(refused) = refused.or_insert_with(|| RefOr::T(Response::default())) {
            let calls =
                "`too_many_calls`: as many calls to the workspace are under way as there may be.";
            let others = std::mem::take(&mut refused.description);
            refused.description = [others.as_str(), calls].join(" ").trim().to_owned();
        }
    }
    responses.entry("default".to_owned()).or_insert_with(|| {
        RefOr::T(
            ResponseBuilder::new()
                .description("Any other failure.")
                .build(),
        )
    });
    for (status, response) in responses {
        let RefOr::T(response) = response else {
            continue;
        };
        if response.description.is_empty() {
            response.description = "Done.".to_owned();
        }
        if (status == "default" || status.starts_with(['4', '5'])) && response.content.is_empty() {
            response
                .content
                .insert(CONTENT_TYPE.to_owned(), problem().into());
        }
    }
}

fn slots(item: &PathItem) -> [(Method, &Option<Operation>); 7] {
    [
        (Method::GET, &item.get),
        (Method::HEAD, &item.head),
        (Method::POST, &item.post),
        (Method::PUT, &item.put),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
        (Method::OPTIONS, &item.options),
    ]
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.head,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
        &mut item.options,
    ]
    .into_iter()
    .filter_map(Option::as_mut)
}

/// The operations of a path with their methods.
pub(crate) fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    slots(item)
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

/// A method that a path takes, and the parameters that may be in its query.
#[derive(Debug)]
pub(crate) struct Takes {
    pub(crate) method: Method,
    pub(crate) query: Vec<String>,
}

/// What each path takes.
pub(crate) fn takes(document: &OpenApi) -> HashMap<String, Vec<Takes>> {
    let of = |item| {
        let operations = operations(item).map(|(method, operation)| Takes {
            method,
            query: query(operation),
        });
        operations.collect()
    };
    let paths = &document.paths.paths;
    paths
        .iter()
        .map(|(path, item)| (path.clone(), of(item)))
        .collect()
}

fn query(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten();
    parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(known) if known.parameter_in == ParameterIn::Query => Some(known.name.clone()),
            _ => None,
        })
        .collect()
}

/// A route's pattern as the document has it: `/images/{ref:.*}` is `/images/{ref}`.
pub(crate) fn documented(route: &str) -> String {
    let mut path = String::with_capacity(route.len());
    let mut in_pattern = false;
    for c in route.chars() {
        match c {
            ':' => in_pattern = true,
            '}' => in_pattern = false,
            _ => {}
        }
        if !in_pattern {
            path.push(c);
        }
    }
    path
}
