//! The model on a containerd of its own.

use crate::counted::counted;
use crate::ground::{Fault, Files, Ground};
use crate::world::LINK;
use botstead_authz::Actor;
use botstead_image_fixtures::{Compression, busybox, oci_archive};
use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use botstead_runtime::{Access, Runtime, Signal};
use botstead_runtime_containerd::daemon::{Daemon, DaemonConfig};
use botstead_runtime_containerd::images::RegistryConfig;
use botstead_runtime_containerd::{Containerd, ContainerdConfig};
use botstead_runtime_testing::memory::Killed;
use botstead_store::{ContainerRecord, Store};
use botstead_types::{ContainerId, LeaseId, OperationId, SnapshotKey, SnapshotKind};
use botstead_workspace::{ExecRequest, WorkspaceConfig, Workspaces};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const IMAGES: [&str; 2] = ["localhost/model/one:latest", "localhost/model/other:latest"];

/// A containerd with as many installations as sequences run at the same time.
pub struct Host {
    daemon: Option<Daemon>,
    tokio: tokio::runtime::Runtime,
    agent: PathBuf,
    data: TempDir,
    run: TempDir,
    free: Mutex<Vec<String>>,
    installations: Vec<String>,
}

impl Host {
    pub fn start(installations: usize) -> Self {
        let agent = std::env::var_os("BOTSTEAD_TEST_AGENT").map(PathBuf::from).expect(
            "BOTSTEAD_TEST_AGENT names the static agent; `cargo xtask test` builds it and sets this",
        );
        let name = format!("model-{}", std::process::id());
        let mut folder = tempfile::Builder::new();
        folder.prefix(&name);
        let (data, run) = (
            folder.tempdir_in("/var/tmp").unwrap(),
            folder.tempdir_in("/run").unwrap(),
        );
        let tokio = tokio::runtime::Runtime::new().unwrap();
        let config = DaemonConfig::new(data.path().join("containerd"), run.path().join("c"));
        let daemon = tokio.block_on(Daemon::start(config)).unwrap();
        let names: Vec<String> = (0..installations)
            .map(|number| format!("{name}-{number}"))
            .collect();
        let host = Self {
            daemon: Some(daemon),
            tokio,
            agent: std::path::absolute(agent).unwrap(),
            data,
            run,
            free: Mutex::new(names.clone()),
            installations: names,
        };
        let archive = host.data.path().join("image.tar");
        let image = busybox(Path::new("/bin/busybox"), &[Compression::Gzip]).unwrap();
        let named = IMAGES.map(|name| (Some(name), &image));
        oci_archive(File::create(&archive).unwrap(), &named, None).unwrap();
        for name in &host.installations {
            host.tokio.block_on(async {
                let runtime = host.connect(name);
                let lease = LeaseId::for_operation(OperationId::generate());
                runtime.leases.create(&lease).await.unwrap();
                let cancel = CancellationToken::new();
                let imported = runtime.images.import(&lease, &archive, None, &cancel).await;
                assert_eq!(imported.unwrap().len(), IMAGES.len());
                for image in IMAGES {
                    let image = image.parse().unwrap();
                    runtime.images.unpack(&lease, &image).await.unwrap();
                }
                runtime.leases.delete(lease.as_str()).await.unwrap();
            });
        }
        host
    }

    fn network(&self, name: &str) -> Arc<BridgeNetwork> {
        let netns = self.run.path().join(format!("netns-{name}"));
        let config = BridgeConfig::for_installation(name, netns);
        Arc::new(BridgeNetwork::new(config).unwrap())
    }

    fn connect(&self, name: &str) -> Runtime {
        let socket = self.daemon.as_ref().unwrap().socket();
        let mut config = ContainerdConfig::new(socket, name, self.data.path().join(name));
        config.runc_root = self.run.path().join(format!("runc-{name}"));
        config.guard.clone_from(&self.agent);
        Containerd::connect(config, RegistryConfig::default(), self.network(name) as _).unwrap()
    }

    /// Takes everything away again.
    pub fn stop(mut self) {
        self.tokio.block_on(async {
            for name in &self.installations {
                empty(&self.connect(name)).await;
                self.network(name).teardown_host().await.unwrap();
            }
        });
        let daemon = self.daemon.take().unwrap();
        self.tokio.block_on(async {
            daemon.stop().await.unwrap();
        });
        let root = Path::new("/sys/fs/cgroup");
        for name in &self.installations {
            for controller in root.read_dir().into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(controller.path().join(name));
            }
            let _ = std::fs::remove_dir(root.join(name));
        }
    }
}

/// One of its installations.
pub struct OnContainerd<'a> {
    host: &'a Host,
    name: String,
    runtime: Runtime,
    /// Committed snapshots never change.
    known: Mutex<HashMap<SnapshotKey, Files>>,
    /// Changes of the database that are left to the server; none when it is killed.
    left: Arc<AtomicI64>,
}

impl<'a> OnContainerd<'a> {
    /// The next that is free.
    pub fn new(host: &'a Host) -> Self {
        let name = host.free.lock().unwrap().pop().unwrap();
        Self {
            host,
            runtime: host.connect(&name),
            name,
            known: Mutex::default(),
            left: Arc::new(AtomicI64::new(i64::MAX)),
        }
    }

    async fn sh(
        &self,
        workspaces: &Workspaces,
        owner: &Actor,
        row: &ContainerRecord,
        line: &str,
    ) -> Option<String> {
        let request = ExecRequest {
            command: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            cwd: Some("/".to_owned()),
            ..ExecRequest::default()
        };
        let done = workspaces.exec(owner, row.bot, request).await.ok()?;
        let succeeded = done.exit.is_some_and(|exit| exit.code == 0);
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        succeeded.then_some(said)
    }

    async fn lease(&self) -> LeaseId {
        let lease = LeaseId::for_operation(OperationId::generate());
        self.runtime.leases.create(&lease).await.unwrap();
        lease
    }
}

impl Drop for OnContainerd<'_> {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.host.free.lock().unwrap().push(name);
    }
}

impl Ground for OnContainerd<'_> {
    fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }

    fn store(&self, store: Store) -> Store {
        let left = Arc::clone(&self.left);
        let pass = move || {
            if left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                std::panic::panic_any(Killed);
            }
        };
        counted(store, Arc::new(pass))
    }

    fn configure(&self, config: &mut WorkspaceConfig) {
        config.agent.clone_from(&self.host.agent);
    }

    async fn begin(&self) {
        empty(&self.runtime).await;
    }

    fn images(&self) -> [&'static str; 2] {
        IMAGES
    }

    async fn write(
        &self,
        workspaces: &Workspaces,
        owner: &Actor,
        row: &ContainerRecord,
        path: &str,
        text: &str,
    ) -> Option<String> {
        let folder = path.rsplit_once('/')?.0;
        let line =
            format!("mkdir -p /{folder} && printf %s {text} > /{path} && readlink -f /{path}");
        let written = self.sh(workspaces, owner, row, &line).await?;
        Some(written.trim_start_matches('/').to_owned())
    }

    async fn remove(
        &self,
        workspaces: &Workspaces,
        owner: &Actor,
        row: &ContainerRecord,
        path: &str,
    ) -> bool {
        let line = format!("rm -f /{path}");
        self.sh(workspaces, owner, row, &line).await.is_some()
    }

    async fn link(&self, workspaces: &Workspaces, owner: &Actor, row: &ContainerRecord) -> bool {
        let line = "test ! -L /data && mkdir -p /home && rm -rf /home/moved && mv /data /home/moved \
                    && ln -s /home/moved /data";
        self.sh(workspaces, owner, row, line).await.is_some()
    }

    async fn files(&self, key: &SnapshotKey) -> Option<Files> {
        let found = match self.runtime.snapshots.get(key).await {
            Err(error) if error.is_not_found() => return None,
            found => found.unwrap(),
        };
        if let Some(known) = self.known.lock().unwrap().get(key) {
            return Some(known.clone());
        }
        let lease = self.lease().await;
        let tree = self.runtime.snapshots.open(&lease, key, Access::Read).await;
        let tree = match tree {
            Err(error) if error.is_not_found() => return None,
            tree => tree.unwrap(),
        };
        let read = tokio::task::spawn_blocking(move || {
            let root = PathBuf::from(format!("/proc/self/fd/{}", tree.root().as_raw_fd()));
            let mut files = Files::new();
            if let Ok(target) = root.join(LINK).read_link() {
                files.insert(LINK.to_owned(), target.display().to_string());
            }
            for folder in ["data", "root", "home"] {
                read(&root, folder, &mut files);
            }
            tree.close().unwrap();
            files
        });
        let files = read.await.unwrap();
        self.runtime.leases.delete(lease.as_str()).await.unwrap();
        if found.kind == SnapshotKind::Committed {
            let mut known = self.known.lock().unwrap();
            known.insert(key.clone(), files.clone());
        }
        Some(files)
    }

    async fn lose_container(&self, id: &ContainerId) -> bool {
        let now = Duration::ZERO;
        let stopped = self.runtime.tasks.stop(id, Signal::KILL, now).await;
        stopped.unwrap();
        self.runtime.containers.delete(id).await.is_ok()
    }

    async fn lose_snapshot(&self, key: &SnapshotKey) -> bool {
        let containers = self.runtime.containers.list().await.unwrap();
        for container in containers.iter().filter(|one| one.snapshot == key.as_str()) {
            // Nobody removes what is mounted.
            if self.runtime.tasks.get(&container.id).await.is_ok() {
                return false;
            }
        }
        self.runtime.snapshots.remove(key).await.is_ok()
    }

    async fn reboot(&self) {
        for (id, _) in self.runtime.tasks.list().await.unwrap() {
            let now = Duration::ZERO;
            let stopped = self.runtime.tasks.stop(&id, Signal::KILL, now).await;
            stopped.unwrap();
        }
    }

    fn arm(&self, fault: Fault) {
        match fault {
            Fault::Killed { at } => self.left.store(at as i64, Ordering::SeqCst),
            Fault::Away { .. } | Fault::Fails { .. } => {
                panic!("no fault is injected into calls of a real runtime")
            }
        }
    }

    fn disarm(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }
}

/// Removes everything but the images.
async fn empty(runtime: &Runtime) {
    for container in runtime.containers.list().await.unwrap() {
        let id = &container.id;
        let now = Duration::ZERO;
        runtime.tasks.stop(id, Signal::KILL, now).await.unwrap();
        runtime.network.remove(id).await.unwrap();
        runtime.containers.delete(id).await.unwrap();
    }
    for id in runtime.network.list().await.unwrap() {
        runtime.network.remove(&id).await.unwrap();
    }
    for id in runtime.channels.list().await.unwrap() {
        runtime.channels.remove(&id).await.unwrap();
    }
    for lease in runtime.leases.list().await.unwrap() {
        runtime.leases.delete(&lease.id).await.unwrap();
    }
    for snapshot in runtime.snapshots.list().await.unwrap() {
        match snapshot.kind {
            // An image's own.
            _ if snapshot.key.as_str().starts_with("sha256:") => {}
            SnapshotKind::Active => runtime.snapshots.remove(&snapshot.key).await.unwrap(),
            _ => runtime.snapshots.release(&snapshot.key).await.unwrap(),
        }
    }
    runtime.leases.collect().await.unwrap();
}

/// Reads the files beneath a folder that is one: a link may lead out.
fn read(root: &Path, folder: &str, files: &mut Files) {
    let path = root.join(folder);
    if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return;
    }
    for entry in path.read_dir().unwrap() {
        let entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read(root, &name, files);
        } else if kind.is_file() {
            let content = std::fs::read(entry.path()).unwrap();
            files.insert(name, String::from_utf8_lossy(&content).into_owned());
        }
    }
}
