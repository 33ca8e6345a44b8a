//! Which containerd, and how this installation uses it.

use botstead_types::ContainerId;
use prost::Message;
use prost_types::Any;
use std::path::PathBuf;

/// How this installation uses a containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerdConfig {
    /// containerd's gRPC socket.
    pub socket: PathBuf,
    /// The containerd namespace, of this installation alone.
    pub namespace: String,
    /// The snapshotter, such as `overlayfs`.
    pub snapshotter: String,
    /// Where the adapter keeps pipes.
    pub state_root: PathBuf,
    /// Where the directories are that containers share with the host for sockets: each a mount of its
    /// own. On a filesystem that a restart of the host empties.
    pub channel_root: PathBuf,
    /// Where the files are that containers see as `/etc/hosts` and the like: each container's on a mount
    /// of its own. On a filesystem that a restart of the host empties.
    pub etc_root: PathBuf,
    /// The folder in the cgroup tree below which every container has its own.
    pub cgroup_parent: String,
    /// The shim, such as `io.containerd.runc.v2`.
    pub runtime: String,
    /// The program that the shim runs, such as a path of runc; empty means the shim's own choice.
    pub runtime_binary: String,
    /// Where runc keeps its state. Different for every installation, or equal ids collide.
    pub runc_root: PathBuf,
    /// The agent's program: as a process of the host it lets a frozen workspace go on when this
    /// process cannot.
    pub guard: PathBuf,
    /// Where CDI files are, in ascending precedence.
    pub cdi_folders: Vec<PathBuf>,
}

/// `containerd.runc.v1.Options`, the part that is used.
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
}

impl ContainerdConfig {
    /// The usual settings for this socket and namespace, with all state below `state_root`.
    pub fn new(
        socket: impl Into<PathBuf>,
        namespace: impl Into<String>,
        state_root: impl Into<PathBuf>,
    ) -> Self {
        let (namespace, state_root) = (namespace.into(), state_root.into());
        Self {
            socket: socket.into(),
            snapshotter: "overlayfs".to_owned(),
            cgroup_parent: namespace.clone(),
            namespace,
            runtime: "io.containerd.runc.v2".to_owned(),
            runtime_binary: String::new(),
            runc_root: state_root.join("runc"),
            channel_root: state_root.join("channels"),
            etc_root: state_root.join("etc"),
            guard: "botstead-agent".into(),
            state_root,
            cdi_folders: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        }
    }

    /// The container's folder in the cgroup tree.
    pub(crate) fn cgroup(&self, id: &ContainerId) -> String {
        format!("/{}/{id}", self.cgroup_parent.trim_matches('/'))
    }

    pub(crate) fn runtime_options(&self) -> Any {
        let options = RuncOptions {
            binary_name: self.runtime_binary.clone(),
            root: self.runc_root.to_string_lossy().into_owned(),
        };
        Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.encode_to_vec(),
        }
    }
}
