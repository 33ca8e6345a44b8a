//! Every key that an operator may set, with its default and its description.
//!
//! This is the one source: docs/CONFIGURATION.md is rendered from it, and unknown keys are found
//! by it.

use botstead_types::ImageRef;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Defines one section: a struct with serde, its defaults, and its documentation as data.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $name {
            pub(super) const DOCS: &[super::keys::FieldDoc] =
                &[$((stringify!($field), &[$($doc),+]),)+];
        }
    };
}

section! {
    /// The whole configuration.
    Config {
        /// Address and port to listen on. Port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8787)),
        /// Where everything lasting is kept: database, secrets, images, snapshots. The server sets it to mode 0700.
        data_dir: PathBuf = "/var/lib/botstead".into(),
        /// Where sockets and state of what runs are kept. Short, because socket paths are limited
        /// to 107 bytes; on a file system that a restart of the host empties.
        run_dir: PathBuf = "/run/botstead".into(),
        /// What is logged.
        log: Log = Log::default(),
        /// Signing in.
        auth: Auth = Auth::default(),
        /// The database.
        database: Database = Database::default(),
        /// What runs the workspaces.
        runtime: Runtime = Runtime::default(),
        /// Registries of images.
        registry: Registry = Registry::default(),
        /// Sizes of images.
        images: Images = Images::default(),
        /// The workspaces' network.
        network: Network = Network::default(),
        /// Workspaces.
        workspace: Workspace = Workspace::default(),
        /// Limits of the server as a whole.
        limits: ServerLimits = ServerLimits::default(),
        /// The HTTP server.
        http: Http = Http::default(),
        /// Ending the server.
        shutdown: Shutdown = Shutdown::default(),
    }
}

section! {
    /// What is logged, to standard error.
    Log {
        /// `text` for people, `json` for programs: one object per line.
        format: LogFormat = LogFormat::Text,
        /// What is logged, such as `info` or `info,botstead_workspace=debug`
        /// (directives of tracing-subscriber's EnvFilter).
        filter: String = "info".into(),
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

section! {
    /// Signing in.
    Auth {
        /// How long an access token is valid.
        token_ttl_seconds: u64 = 24 * 60 * 60,
        /// How many passwords are checked at once; each takes 19 MiB and a core for tens of
        /// milliseconds. Half of the cores when not set.
        max_concurrent_hashes: Option<usize> = None,
    }
}

section! {
    /// The database.
    Database {
        /// The SQLite file. `<data_dir>/botstead.db` when not set.
        path: Option<PathBuf> = None,
    }
}

section! {
    /// What runs the workspaces.
    Runtime {
        /// containerd.
        containerd: Containerd = Containerd::default(),
        /// The control group under which workspaces get theirs. `/botstead-<installation id>` when
        /// not set.
        cgroup_parent: Option<String> = None,
    }
}

section! {
    /// containerd.
    Containerd {
        /// `managed`: the server runs a containerd of its own, apart from others on this host.
        /// `external`: it uses one that runs.
        mode: ContainerdMode = ContainerdMode::Managed,
        /// The socket of an external containerd. A managed one has its own under `run_dir`.
        socket: PathBuf = "/run/containerd/containerd.sock".into(),
        /// The containerd namespace. `botstead-<installation id>` when not set.
        namespace: Option<String> = None,
        /// The program of a managed containerd, 1.6 or newer: a path, or a name to look up in
        /// `PATH`.
        binary: PathBuf = "containerd".into(),
        /// The OCI runtime: a path, or a name to look up in `PATH`.
        runc_binary: PathBuf = "runc".into(),
        /// The snapshotter.
        snapshotter: String = "overlayfs".into(),
        /// How long a managed containerd may take until it answers, at a start of the server. A slow
        /// machine's boot takes long.
        start_timeout_seconds: u64 = 120,
    }
}

/// Whose containerd is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerdMode {
    /// The server's own.
    Managed,
    /// One that runs.
    External,
}

section! {
    /// Registries of images.
    Registry {
        /// Registries that are spoken to without TLS, as `host`, `host:port` or `host:*` for any port.
        /// They may be at any address, as those in `registry.private`.
        insecure: Vec<String> = Vec::new(),
        /// Registries, token services and stores that registries redirect to which may be at an address
        /// that is not public (loopback, private, link-local and the like) or is this host's own, as
        /// `host`, `host:port` or `host:*`. All others are reached at public addresses only.
        private: Vec<String> = Vec::new(),
        /// Token services that issue tokens for registries of other domains, as `host`, `host:port` or
        /// `host:*`. One of the registry's own domain needs no entry.
        token_services: Vec<String> = Vec::new(),
        /// A file of sign-ins at registries, in the format of docker's `config.json`: `auths` with `auth`,
        /// or `username` and `password`, or `identitytoken`. A key is a registry as image references name
        /// it, or the beginning of what is below it, such as `ghcr.io/acme`; the longest that fits an image
        /// is used, for whoever asks for that image. The file is read anew for every pull: while it is not
        /// in order what it held before is used. Make it mode 0600. `credsStore` and `credHelpers` are
        /// ignored with a warning: no program is run for a sign-in. What an admin sets by
        /// `PUT /registries/{registry}` takes the place of the sign-ins, mirrors and certificate authorities
        /// that are configured for the same registry.
        credentials_file: Option<PathBuf> = None,
        /// Registries that are asked before another one, by its name in image references and in the order
        /// of each list, such as `"docker.io" = ["mirror.internal:5000", "harbor.internal/hub"]`; with a
        /// path what is there before the names of repositories. A mirror that fails or lacks something is
        /// not asked again in the same pull: the next one is, and the registry itself at last. A mirror has
        /// its own sign-in, and what the other keys here say of hosts holds for it as for any registry.
        mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new(),
        /// Certificate authorities that are trusted beside the system's: by `host`, `host:port` or `host:*`
        /// (a registry, a token service or a store that a registry redirects to), or `"*"` for all hosts, a
        /// PEM file, or a folder whose files named `*.pem` and `*.crt` are read. They are read at the start,
        /// which one that is not in order prevents.
        certificate_authorities: BTreeMap<String, PathBuf> = BTreeMap::new(),
    }
}

section! {
    /// The largest image that is pulled or imported. Images that are local already are not measured.
    Images {
        /// The most bytes of one layer as it is in the registry, so mostly compressed.
        max_layer_bytes: u64 = 16 << 30,
        /// The most bytes of all layers of an image as they are in the registry.
        max_bytes: u64 = 32 << 30,
        /// The most bytes that the layers of an image may have unpacked; layers that are unpacked already
        /// do not count.
        max_unpacked_bytes: u64 = 64 << 30,
        /// The most layers, up to 256: more would leave no room for versions above them.
        max_layers: usize = 256,
        /// The most bytes of an image's configuration (its environment, labels and history), which is
        /// kept in the database for the workspaces that were made from it.
        max_config_bytes: u64 = 1 << 20,
    }
}

section! {
    /// The workspaces' network.
    Network {
        /// The workspaces' IPv4 subnet. One that the host does not use is chosen, and kept, when
        /// not set.
        subnet: Option<Ipv4Net> = None,
        /// The bridge, at most 15 characters; no other link of the host's may have this name. Named after
        /// the installation when not set.
        bridge: Option<String> = None,
        /// Name servers that workspaces can reach, so none on loopback. The host's when empty.
        nameservers: Vec<IpAddr> = Vec::new(),
        /// The largest packet in bytes. That of the host's default route when not set.
        mtu: Option<u32> = None,
        /// Networks that workspaces never reach. The default is where clouds hand out the host's
        /// credentials.
        blocked: Vec<Ipv4Net> = vec![Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)],
    }
}

section! {
    /// Workspaces.
    Workspace {
        /// The image of a workspace when neither the request nor its bot names one.
        default_image: ImageRef = default_image(),
        /// The images that may be used, as references or as prefixes that end in `*`, such as
        /// `ghcr.io/acme/*`, and the default image. `ghcr.io/acme/bot*` is `bot`, with any tag, and
        /// what is below it, but not `bot2`. All when empty.
        allowed_images: Vec<String> = Vec::new(),
        /// The CDI devices that workspaces may use, by name or as prefixes that end in `*`, such as
        /// `nvidia.com/gpu=*`. None when empty.
        allowed_devices: Vec<String> = Vec::new(),
        /// The agent that runs in every workspace. `botstead-agent` beside the server's program
        /// when not set.
        agent_path: Option<PathBuf> = None,
        /// A directory whose files every new workspace finds in `/data`, as far as it has none of
        /// the same name.
        template_dir: Option<PathBuf> = None,
        /// A directory that every workspace has read-only at `/run/botstead/toolkit`, its `bin` last
        /// in the PATH of commands.
        toolkit_dir: Option<PathBuf> = None,
        /// A terminal that nobody is connected to and nothing happens in is ended after this; 0 for
        /// never.
        terminal_idle_seconds: u64 = 24 * 60 * 60,
        /// Limits where neither the request nor the bot sets them.
        limits: WorkspaceLimits = WorkspaceLimits::default(),
        /// The most that limits may be.
        max_limits: MaxLimits = MaxLimits::default(),
        /// How many versions that nobody asked for are kept.
        retention: Retention = Retention::default(),
        /// The most bytes in `/dev/shm`, which browsers and databases use. They count as memory of the workspace.
        /// In effect from the next change of a workspace's image or files on.
        shm_bytes: u64 = 64 << 20,
        /// What workspaces get as `TZ`, such as `Europe/Zurich`; the rule of that zone where an image does not
        /// have its file. When not set, an image's own, which is UTC for most.
        timezone: Option<String> = None,
        /// How long a workspace may take to stop before it is killed.
        stop_grace_seconds: u64 = 10,
        /// How long the pull of an image may take. 16 run at once, at most 8 of them for the bots of one user; others
        /// wait before that time begins. While all places are taken, a pull that gets less than 1 MiB in a
        /// second gives its place, after a minute, to somebody who waits and has fewer.
        pull_timeout_seconds: u64 = 30 * 60,
        /// How long a call waits for another one on the same bot, or a call to its agent for a place, before it
        /// is refused. A workspace has 64 short calls at once and 512 that last, and its agent may do nothing
        /// for 60 s: these are fixed.
        busy_timeout_seconds: u64 = 30,
    }
}

fn default_image() -> ImageRef {
    // A constant that parses; `every_key_is_listed_with_its_default` parses it.
    #[allow(clippy::unwrap_used)]
    "localhost/botstead/workspace".parse().unwrap()
}

section! {
    /// Limits of a workspace where neither the request nor the bot sets them.
    WorkspaceLimits {
        /// Memory in bytes, page cache included; 0 for no limit.
        memory_bytes: u64 = 2 << 30,
        /// Processes and threads; 0 for no limit.
        pids: u64 = 1024,
        /// Processor time in thousandths of a core; 0 for no limit.
        cpu_millis: u64 = 0,
    }
}

section! {
    /// The most that a workspace's limits may be, whoever sets them. While there is a maximum, 0 for no
    /// limit is refused, too.
    MaxLimits {
        /// Memory in bytes; 0 for no maximum. Half of the host's, or the default limit where that is
        /// more, when not set.
        memory_bytes: Option<u64> = None,
        /// Processes and threads; 0 for no maximum. 8192, or the default limit where that is more, when
        /// not set.
        pids: Option<u64> = None,
        /// Processor time in thousandths of a core; 0 for no maximum.
        cpu_millis: u64 = 0,
    }
}

section! {
    /// How many versions that nobody asked for are kept, the latest of each kind, where a bot has no
    /// rules of its own in `metadata.workspace.retention`. Pinned ones and those that a user asked for
    /// stay.
    Retention {
        /// From before a command.
        pre_exec: usize = 20,
        /// From before a rollback.
        rollback: usize = 5,
        /// From before an import.
        import: usize = 5,
        /// From before a change of image.
        image: usize = 5,
    }
}

section! {
    /// Limits of the server as a whole.
    ServerLimits {
        /// New work that needs disk is refused while less than this is free in `data_dir`.
        min_free_bytes: u64 = 2 << 30,
        /// The same as a percentage: of the bytes, where the larger of the two holds, and of the inodes,
        /// where their number is fixed. 0 checks no inodes.
        min_free_percent: u8 = 1,
        /// How many workspaces are created or started at once; more wait. One user has at most half of
        /// them; what the server starts by itself has as many places of its own.
        max_concurrent_creates: usize = 8,
        /// How many exports of data may be under way; more are refused. One user has at most half of
        /// them.
        max_concurrent_exports: usize = 16,
    }
}

section! {
    /// The HTTP server.
    Http {
        /// Threads that serve requests. One per core when not set.
        workers: Option<usize> = None,
        /// The largest JSON body.
        body_limit_bytes: usize = 1 << 20,
        /// The largest image archive that may be uploaded.
        import_limit_bytes: u64 = 16 << 30,
        /// The largest file that is given or taken as text in JSON; larger ones use download and
        /// upload.
        text_limit_bytes: usize = 10 << 20,
        /// The largest file that may be uploaded into a workspace.
        upload_limit_bytes: u64 = 64 << 30,
        /// Pages that may open terminals beside the server's own, such as `https://panel.example`.
        allowed_origins: Vec<String> = Vec::new(),
        /// The largest list or search result that is given as one JSON reply; what is left out is said
        /// in it.
        reply_limit_bytes: usize = 8 << 20,
        /// The most bytes of bodies, of what is made of them, of outputs of commands and of replies, of
        /// all requests together, that are held in memory; more wait for some seconds and are refused
        /// then. One user has at most half of it. At least `8 * text_limit_bytes + 4 *
        /// body_limit_bytes`, and at least `4 * reply_limit_bytes`, whatever is set.
        memory_limit_bytes: usize = 256 << 20,
        /// How long a client may take to send a request's headers.
        header_timeout_seconds: u64 = 10,
        /// How long a client may take to send a JSON body, and how long an upload may stand still.
        request_timeout_seconds: u64 = 30,
        /// How long a client may take nothing of what is sent to it before it is cut off. For a reply that is
        /// held in memory, as all are but streams, downloads and exports, it has this time in all and a second
        /// for each 128 KiB.
        write_timeout_seconds: u64 = 60,
        /// The most connections at once, as far as the process may open files; for one more, the oldest
        /// request without a session goes, or the connection that was idle for longest, or where all
        /// have one the oldest request of the user with the most.
        max_connections: usize = 8192,
        /// The most of them from one address, or from one IPv6 network of 64 bits; of a client behind a
        /// trusted proxy the most requests under way. Never more than half of all; for one more, another
        /// of them goes by the same rule.
        max_connections_per_address: usize = 1024,
        /// Proxies whose `X-Forwarded-For` tells where a request comes from, as networks such as
        /// `127.0.0.1/32`. Without it all clients behind a proxy are one to the limits of sign-ins,
        /// connections and requests.
        trusted_proxies: Vec<IpNet> = Vec::new(),
        /// How long an idle connection is kept.
        keep_alive_seconds: u64 = 75,
        /// Whether `/metrics` is readable without signing in.
        public_metrics: bool = false,
    }
}

section! {
    /// Ending the server.
    Shutdown {
        /// How long requests and operations may go on after the server was asked to end. What is
        /// not done then is in the journal and is finished or undone at the next start.
        grace_seconds: u64 = 30,
        /// How long all workspaces together may take to stop when the host itself shuts down, which
        /// systemd tells. They start again with the host. When only the server ends, they go on.
        workspaces_seconds: u64 = 45,
    }
}
