//! Botstead's HTTP API: routes, shapes, errors, OpenAPI.
//!
//! This crate owns everything that is HTTP or JSON: routes, request and reply shapes, how an error
//! becomes a problem reply, sign-in headers, event streams, the OpenAPI document and the page that
//! shows it. What a request *does* is in `botstead-workspace` and `botstead-accounts`; nothing is
//! decided here.
//!
//! ```no_run
//! # async fn example(services: botstead_http::Services) -> Result<(), botstead_http::Error> {
//! let config = botstead_http::HttpConfig::default();
//! let server = botstead_http::Server::bind(config, services)?;
//! println!("listening on {:?}", server.addresses());
//! server.run(std::future::pending()).await
//! # }
//! ```

mod archives;
mod auth;
mod budget;
mod client_address;
mod config;
mod connections;
mod context;
mod docs;
mod extract;
mod form;
mod head;
mod memory;
mod monitoring;
mod openapi;
mod paths;
mod plain;
mod problem;
mod query;
mod routes;
mod server;
mod sessions;
mod shapes;
mod spool;
mod sse;
mod state;
mod words;

pub use config::{HttpConfig, MetricsAccess};
pub use openapi::openapi;
pub use routes::recovery::export_request as export_unrecorded_request;
pub use routes::terminal::frames::fuzz as fuzz_terminal_frame;
pub use routes::unclaimed::requests as unclaimed_archive_requests;
pub use server::{Error, Server, Services, serve};
