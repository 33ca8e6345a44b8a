//! What an operator may choose about the HTTP server.

use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Callers with an admin's token. The default, also on loopback: behind a reverse proxy every
    /// caller looks local.
    #[default]
    Admin,
    /// Everyone who reaches the port, for scrapers that cannot hold a token.
    Open,
}

/// The HTTP server's settings. The defaults are fit for production behind a reverse proxy.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where to listen. Port 0 takes a free one; [`crate::Server::addresses`] tells which.
    pub listen: Vec<SocketAddr>,
    /// Threads that serve requests; each is a runtime of its own. `None` is one per core.
    pub workers: Option<usize>,
    /// The largest JSON body, in bytes.
    pub max_json_bytes: usize,
    /// The largest image archive that may be uploaded, in bytes.
    pub max_import_bytes: u64,
    /// The largest file that is given or taken as text in JSON, in bytes; larger ones use download
    /// and upload.
    pub max_text_bytes: usize,
    /// The largest file that may be uploaded into a workspace, in bytes.
    pub max_upload_bytes: u64,
    /// Pages that may open terminals, beside the server's own, such as `https://panel.example`.
    pub allowed_origins: Vec<String>,
    /// Where uploads are kept while they are used; made when missing, readable by the server only.
    pub spool_dir: PathBuf,
    /// How long a client may take to send the headers of a request.
    pub header_timeout: Duration,
    /// How long a client may take to send a JSON body, and how long an upload may stand still.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// The bytes that a client must read in each second of a reply that is held in memory, on top of
    /// `write_timeout` for all of it; else it is cut off. Streams, downloads and exports are not held.
    pub min_reply_pace: usize,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// The most connections at once; for one more, the oldest request without a session goes, or the
    /// connection that was idle for longest, or where all have one the oldest request of the user with the most.
    pub max_connections: usize,
    /// The most of them from one address, or from one IPv6 network of 64 bits; of a client behind a trusted
    /// proxy the most requests under way. Never more than half of all; for one more, another of them goes.
    pub max_connections_per_address: usize,
    /// The largest list or search result that is given as one JSON reply, in bytes.
    pub max_reply_bytes: usize,
    /// The most bytes of bodies, of what is made of them, of outputs of commands and of replies, of all
    /// requests together, that are held in memory; more wait shortly and are refused then. No user has more
    /// than half of it. At least `8 * max_text_bytes + 4 * max_json_bytes`, and at least
    /// `4 * max_reply_bytes`, whatever is set.
    pub max_memory_bytes: usize,
    /// Proxies whose `X-Forwarded-For` tells where a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// How long requests under way may go on after shutdown began; rounded up to seconds.
    pub shutdown_grace: Duration,
    /// Who may read `/metrics`.
    pub metrics: MetricsAccess,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            workers: None,
            max_json_bytes: 1 << 20,
            max_import_bytes: 16 << 30,
            max_text_bytes: 10 << 20,
            max_upload_bytes: 64 << 30,
            allowed_origins: Vec::new(),
            spool_dir: std::env::temp_dir().join("botstead-spool"),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            min_reply_pace: 128 << 10,
            keep_alive: Duration::from_secs(75),
            max_connections: 8192,
            max_connections_per_address: 1024,
            max_reply_bytes: 8 << 20,
            max_memory_bytes: 256 << 20,
            trusted_proxies: Vec::new(),
            shutdown_grace: Duration::from_secs(30),
            metrics: MetricsAccess::Admin,
        }
    }
}
