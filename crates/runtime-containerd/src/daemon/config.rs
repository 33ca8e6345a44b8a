//! The settings of a managed containerd and the configuration file made from them.

use super::DaemonError;
use rustix::process::{Resource, Rlimit, getrlimit};
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a managed containerd is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// containerd's root: content, snapshots, metadata, and the lock. One per installation.
    pub data_root: PathBuf,
    /// State and socket. Short, because a socket's path has at most 107 bytes, and emptied by a
    /// reboot, as everything under `/run` is.
    pub run_dir: PathBuf,
    /// Where containerd writes what it has to say.
    pub log_file: PathBuf,
    /// The program, looked up in `PATH` when it is a bare name.
    pub containerd: PathBuf,
    /// Put before `PATH`, for the programs and shims of an unpacked package.
    pub path_prefix: Option<PathBuf>,
    /// How long it may take until it answers. Only one that neither answers nor ends is waited for
    /// so long.
    pub start_limit: Duration,
    /// The limit of open files that it has, and that workspaces inherit from it.
    pub open_files: Rlimit,
}

/// Enough for a slow machine's boot, where everything starts at once and no file is cached: 26 s were
/// seen.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Longest path of a Unix socket, without the final NUL (`unix(7)`).
const SOCKET_PATH_MAX: usize = 107;

/// Plugins that a workspace never needs. containerd ignores names it does not know, so that one
/// list serves all versions. Some reach out of the private directories: `cri` starts streaming
/// servers and CNI, `nri` owns a socket under `/var/run`, `opt` creates `/opt/containerd`;
/// `restart` starts containers behind the server's back.
/// Not in the list although unused: `io.containerd.runtime.v1.linux`, without which the tasks
/// service of 1.6 and 1.7 does not load.
const DISABLED_PLUGINS: &[&str] = &[
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.differ.v1.erofs",
    "io.containerd.grpc.v1.cri",
    "io.containerd.grpc.v1.sandbox-controllers",
    "io.containerd.grpc.v1.sandboxes",
    "io.containerd.grpc.v1.streaming",
    "io.containerd.grpc.v1.transfer",
    "io.containerd.image-verifier.v1.bindir",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.nri.v1.nri",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.streaming.v1.manager",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.transfer.v1.local",
];

impl DaemonConfig {
    /// The containerd of the host's `PATH`, with its log beside its root, and the limit of open files that
    /// this process has now: if it raises its own later, a containerd that is started again does not get
    /// that.
    pub fn new(data_root: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        let data_root = data_root.into();
        Self {
            run_dir: run_dir.into(),
            log_file: data_root.with_extension("log"),
            data_root,
            containerd: "containerd".into(),
            path_prefix: None,
            start_limit: START_LIMIT,
            open_files: getrlimit(Resource::Nofile),
        }
    }

    /// The same with absolute paths: containerd runs in `/`.
    pub(super) fn absolute(mut self) -> Result<Self, DaemonError> {
        for path in [&mut self.data_root, &mut self.run_dir, &mut self.log_file]
            .into_iter()
            .chain(&mut self.path_prefix)
        {
            *path = std::path::absolute(&*path).map_err(DaemonError::file("find", &*path))?;
        }
        let longest = self.socket().as_os_str().len() + ".ttrpc".len();
        if longest > SOCKET_PATH_MAX {
            return Err(DaemonError::Config {
                path: self.run_dir,
                reason: format!(
                    "the path of its socket has {longest} bytes, the kernel takes \
                     {SOCKET_PATH_MAX}; choose a shorter directory"
                ),
            });
        }
        Ok(self)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.run_dir.join("containerd.sock")
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.run_dir.join("config.toml")
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.data_root.join("lock")
    }

    /// Beside the data and not beside the socket, so that a survivor is found after `run_dir` was
    /// changed.
    pub(super) fn pid_file(&self) -> PathBuf {
        self.data_root.join("pid")
    }

    /// Where containerd has a folder for each task: of what it runs from, and of what it works in.
    pub(super) fn task_folders(&self) -> [PathBuf; 2] {
        let plugin = "io.containerd.runtime.v2.task";
        [
            self.run_dir.join("state").join(plugin),
            self.data_root.join(plugin),
        ]
    }

    /// Makes the directories.
    pub(super) fn make_dirs(&self) -> Result<(), DaemonError> {
        // Snapshots hold programs of images with any mode bits: no user of the host may reach them.
        make_dir(&self.data_root, 0o700)?;
        // Users of the host may pass, as with containerd's own state directory: a container's root
        // in a user namespace is one of them. They can list nothing, and the sockets are root's.
        make_dir(&self.run_dir, 0o711)?;
        match self.log_file.parent() {
            Some(dir) if !dir.exists() => make_dir(dir, 0o700),
            _ => Ok(()),
        }
    }

    /// Writes the configuration file.
    pub(super) fn write(&self) -> Result<(), DaemonError> {
        let text = self.render()?;
        let path = self.config_file();
        std::fs::write(&path, text).map_err(DaemonError::file("write", &path))
    }

    /// The configuration file, in the version that 1.6, 1.7 and 2.x understand.
    ///
    /// No `oom_score`: shims and workspaces would inherit it, and a workspace must not be spared
    /// when memory is short. containerd is restarted; a workspace would go on eating.
    fn render(&self) -> Result<String, DaemonError> {
        let root = quote(&self.data_root)?;
        let state = quote(&self.run_dir.join("state"))?;
        let socket = quote(&self.socket())?;
        let disabled: String = DISABLED_PLUGINS
            .iter()
            .map(|plugin| format!("  \"{plugin}\",\n"))
            .collect();
        Ok(format!(
            "# Written by Botstead at every start of this containerd; changes are lost.\n\
             version = 2\n\
             root = {root}\n\
             state = {state}\n\
             disabled_plugins = [\n{disabled}]\n\
             \n\
             # Owned by root with mode 0660. No TCP, no debug and no metrics address.\n\
             [grpc]\n  address = {socket}\n  uid = 0\n  gid = 0\n\
             \n\
             # Less than the default: the log is rotated only when containerd starts.\n\
             [debug]\n  level = \"warn\"\n"
        ))
    }
}

/// A path as a TOML string: JSON's escapes are TOML's too.
fn quote(path: &Path) -> Result<String, DaemonError> {
    let fail = |reason: &str| DaemonError::Config {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let text = path.to_str().ok_or_else(|| fail("it is not UTF-8"))?;
    serde_json::to_string(text).map_err(|_| fail("it cannot be written"))
}

/// Makes a directory with the mode, also when it was there with another one.
fn make_dir(path: &Path, mode: u32) -> Result<(), DaemonError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(DaemonError::file("make directory", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(run_dir: &str) -> DaemonConfig {
        DaemonConfig {
            data_root: "/data/\"odd\\ root".into(),
            run_dir: run_dir.into(),
            log_file: "/data/log".into(),
            ..DaemonConfig::new("", "")
        }
    }

    #[test]
    fn paths_are_quoted_for_toml() {
        let text = config("/run/b").render().unwrap();
        assert!(
            text.contains("\nroot = \"/data/\\\"odd\\\\ root\"\n"),
            "{text}"
        );
        assert!(
            text.contains("\n  address = \"/run/b/containerd.sock\"\n"),
            "{text}"
        );
        assert!(!text.contains("tcp_address"));
    }

    #[test]
    fn a_run_directory_too_long_for_a_socket_is_refused() {
        let error = config(&format!("/run/{}", "x".repeat(90)))
            .absolute()
            .unwrap_err();
        assert!(matches!(error, DaemonError::Config { .. }), "{error}");
        assert!(
            config(&format!("/run/{}", "x".repeat(70)))
                .absolute()
                .is_ok()
        );
    }
}
