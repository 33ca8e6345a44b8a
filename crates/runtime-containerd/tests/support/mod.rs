//! A real containerd of its own for a test, started through [`Daemon`], with a base of busybox.
//!
//! `BOTSTEAD_TEST_CONTAINERD_BIN` is the path of another containerd than the installed one; its shim
//! is beside it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program uses a part of it"
)]

use async_trait::async_trait;
use botstead_image_fixtures::{Compression, Registry, busybox};
use botstead_runtime::Runtime;
use botstead_runtime_containerd::daemon::{Daemon, DaemonConfig};
use botstead_runtime_containerd::images::RegistryConfig;
use botstead_runtime_containerd::{Containerd, ContainerdConfig};
use botstead_runtime_testing::InMemoryRuntime;
use botstead_runtime_testing::conformance::{Fixture, ImageFixture, Program};
use botstead_types::{ImageConfig, LeaseId, OperationId, ResolvedImage, SnapshotKey};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::sync::Mutex;

const PASSWD: &str = "root:x:0:0::/:/bin/sh\nbot:x:1000:1001::/:/bin/sh\n";

pub struct Real {
    pub runtime: Runtime,
    base: SnapshotKey,
    daemon: Mutex<Option<Daemon>>,
    registry: std::sync::Mutex<Option<Registry>>,
    pub config: ContainerdConfig,
    pub folder: tempfile::TempDir,
}

fn upper(runtime: &[botstead_runtime::SnapshotMount]) -> PathBuf {
    let mount = runtime.first().unwrap();
    mount.upper_dir().unwrap_or_else(|| (&mount.source).into())
}

/// Whether root may give a process a score below zero here (CAP_SYS_RESOURCE).
pub fn may_protect() -> bool {
    let capabilities = rustix::thread::capabilities(None).unwrap();
    let needed = rustix::thread::CapabilitySet::SYS_RESOURCE;
    capabilities.effective.contains(needed)
}

impl Real {
    pub async fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("bs")
            .tempdir_in("/run")
            .unwrap();
        let mut config = DaemonConfig::new(folder.path().join("root"), folder.path().join("r"));
        if let Ok(containerd) = std::env::var("BOTSTEAD_TEST_CONTAINERD_BIN") {
            config.path_prefix = Path::new(&containerd).parent().map(Path::to_owned);
            config.containerd = containerd.into();
        }
        let daemon = Daemon::start(config).await.unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let name = format!("test-{}", name.replace('.', ""));
        let mut config = ContainerdConfig::new(daemon.socket(), name, folder.path().join("s"));
        config.guard = std::env::var_os("BOTSTEAD_TEST_AGENT")
            .expect("BOTSTEAD_TEST_AGENT names no static agent: run `cargo xtask test`")
            .into();
        let registries = RegistryConfig {
            plain_http: vec!["127.0.0.1:*".parse().unwrap()],
            connect_timeout: Duration::from_secs(2),
            backoff: Duration::from_millis(20),
            ..RegistryConfig::default()
        };
        let network = InMemoryRuntime::new().runtime().network;
        let runtime = Containerd::connect(config.clone(), registries, network).unwrap();
        let lease = LeaseId::for_operation(OperationId::generate());
        runtime.leases.create(&lease).await.unwrap();
        let key = SnapshotKey::active(OperationId::generate());
        let base = SnapshotKey::version(OperationId::generate());
        let none = BTreeMap::new();
        let prepared = runtime.snapshots.prepare(&lease, &key, None, &none).await;
        prepared.unwrap();
        let root = upper(&runtime.snapshots.mounts(&key).await.unwrap());
        for name in ["bin", "proc", "sys", "dev", "etc", "run", "tmp"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join("bin/busybox"), mode).unwrap();
        symlink("busybox", root.join("bin/sh")).unwrap();
        std::fs::write(root.join("etc/passwd"), PASSWD).unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nstaff:x:50:\n").unwrap();
        std::fs::write(root.join("bin/plain"), "no program").unwrap();
        let committed = runtime.snapshots.commit(&lease, &key, &base, &none).await;
        committed.unwrap();
        runtime.leases.delete(lease.as_str()).await.unwrap();
        Self {
            runtime,
            base,
            daemon: Mutex::new(Some(daemon)),
            registry: std::sync::Mutex::new(None),
            config,
            folder,
        }
    }
}

impl Real {
    /// Kills containerd, which is started again.
    pub async fn kill_containerd(&self) {
        let pid = self.daemon.lock().await.as_ref().and_then(Daemon::pid);
        // Between two of them there is none.
        if let Some(pid) = pid {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// The same containerd for a process that knows nothing of it yet.
    pub fn connected_again(&self) -> Runtime {
        let network = InMemoryRuntime::new().runtime().network;
        Containerd::connect(self.config.clone(), RegistryConfig::default(), network).unwrap()
    }
}

#[async_trait]
impl Fixture for Real {
    fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }

    fn image(&self) -> ResolvedImage {
        ResolvedImage {
            reference: "localhost/base:1".parse().unwrap(),
            digest: format!("sha256:{}", "0".repeat(64)),
            config: ImageConfig::default(),
        }
    }

    fn base(&self) -> SnapshotKey {
        self.base.clone()
    }

    async fn put_file(&self, key: &SnapshotKey, path: &str, content: &[u8]) {
        let root = upper(&self.runtime.snapshots.mounts(key).await.unwrap());
        std::fs::write(root.join(path.trim_start_matches('/')), content).unwrap();
    }

    async fn read_file(&self, key: &SnapshotKey, path: &str) -> Option<Vec<u8>> {
        let mounts = self.runtime.snapshots.mounts(key).await.unwrap();
        let mut folders = vec![upper(&mounts)];
        let lower = mounts[0]
            .options
            .iter()
            .find_map(|o| o.strip_prefix("lowerdir="));
        folders.extend(lower.unwrap_or_default().split(':').map(PathBuf::from));
        let path = path.trim_start_matches('/');
        folders
            .iter()
            .find_map(|folder| std::fs::read(folder.join(path)).ok())
    }

    fn program(&self, program: Program) -> Vec<String> {
        let script = |text: &str| ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        match program {
            Program::Forever => script("trap 'exit 0' TERM; while :; do busybox sleep 0.02; done"),
            Program::Stubborn => script("trap '' TERM; while :; do busybox sleep 1; done"),
            Program::Exit(code) => script(&format!("exit {code}")),
            Program::Missing => vec!["/bin/missing".to_owned()],
        }
    }

    fn images(&self) -> Option<ImageFixture> {
        let mut registry = self.registry.lock().unwrap();
        let started = registry.insert(Registry::start().unwrap());
        let pushed = std::thread::scope(|scope| {
            let push = || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let compressions = [Compression::Gzip, Compression::Zstd];
                let image = busybox(Path::new("/bin/busybox"), &compressions).unwrap();
                let push = started.push("busybox", "1", &image);
                runtime.block_on(push).unwrap()
            };
            scope.spawn(push).join().unwrap()
        });
        // Bound and given back: nothing listens there.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        Some(ImageFixture {
            present: pushed.parse().unwrap(),
            absent: started.reference("missing", "1").parse().unwrap(),
            unreachable: format!("{}/busybox:1", closed.unwrap()).parse().unwrap(),
        })
    }

    async fn clean_up(&self) {
        let Some(daemon) = self.daemon.lock().await.take() else {
            return;
        };
        daemon.stop().await.unwrap();
        // runc removes the cgroups of containers, not their parent.
        let trees = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        let trees = trees.flatten().map(|tree| tree.path());
        for tree in trees.chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(tree.join(&self.config.cgroup_parent));
        }
        let left = Command::new("findmnt")
            .args(["-rno", "TARGET"])
            .output()
            .unwrap();
        let left = String::from_utf8_lossy(&left.stdout).into_owned();
        let ours = self.folder.path().to_string_lossy().into_owned();
        if !std::thread::panicking() {
            assert!(!left.contains(&ours), "a mount is left: {left}");
        }
    }
}
