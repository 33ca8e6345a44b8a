//! The routes, one module per resource: paths, request and reply shapes, and their translation.

mod bots;
mod container;
mod data;
mod exec;
mod fs;
mod images;
mod operations;
mod preserved;
mod processes;
pub(crate) mod recovery;
mod registries;
mod server;
mod sign_in;
mod snapshots;
pub(crate) mod terminal;
pub(crate) mod unclaimed;
mod users;

use crate::MetricsAccess;
use crate::{auth, query};
use actix_web::middleware::from_fn;
use utoipa_actix_web::scope::scope;
use utoipa_actix_web::service_config::ServiceConfig;

/// Adds every route. What is not added as public needs a caller, also what does not exist.
pub(crate) fn configure(config: &mut ServiceConfig<'_>, metrics: MetricsAccess) {
    public(config, metrics);
    let private = scope("")
        .wrap(from_fn(query::refuse_unknown))
        .wrap(from_fn(auth::require))
        .configure(|config| private(config, metrics));
    config.service(private);
}

/// Adds the routes that everybody may call.
pub(crate) fn public(config: &mut ServiceConfig<'_>, metrics: MetricsAccess) {
    sign_in::configure_public(config);
    server::configure_public(config);
    if metrics == MetricsAccess::Open {
        config.service(server::metrics);
    }
}

fn private(config: &mut ServiceConfig<'_>, metrics: MetricsAccess) {
    sign_in::configure(config);
    users::configure(config);
    bots::configure(config);
    container::configure(config);
    data::configure(config);
    preserved::configure(config);
    unclaimed::configure(config);
    snapshots::configure(config);
    operations::configure(config);
    exec::configure(config);
    processes::configure(config);
    fs::configure(config);
    terminal::configure(config);
    images::configure(config);
    registries::configure(config);
    recovery::configure(config);
    if metrics == MetricsAccess::Admin {
        config.service(server::metrics);
    }
}
