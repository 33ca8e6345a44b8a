//! A private containerd for the image tests, and what they all need.

use botstead_image_fixtures::{Compression, Image};
use botstead_runtime::{Images, PullProgress, Result};
use botstead_runtime_containerd::images::{ContainerdImages, RegistryConfig};
use botstead_types::{ImageRef, LeaseId};
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{
    CreateRequest, DeleteRequest, ListContentRequest, ListStatusesRequest,
    content_client::ContentClient,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;

pub(crate) const NAMESPACE: &str = "images-test";

/// A containerd of its own, stopped and removed when dropped.
pub(crate) struct Containerd {
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) channel: Channel,
}

impl Containerd {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("cd").tempdir().unwrap();
        Self::start_in(dir.path().join("root"), dir).await
    }

    /// With its root somewhere else, such as on a small disk.
    pub(crate) async fn start_in(root: PathBuf, dir: tempfile::TempDir) -> Self {
        let binary = std::env::var("BOTSTEAD_TEST_CONTAINERD_BIN").unwrap_or("containerd".into());
        let config = dir.path().join("config.toml");
        let socket = dir.path().join("s");
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = {root:?}\nstate = {:?}\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\n  address = {socket:?}\n",
                dir.path().join("state")
            ),
        )
        .unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(&binary)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{binary}: {error}; apt-get install containerd"));
        let deadline = Instant::now() + Duration::from_secs(20);
        let channel = loop {
            if let Ok(channel) = containerd_client::connect(&socket).await {
                break channel;
            }
            assert!(Instant::now() < deadline, "containerd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self {
            child,
            dir,
            channel,
        }
    }

    pub(crate) fn images(&self) -> ContainerdImages {
        self.images_with(quick())
    }

    pub(crate) fn images_with(&self, config: RegistryConfig) -> ContainerdImages {
        self.try_images_with(config).unwrap()
    }

    pub(crate) fn try_images_with(&self, config: RegistryConfig) -> Result<ContainerdImages> {
        ContainerdImages::new(self.channel.clone(), NAMESPACE, "overlayfs", config)
    }

    pub(crate) async fn lease(&self, name: &str) -> LeaseId {
        let id: LeaseId = name.parse().unwrap();
        let create = CreateRequest {
            id: id.as_str().to_owned(),
            labels: Default::default(),
        };
        LeasesClient::new(self.channel.clone())
            .create(request(create))
            .await
            .unwrap();
        id
    }

    /// Ends a lease and waits for the collection.
    pub(crate) async fn end(&self, lease: &LeaseId) {
        let delete = DeleteRequest {
            id: lease.as_str().to_owned(),
            sync: true,
        };
        LeasesClient::new(self.channel.clone())
            .delete(request(delete))
            .await
            .unwrap();
    }

    pub(crate) async fn collect(&self) {
        let lease = self.lease("collect").await;
        self.end(&lease).await;
    }

    /// Digests of all content, names of all snapshots, references of all unfinished downloads.
    pub(crate) async fn inventory(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let mut content = ContentClient::new(self.channel.clone());
        let mut stream = content
            .list(request(ListContentRequest::default()))
            .await
            .unwrap()
            .into_inner();
        let mut blobs = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            blobs.extend(part.info.into_iter().map(|info| info.digest));
        }
        let list = ListSnapshotsRequest {
            snapshotter: "overlayfs".into(),
            filters: Vec::new(),
        };
        let mut stream = SnapshotsClient::new(self.channel.clone())
            .list(request(list))
            .await
            .unwrap()
            .into_inner();
        let mut snapshots = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            snapshots.extend(part.info.into_iter().map(|info| info.name));
        }
        let ingests = content
            .list_statuses(request(ListStatusesRequest::default()))
            .await
            .unwrap()
            .into_inner()
            .statuses
            .into_iter()
            .map(|status| status.r#ref)
            .collect();
        (blobs, snapshots, ingests)
    }

    /// Fails unless nothing at all is left.
    pub(crate) async fn assert_empty(&self) {
        let (blobs, snapshots, ingests) = self.inventory().await;
        assert!(blobs.is_empty(), "content is left: {blobs:?}");
        assert!(snapshots.is_empty(), "snapshots are left: {snapshots:?}");
        assert!(ingests.is_empty(), "downloads are left: {ingests:?}");
    }

    /// Where the overlayfs snapshotter keeps its directories.
    pub(crate) fn snapshot_dirs(&self) -> PathBuf {
        self.dir
            .path()
            .join("root/io.containerd.snapshotter.v1.overlayfs/snapshots")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        for _ in 0..200 {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", NAMESPACE.parse().unwrap());
    request
}

/// Short pauses and timeouts, so that failures are quick, and the tests' registries.
pub(crate) fn quick() -> RegistryConfig {
    RegistryConfig {
        plain_http: vec!["127.0.0.1:*".parse().unwrap()],
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(20),
        backoff: Duration::from_millis(20),
        ..RegistryConfig::default()
    }
}

pub(crate) async fn pull(
    images: &ContainerdImages,
    lease: &LeaseId,
    reference: &str,
) -> Result<(botstead_runtime::Image, PullProgress)> {
    let (sender, receiver) = watch::channel(PullProgress::default());
    let reference: ImageRef = reference.parse().unwrap();
    let image = images
        .pull(lease, &reference, &sender, &CancellationToken::new())
        .await?;
    let progress = receiver.borrow().clone();
    Ok((image, progress))
}

pub(crate) fn busybox() -> Image {
    botstead_image_fixtures::busybox(
        Path::new("/bin/busybox"),
        &[Compression::Gzip, Compression::Zstd, Compression::None],
    )
    .expect("apt-get install busybox-static")
}
