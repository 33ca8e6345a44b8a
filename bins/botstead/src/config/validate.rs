//! What a configuration may not be although every value has the right type.

use super::{Config, ConfigError};
use botstead_types::Limits;
use std::path::Path;

/// `sun_path` has 108 bytes with the final zero; this leaves room for the names below `run_dir`.
const LONGEST_RUN_DIR: usize = 48;
/// Ten years: what is longer is a mistake, and would not fit into dates everywhere.
const LONGEST_SECONDS: u64 = 10 * 366 * 24 * 60 * 60;

impl Config {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// `Invalid` with the first such key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        absolute("data_dir", &self.data_dir)?;
        absolute("run_dir", &self.run_dir)?;
        if self.run_dir.as_os_str().len() > LONGEST_RUN_DIR {
            let reason = format!("longer than {LONGEST_RUN_DIR} bytes, sockets in it may not work");
            return Err(invalid("run_dir", reason));
        }
        if let Some(path) = &self.database.path {
            absolute("database.path", path)?;
        }
        for (key, path) in [
            ("registry.credentials_file", &self.registry.credentials_file),
            ("workspace.agent_path", &self.workspace.agent_path),
            ("workspace.template_dir", &self.workspace.template_dir),
            ("workspace.toolkit_dir", &self.workspace.toolkit_dir),
        ] {
            if let Some(path) = path {
                absolute(key, path)?;
            }
        }
        absolute("runtime.containerd.socket", &self.runtime.containerd.socket)?;
        program("runtime.containerd.binary", &self.runtime.containerd.binary)?;
        program(
            "runtime.containerd.runc_binary",
            &self.runtime.containerd.runc_binary,
        )?;
        for (key, value, least) in [
            ("auth.token_ttl_seconds", self.auth.token_ttl_seconds, 60),
            (
                "workspace.stop_grace_seconds",
                self.workspace.stop_grace_seconds,
                0,
            ),
            // 0 would be no limit (tmpfs(5)).
            ("workspace.shm_bytes", self.workspace.shm_bytes, 4096),
            (
                "workspace.pull_timeout_seconds",
                self.workspace.pull_timeout_seconds,
                1,
            ),
            (
                "workspace.busy_timeout_seconds",
                self.workspace.busy_timeout_seconds,
                0,
            ),
            (
                "workspace.terminal_idle_seconds",
                self.workspace.terminal_idle_seconds,
                0,
            ),
            (
                "http.header_timeout_seconds",
                self.http.header_timeout_seconds,
                1,
            ),
            (
                "http.request_timeout_seconds",
                self.http.request_timeout_seconds,
                1,
            ),
            (
                "http.write_timeout_seconds",
                self.http.write_timeout_seconds,
                1,
            ),
            ("http.keep_alive_seconds", self.http.keep_alive_seconds, 1),
            ("shutdown.grace_seconds", self.shutdown.grace_seconds, 0),
            (
                "shutdown.workspaces_seconds",
                self.shutdown.workspaces_seconds,
                0,
            ),
            (
                "runtime.containerd.start_timeout_seconds",
                self.runtime.containerd.start_timeout_seconds,
                1,
            ),
        ] {
            if !(least..=LONGEST_SECONDS).contains(&value) {
                let reason = format!("expected {least} to {LONGEST_SECONDS}");
                return Err(invalid(key, reason));
            }
        }
        at_least_one(
            "limits.max_concurrent_creates",
            Some(self.limits.max_concurrent_creates),
        )?;
        at_least_one(
            "auth.max_concurrent_hashes",
            self.auth.max_concurrent_hashes,
        )?;
        at_least_one(
            "limits.max_concurrent_exports",
            Some(self.limits.max_concurrent_exports),
        )?;
        at_least_one("http.workers", self.http.workers)?;
        at_least_one("http.max_connections", Some(self.http.max_connections))?;
        at_least_one(
            "http.max_connections_per_address",
            Some(self.http.max_connections_per_address),
        )?;
        if self.http.reply_limit_bytes < 128 << 10 {
            // One entry alone may have 48 KiB: a long name that is not UTF-8, and where it leads.
            let reason = "expected at least 131072, for the longest names of files";
            return Err(invalid("http.reply_limit_bytes", reason));
        }
        if self.http.body_limit_bytes < 128 << 10 {
            // A bot's metadata alone may have 64 KiB, and JSON escapes make text longer.
            let reason = "expected at least 131072, for the largest metadata of a bot";
            return Err(invalid("http.body_limit_bytes", reason));
        }
        if self.limits.min_free_percent > 90 {
            return Err(invalid("limits.min_free_percent", "expected at most 90"));
        }
        self.validate_runtime()?;
        self.validate_network()?;
        self.validate_workspace()?;
        tracing_subscriber::EnvFilter::try_new(&self.log.filter)
            .map(drop)
            .map_err(|error| invalid("log.filter", error.to_string()))
    }

    fn validate_runtime(&self) -> Result<(), ConfigError> {
        let containerd = &self.runtime.containerd;
        if let Some(namespace) = &containerd.namespace {
            identifier("runtime.containerd.namespace", namespace)?;
        }
        identifier("runtime.containerd.snapshotter", &containerd.snapshotter)?;
        if let Some(parent) = &self.runtime.cgroup_parent {
            let plain = parent.len() > 1
                && parent.starts_with('/')
                && parent.split('/').skip(1).all(|part| {
                    !matches!(part, "" | "." | "..") && !part.contains(char::is_control)
                });
            if !plain {
                let reason = "expected a path below the root of the control groups, such as /a/b";
                return Err(invalid("runtime.cgroup_parent", reason));
            }
        }
        self.registry.hosts().map(drop)?;
        self.registry.mirrors().map(drop)?;
        self.registry.authorities().map(drop)?;
        let images = &self.images;
        for (key, value) in [
            ("images.max_layer_bytes", images.max_layer_bytes),
            ("images.max_bytes", images.max_bytes),
            ("images.max_unpacked_bytes", images.max_unpacked_bytes),
        ] {
            if !(1..=1 << 50).contains(&value) {
                return Err(invalid(key, "expected 1 to 1125899906842624"));
            }
        }
        if !(1..=256).contains(&images.max_layers) {
            return Err(invalid("images.max_layers", "expected 1 to 256"));
        }
        if !(1 << 10..=4 << 20).contains(&images.max_config_bytes) {
            let reason = "expected 1024 to 4194304";
            return Err(invalid("images.max_config_bytes", reason));
        }
        Ok(())
    }

    fn validate_network(&self) -> Result<(), ConfigError> {
        let network = &self.network;
        if let Some(subnet) = network.subnet {
            if subnet.addr() != subnet.network() {
                let reason = format!(
                    "{subnet} is not a network, did you mean {}?",
                    subnet.trunc()
                );
                return Err(invalid("network.subnet", reason));
            }
            if !(8..=29).contains(&subnet.prefix_len()) {
                let reason = "expected a prefix of 8 to 29 bits";
                return Err(invalid("network.subnet", reason));
            }
        }
        if let Some(bridge) = &network.bridge {
            let plain = (1..=15).contains(&bridge.len())
                && bridge.starts_with(|c: char| c.is_ascii_alphabetic())
                && bridge
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            if !plain {
                let reason = "expected a letter and up to 14 letters, digits, '-' and '_'";
                return Err(invalid("network.bridge", reason));
            }
        }
        if let Some(address) = network.nameservers.iter().find(|a| a.is_loopback()) {
            let reason = format!("{address} is loopback, which in a workspace is the workspace");
            return Err(invalid("network.nameservers", reason));
        }
        if network
            .mtu
            .is_some_and(|mtu| !(576..=65_535).contains(&mtu))
        {
            return Err(invalid("network.mtu", "expected 576 to 65535"));
        }
        Ok(())
    }

    fn validate_workspace(&self) -> Result<(), ConfigError> {
        let workspace = &self.workspace;
        let limits = Limits {
            memory_bytes: Some(workspace.limits.memory_bytes),
            pids: Some(workspace.limits.pids),
            cpu_millis: Some(workspace.limits.cpu_millis),
        };
        limits
            .check()
            .map_err(|error| invalid("workspace.limits", error.to_string()))?;
        if let Some(timezone) = &workspace.timezone {
            let plain = !timezone.starts_with('/')
                && timezone.split('/').all(|part| {
                    !part.is_empty()
                        && part
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || "+-_".contains(c))
                });
            if !plain {
                let reason = "expected a name such as Europe/Zurich or UTC";
                return Err(invalid("workspace.timezone", reason));
            }
            let zones = Path::new("/usr/share/zoneinfo");
            if zones.is_dir() && !zones.join(timezone).is_file() {
                let reason = format!(
                    "the host has no time zone {timezone:?}, see: ls {}",
                    zones.display()
                );
                return Err(invalid("workspace.timezone", reason));
            }
        }
        self.bounds().map(drop)
    }
}

pub(super) fn invalid(key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        key,
        reason: reason.into(),
    }
}

pub(super) fn absolute(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    let reason = format!("{:?} is not an absolute path", path.display().to_string());
    Err(invalid(key, reason))
}

fn program(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    let name_only = path.components().count() == 1 && !path.as_os_str().is_empty();
    if path.is_absolute() || name_only {
        return Ok(());
    }
    Err(invalid(
        key,
        "expected an absolute path or a program's name",
    ))
}

fn at_least_one(key: &'static str, value: Option<usize>) -> Result<(), ConfigError> {
    match value {
        Some(0) => Err(invalid(key, "expected at least 1")),
        _ => Ok(()),
    }
}

/// containerd's rule for names (its `identifiers` package).
fn identifier(key: &'static str, text: &str) -> Result<(), ConfigError> {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let plain = (1..=76).contains(&text.len())
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || "-_.".contains(c));
    if plain {
        return Ok(());
    }
    let reason = "expected up to 76 letters, digits, '-', '_' and '.', with a letter or digit \
                  first and last";
    Err(invalid(key, reason))
}
