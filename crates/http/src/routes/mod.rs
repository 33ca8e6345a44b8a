//! The routes, one module per resource: paths, request and reply shapes, and their translation.

mod bots;
mod container;
mod data;
mod exec;
mod fs;
mod images;
mod operations;
mod preserved;
mod recovery;
mod server;
mod sign_in;
mod snapshots;
pub(crate) mod terminal;
mod unclaimed;
mod users;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds every route.
pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
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
    fs::configure(config);
    terminal::configure(config);
    images::configure(config);
    recovery::configure(config);
    server::configure(config);
}
