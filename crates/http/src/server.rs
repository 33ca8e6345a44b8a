//! Binding, running and ending the server.

use crate::connections::Connections;
use crate::memory::Memory;
use crate::monitoring::Monitoring;
use crate::problem::Problem;
use crate::sessions::Sessions;
use crate::state::{SharedState, State};
use crate::{HttpConfig, context, docs, head, openapi, routes, spool};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpServer, web};
use botstead_accounts::Accounts;
use botstead_workspace::Workspaces;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use utoipa_actix_web::AppExt;

/// The services behind the routes. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Bots' workspaces and images.
    pub workspaces: Workspaces,
    /// Users, sign-in and bots.
    pub accounts: Accounts,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// Why the server could not be brought up or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not this host's.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder for uploads cannot be used.
    #[error("cannot use {path} for uploads", path = path.display())]
    Spool {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The figures for monitoring could not be set up.
    #[error("cannot set the figures for monitoring up")]
    Monitoring(#[source] prometheus::Error),
    /// The OpenAPI document could not be written.
    #[error("cannot write the OpenAPI document")]
    OpenApi(#[source] serde_json::Error),
    /// The server ended with an error.
    #[error("the HTTP server failed")]
    Run(#[source] io::Error),
}

/// A server that listens already and answers once it runs.
pub struct Server {
    server: actix_web::dev::Server,
    addresses: Vec<SocketAddr>,
    state: SharedState,
    connections: Arc<Connections>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds all addresses. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When an address is taken or the folder for uploads cannot be made.
    pub fn bind(config: HttpConfig, services: Services) -> Result<Self, Error> {
        spool::prepare(&config.spool_dir).map_err(|source| Error::Spool {
            path: config.spool_dir.clone(),
            source,
        })?;
        let document = openapi();
        let state = Arc::new(State {
            services,
            monitoring: Monitoring::new().map_err(Error::Monitoring)?,
            memory: Memory::new(&config),
            sessions: Arc::new(Sessions::default()),
            shutdown: CancellationToken::new(),
            openapi: document.to_json().map_err(Error::OpenApi)?,
            docs: docs::page(&document),
            takes: openapi::takes(&document),
            config: config.clone(),
        });
        let shared = Arc::clone(&state);
        let metrics = config.metrics;
        let connections = Connections::new(config.clone());
        let opened = Arc::clone(&connections);
        let mut server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(Arc::clone(&shared)))
                .wrap(from_fn(head::as_get))
                .wrap(from_fn(context::surround))
                .into_utoipa_app()
                .configure(|routes| routes::configure(routes, metrics))
                .split_for_parts()
                .0
                .default_service(web::to(no_route))
        })
        .on_connect(move |io, data| opened.opened(io, data))
        .disable_signals()
        .keep_alive(config.keep_alive)
        .client_request_timeout(config.header_timeout)
        // Without it the second event of a stream waits until the client acknowledged the first,
        // which on a kept-alive connection takes 40 ms (tcp(7), TCP_NODELAY).
        .tcp_nodelay(true)
        // A client that is gone is noticed at once, so that its command is killed.
        .h1_allow_half_closed(false)
        .shutdown_timeout(grace_seconds(&config));
        if let Some(workers) = config.workers {
            server = server.workers(workers.max(1));
        }
        for &address in &config.listen {
            server = server
                .bind(address)
                .map_err(|source| Error::Bind { address, source })?;
        }
        let addresses = server.addrs();
        Ok(Self {
            server: server.run(),
            addresses,
            state,
            connections,
        })
    }

    /// The addresses that it listens on, in no particular order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` is there; then takes no new connection, lets requests under way
    /// go on for the grace, and returns.
    ///
    /// # Errors
    /// When the server fails by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            mut server,
            state,
            connections,
            ..
        } = self;
        let serve = async {
            let handle = server.handle();
            tokio::select! {
                ended = &mut server => return ended,
                () = shutdown => {}
            }
            state.shutdown.cancel();
            let (ended, ()) = tokio::join!(server, handle.stop(true));
            ended
        };
        tokio::select! {
            ended = serve => ended.map_err(Error::Run),
            never = connections.watch() => match never {},
            never = state.sessions.watch(&state.services.accounts) => match never {},
        }
    }
}

/// Binds and serves until `shutdown` is there.
///
/// # Errors
/// Those of [`Server::bind`] and [`Server::run`].
pub async fn serve(
    config: HttpConfig,
    services: Services,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let server = Server::bind(config, services)?;
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    server.run(shutdown).await
}

fn grace_seconds(config: &HttpConfig) -> u64 {
    let grace = config.shutdown_grace;
    grace.as_secs() + u64::from(grace.subsec_nanos() > 0)
}

/// The reply where no route takes the request: 405 where the path is known, else 404.
async fn no_route(
    request: HttpRequest,
    state: web::Data<SharedState>,
) -> Result<actix_web::HttpResponse, Problem> {
    use actix_web::http::StatusCode;
    let known = request
        .match_pattern()
        .and_then(|route| state.takes.get(&openapi::documented(&route)));
    Err(match known {
        None => Problem::from_status(StatusCode::NOT_FOUND),
        Some(taken) => {
            let methods: Vec<&str> = taken.iter().map(|one| one.method.as_str()).collect();
            Problem::from_status(StatusCode::METHOD_NOT_ALLOWED).allowing(methods.join(", "))
        }
    })
}
