//! `serve`: builds the adapters, puts the service together and runs it until it is told to end.
//!
//! Everything is constructed here, in the order in which it depends on each other, and ended in
//! reverse. Workspaces and a managed containerd go on when this ends.

use crate::config::{Config, ContainerdMode};
use crate::installation::Installation;
use crate::notify::{self, Notifier};
use crate::{memory, process};
use anyhow::{Context, ensure};
use botstead_accounts::{Accounts, Settings, TokenKey};
use botstead_http::{HttpConfig, MetricsAccess, Services};
use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use botstead_runtime::{Network, Runtime};
use botstead_runtime_containerd::daemon::{Daemon, DaemonConfig};
use botstead_runtime_containerd::images::{Authorities, ImageLimits, RegistryConfig};
use botstead_runtime_containerd::{Containerd, ContainerdConfig};
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::{ContainerId, Limits};
use botstead_workspace::{RetentionRules, WorkspaceConfig, Workspaces};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What the end of a server and its containerd takes beside the work that is under way.
const TO_END: Duration = Duration::from_secs(30);

/// Runs the server until SIGTERM, SIGINT or SIGHUP. When the host shuts down, the workspaces and a
/// managed containerd are stopped too.
///
/// # Errors
/// What could not be prepared, with its cause.
pub async fn serve(config: &Config) -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the server makes mounts, namespaces and control groups and must run as root; run it with sudo"
    );
    let shutdown = process::shutdown_signal()?;
    memory::give_back().context("cannot start a thread")?;
    let manager = Notifier::from_environment();
    let installation = Installation::prepare(config)?;
    let _lock = installation.lock()?;
    let handle = Handle::current();

    let database = SqlStore::open(&SqlConfig::at(installation.database_path(config)))
        .await
        .context("cannot open the database")?;
    let accounts = accounts(config, &installation, &database, handle.clone())?;

    let (socket, daemon) = containerd(config, &installation).await?;
    // After the limit that was is noted for a managed containerd: workspaces inherit theirs from it.
    process::raise_open_files();
    let network = network(config, &installation)?;
    let runtime = runtime(config, &installation, &socket, network)?;
    let workspaces = Workspaces::open(runtime, database.store(), workspace_config(config)?, handle)
        .await
        .context("cannot bring the workspaces up")?;

    let services = Services {
        workspaces: workspaces.clone(),
        accounts,
    };
    let served = async {
        let served = answer(
            http_config(config, &installation),
            services,
            &shutdown,
            &manager,
        );
        let served = served.await;
        shutdown.cancel();
        served
    };
    let grace = Duration::from_secs(config.shutdown.grace_seconds);
    let limit = Duration::from_secs(config.shutdown.workspaces_seconds);
    // Calls that wait for a workspace end with it, so neither waits for the other.
    let host_stops = async {
        shutdown.cancelled().await;
        let host_stops = notify::host_shuts_down().await;
        manager.stopping(grace + limit + TO_END);
        if host_stops {
            workspaces.stop_all(limit).await;
        }
        host_stops
    };
    let (served, host_stops) = tokio::join!(served, host_stops);
    if !workspaces.close(grace).await {
        tracing::warn!("some operations were not finished; the next start finishes or undoes them");
    }
    if let (true, Some(daemon)) = (host_stops, daemon)
        && let Err(error) = daemon.stop().await
    {
        tracing::warn!(%error, "cannot end containerd");
    }
    database.close().await;
    served.context("the HTTP server failed")
}

/// Serves until `shutdown`; the service manager hears of it when requests are answered.
async fn answer(
    config: HttpConfig,
    services: Services,
    shutdown: &CancellationToken,
    manager: &Notifier,
) -> Result<(), botstead_http::Error> {
    let server = botstead_http::Server::bind(config, services)?;
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    manager.ready();
    server.run(shutdown.cancelled()).await
}

fn accounts(
    config: &Config,
    installation: &Installation,
    database: &SqlStore,
    handle: Handle,
) -> anyhow::Result<Accounts> {
    let key = TokenKey::load_or_create(&installation.token_key_path())?;
    let defaults = Settings::default();
    let settings = Settings {
        token_ttl: Duration::from_secs(config.auth.token_ttl_seconds),
        max_concurrent_hashes: config
            .auth
            .max_concurrent_hashes
            .unwrap_or(defaults.max_concurrent_hashes),
        bounds: config.bounds()?,
    };
    Ok(Accounts::new(database.store(), &settings, &key, handle))
}

/// The socket of the containerd to use, with the daemon where it is our own.
async fn containerd(
    config: &Config,
    installation: &Installation,
) -> anyhow::Result<(PathBuf, Option<Daemon>)> {
    let settings = &config.runtime.containerd;
    if settings.mode == ContainerdMode::External {
        return Ok((settings.socket.clone(), None));
    }
    let root = installation.data_dir.join("containerd");
    let mut own = DaemonConfig::new(root, installation.managed_state());
    own.containerd.clone_from(&settings.binary);
    own.start_limit = Duration::from_secs(settings.start_timeout_seconds);
    let daemon = Daemon::start(own)
        .await
        .context("cannot start containerd")?;
    Ok((daemon.socket().to_owned(), Some(daemon)))
}

/// The bridge network. A subnet that was chosen is kept: addresses are recorded in the database,
/// and after a restart of the host another one might be free.
pub(crate) fn network(
    config: &Config,
    installation: &Installation,
) -> anyhow::Result<Arc<dyn Network>> {
    let network = bridge(config, installation)?;
    if config.network.subnet.is_none() {
        let kept = kept_subnet(installation);
        std::fs::write(&kept, format!("{}\n", network.info().subnet))
            .with_context(|| format!("cannot write {}", kept.display()))?;
    }
    Ok(Arc::new(network))
}

fn kept_subnet(installation: &Installation) -> PathBuf {
    installation.data_dir.join("subnet")
}

fn bridge(config: &Config, installation: &Installation) -> anyhow::Result<BridgeNetwork> {
    let mut bridge =
        BridgeConfig::for_installation(&installation.id, installation.run_dir.join("netns"));
    if let Some(name) = &config.network.bridge {
        bridge.bridge_name.clone_from(name);
    }
    bridge.subnet = match config.network.subnet {
        Some(subnet) => Some(subnet),
        None => read_kept(&kept_subnet(installation))?,
    };
    bridge.nameservers.clone_from(&config.network.nameservers);
    bridge.mtu = config.network.mtu;
    bridge.blocked.clone_from(&config.network.blocked);
    BridgeNetwork::new(bridge).context("cannot plan the network")
}

/// How long processes may take to leave their control group, once they were killed.
const TO_LEAVE: Duration = Duration::from_secs(5);

/// Takes away what the server set up on the host for all workspaces: their network namespaces, the
/// bridge and its firewall rules, and empty control groups. Everything comes back with the next start.
/// Only while neither a server nor any workspace runs: it cuts their network.
///
/// # Errors
/// When a server or a workspace runs, and then nothing was removed; or with what could not be removed.
pub async fn teardown(config: &Config) -> anyhow::Result<()> {
    let installation = Installation::prepare(config)?;
    let _lock = installation.lock()?;
    let network = bridge(config, &installation)?;
    let parent = installation.cgroup_parent(config);
    let namespaces = network.list().await.context("cannot list namespaces")?;
    let deadline = Instant::now() + TO_LEAVE;
    while let Some(id) = namespaces.iter().find(|id| runs(&parent, id)) {
        ensure!(
            Instant::now() < deadline,
            "workspace {id} runs, and this would cut its network; start the server and stop the workspaces \
             first, or end their processes. Nothing was removed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for id in &namespaces {
        network
            .remove(id)
            .await
            .context("cannot remove a namespace")?;
    }
    network
        .teardown_host()
        .await
        .context("cannot remove the bridge")?;
    let left = remove_control_groups(|| control_groups(&parent), Instant::now() + TO_LEAVE).await;
    if let Some(left) = left {
        tracing::warn!(group = %left.display(),
            "processes are in a control group: it stays; end what is in it, then run teardown again");
    }
    Ok(())
}

fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
}

/// The installation's folder of control groups. With version 1 each controller has a tree of its own.
fn control_groups(parent: &str) -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let trees = folders(root).chain([root.to_owned()]);
    trees.map(move |tree| tree.join(parent.trim_matches('/')))
}

/// Whether a workspace has processes.
fn runs(parent: &str, id: &ContainerId) -> bool {
    control_groups(parent).any(|ours| has_processes(&ours.join(id.as_str())))
}

/// Whether a process is in a control group or below it.
fn has_processes(group: &Path) -> bool {
    let own = std::fs::read(group.join("cgroup.procs"));
    own.is_ok_and(|list| !list.is_empty()) || folders(group).any(|below| has_processes(&below))
}

fn is_workspace(group: &str) -> bool {
    let id = group.parse::<ContainerId>();
    id.is_ok_and(|id| id.bot().is_some())
}

/// Removes the installation's control groups, as far as no process is in them: rmdir(2) takes only empty
/// ones, and what was killed may leave later. Tells one that is left.
async fn remove_control_groups<I: Iterator<Item = PathBuf>>(
    all: impl Fn() -> I,
    deadline: Instant,
) -> Option<PathBuf> {
    loop {
        let mut left = None;
        for ours in all().filter(|ours| ours.exists()) {
            let mut others = false;
            for group in folders(&ours) {
                // Below a parent that the operator named there may be anything.
                match group.file_name().and_then(|name| name.to_str()) {
                    Some(name) if is_workspace(name) => {
                        if std::fs::remove_dir(&group).is_err() && group.exists() {
                            left = Some(group);
                        }
                    }
                    _ => others = true,
                }
            }
            if !others && std::fs::remove_dir(&ours).is_err() && ours.exists() {
                left = Some(ours);
            }
        }
        if left.is_none() || Instant::now() > deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn read_kept<T>(path: &Path) -> anyhow::Result<Option<T>>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let value = text.trim().parse();
            Ok(Some(value.with_context(|| {
                format!("cannot read {}", path.display())
            })?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

pub(crate) fn runtime(
    config: &Config,
    installation: &Installation,
    socket: &Path,
    network: Arc<dyn Network>,
) -> anyhow::Result<Runtime> {
    let namespace = installation.containerd_namespace(config);
    let state_root = installation.data_dir.join("runtime");
    let mut containerd = ContainerdConfig::new(socket, namespace, state_root);
    containerd
        .snapshotter
        .clone_from(&config.runtime.containerd.snapshotter);
    containerd.channel_root = installation.run_dir.join("channels");
    containerd.etc_root = installation.run_dir.join("etc");
    containerd.guard = agent(config)?;
    containerd.cgroup_parent = installation.cgroup_parent(config);
    containerd.runc_root = installation.run_dir.join("runc");
    let runc = &config.runtime.containerd.runc_binary;
    if runc != Path::new("runc") {
        containerd.runtime_binary = runc.to_string_lossy().into_owned();
    }
    let hosts = config.registry.hosts()?;
    let trusted = config.registry.authorities()?;
    let authorities = |path: &Path| {
        Authorities::read(path).context("registry.certificate_authorities is not valid")
    };
    let of_hosts = trusted.of_hosts.iter();
    let of_hosts = of_hosts.map(|(host, path)| Ok((host.clone(), authorities(path)?)));
    let registries = RegistryConfig {
        plain_http: hosts.insecure,
        private: hosts.private,
        token_services: hosts.token_services,
        credentials_file: config.registry.credentials_file.clone(),
        mirrors: config.registry.mirrors()?,
        set_registries_file: Some(installation.set_registries_path()),
        authorities: trusted.of_all.as_deref().map(authorities).transpose()?,
        authorities_of: of_hosts.collect::<anyhow::Result<_>>()?,
        limits: ImageLimits {
            layers: config.images.max_layers,
            layer_bytes: config.images.max_layer_bytes,
            bytes: config.images.max_bytes,
            unpacked_bytes: config.images.max_unpacked_bytes,
            config_bytes: config.images.max_config_bytes,
        },
        ..RegistryConfig::default()
    };
    Containerd::connect(containerd, registries, network).context("cannot set up the runtime")
}

fn workspace_config(config: &Config) -> anyhow::Result<WorkspaceConfig> {
    let settings = &config.workspace;
    let mut workspace = WorkspaceConfig::new(agent(config)?, config.data_dir.clone());
    workspace.retention = RetentionRules {
        pre_exec: settings.retention.pre_exec,
        rollback: settings.retention.rollback,
        import: settings.retention.import,
        image: settings.retention.image,
    };
    workspace.default_image = settings.default_image.clone();
    workspace.bounds = config.bounds()?;
    workspace.max_image_config_bytes = config.images.max_config_bytes;
    workspace.default_limits = Limits {
        memory_bytes: Some(settings.limits.memory_bytes),
        pids: Some(settings.limits.pids),
        cpu_millis: Some(settings.limits.cpu_millis),
    };
    workspace.template = existing("workspace.template_dir", &settings.template_dir)?;
    workspace.toolkit = existing("workspace.toolkit_dir", &settings.toolkit_dir)?;
    workspace.terminal_idle = Duration::from_secs(settings.terminal_idle_seconds);
    workspace.shared_memory_bytes = settings.shm_bytes;
    workspace.timezone = settings.timezone.clone();
    workspace.timezone_rule = settings.timezone.as_deref().and_then(timezone_rule);
    workspace.stop_grace = Duration::from_secs(settings.stop_grace_seconds);
    workspace.pull_timeout = Duration::from_secs(settings.pull_timeout_seconds);
    workspace.busy_wait = Duration::from_secs(settings.busy_timeout_seconds);
    workspace.min_free_bytes = config.limits.min_free_bytes;
    workspace.min_free_percent = config.limits.min_free_percent;
    workspace.max_concurrent_starts = config.limits.max_concurrent_creates;
    workspace.max_concurrent_exports = config.limits.max_concurrent_exports;
    Ok(workspace)
}

/// The agent's program.
fn agent(config: &Config) -> anyhow::Result<PathBuf> {
    let agent = match &config.workspace.agent_path {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context("cannot find this program")?
            .with_file_name("botstead-agent"),
    };
    anyhow::ensure!(
        agent.is_file(),
        "the agent {} is missing; build it with `cargo xtask up`, or set workspace.agent_path",
        agent.display()
    );
    Ok(agent)
}

/// A directory that was configured, which must be there: workspaces could not start without it.
fn existing(key: &str, path: &Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = path else { return Ok(None) };
    let path = std::fs::canonicalize(path)
        .with_context(|| format!("cannot use {key} = {}", path.display()))?;
    anyhow::ensure!(
        path.is_dir(),
        "{key} = {} is not a directory",
        path.display()
    );
    Ok(Some(path))
}

/// The rule of a time zone for times to come: the last line of its file (RFC 9636, 3.3).
fn timezone_rule(zone: &str) -> Option<String> {
    let bytes = std::fs::read(Path::new("/usr/share/zoneinfo").join(zone)).ok()?;
    let rule = bytes
        .strip_suffix(b"\n")?
        .rsplit(|byte| *byte == b'\n')
        .next()?;
    let rule = std::str::from_utf8(rule).ok()?;
    (!rule.is_empty() && rule.chars().all(|c| c.is_ascii_graphic())).then(|| rule.to_owned())
}

fn http_config(config: &Config, installation: &Installation) -> HttpConfig {
    let settings = &config.http;
    HttpConfig {
        listen: vec![config.listen],
        workers: settings.workers,
        max_json_bytes: settings.body_limit_bytes,
        max_import_bytes: settings.import_limit_bytes,
        max_text_bytes: settings.text_limit_bytes,
        max_upload_bytes: settings.upload_limit_bytes,
        allowed_origins: settings.allowed_origins.clone(),
        spool_dir: installation.data_dir.join("spool"),
        header_timeout: Duration::from_secs(settings.header_timeout_seconds),
        body_timeout: Duration::from_secs(settings.request_timeout_seconds),
        write_timeout: Duration::from_secs(settings.write_timeout_seconds),
        keep_alive: Duration::from_secs(settings.keep_alive_seconds),
        max_connections: settings.max_connections,
        max_connections_per_address: settings.max_connections_per_address,
        max_reply_bytes: settings.reply_limit_bytes,
        max_memory_bytes: settings.memory_limit_bytes,
        trusted_proxies: settings.trusted_proxies.clone(),
        shutdown_grace: Duration::from_secs(config.shutdown.grace_seconds),
        metrics: match settings.public_metrics {
            true => MetricsAccess::Open,
            false => MetricsAccess::Admin,
        },
        min_reply_pace: HttpConfig::default().min_reply_pace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::BotId;

    #[tokio::test]
    async fn a_control_group_is_waited_for_also_beside_a_folder_of_somebody_else() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path();
        let others = parent.join("others");
        let workspace = parent.join(ContainerId::for_bot(BotId::generate()).as_str());
        // As a process is in a group, something in a folder keeps that from being removed.
        let process = workspace.join("process");
        for folder in [&others, &workspace, &process] {
            std::fs::create_dir(folder).unwrap();
        }
        let all = || std::iter::once(parent.to_owned());
        let left = remove_control_groups(all, Instant::now()).await;
        assert_eq!(left.as_ref(), Some(&workspace));
        let removed = remove_control_groups(all, Instant::now() + Duration::from_secs(60));
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::fs::remove_dir(&process).unwrap();
        };
        assert_eq!(tokio::join!(removed, leaves).0, None);
        assert!(others.exists() && !workspace.exists());
    }
}
