//! The connection to containerd: a channel that connects when it is used, the namespace on every
//! request, the lease where there is one.

use crate::op::Op;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::LeaseId;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{AddResourceRequest, Resource};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// How long containerd may take for an answer to anything but a wait, a stream or a pull. Creating
/// a task on a busy host takes seconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// A connection, the namespace and the snapshotter.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    pub(crate) snapshotter: String,
}

/// A channel to containerd's socket. It connects on first use and again whenever the daemon was
/// restarted.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The address is not used: the connector goes to the socket.
    Endpoint::from_static("http://containerd.invalid")
        .connect_timeout(Duration::from_secs(3))
        .connect_with_connector_lazy(service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
}

impl Client {
    pub(crate) fn new(channel: Channel, namespace: &str, snapshotter: &str) -> Result<Self> {
        let namespace = namespace.parse().map_err(|error| {
            Op::new("use containerd namespace", namespace).fail_with(
                ErrorKind::InvalidArgument,
                "it is not a name",
                error,
            )
        })?;
        Ok(Self {
            channel,
            namespace,
            snapshotter: snapshotter.to_owned(),
        })
    }

    /// A request that may take as long as it takes: a wait or a stream.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// A request that is answered soon or not at all.
    pub(crate) fn unary<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(DEADLINE);
        request
    }

    /// A request whose results are kept until the lease is deleted.
    pub(crate) fn leased<T>(&self, op: &Op, lease: &LeaseId, message: T) -> Result<Request<T>> {
        let mut request = self.request(message);
        let lease = lease.as_str().parse().map_err(|error| {
            op.fail_with(
                ErrorKind::InvalidArgument,
                "the lease has no right id",
                error,
            )
        })?;
        request.metadata_mut().insert("containerd-lease", lease);
        Ok(request)
    }

    /// Keeps something that exists already until the lease is deleted. `kind` is containerd's name
    /// of a resource type, such as `snapshots/overlayfs`.
    pub(crate) async fn keep(
        &self,
        op: &Op,
        lease: &LeaseId,
        kind: String,
        id: &str,
    ) -> Result<()> {
        let request = AddResourceRequest {
            id: lease.as_str().to_owned(),
            resource: Some(Resource {
                id: id.to_owned(),
                r#type: kind,
            }),
        };
        self.leases()
            .add_resource(self.unary(request))
            .await
            .map_err(|status| op.status(status))?;
        Ok(())
    }
}

macro_rules! services {
    ($($name:ident: $client:ident,)+) => {
        impl Client {
            $(pub(crate) fn $name(&self) -> $client<Channel> {
                $client::new(self.channel.clone())
            })+
        }
    };
}

services!(
    containers: ContainersClient,
    content: ContentClient,
    diff: DiffClient,
    events: EventsClient,
    images: ImagesClient,
    leases: LeasesClient,
    snapshots: SnapshotsClient,
    tasks: TasksClient,
    version: VersionClient,
);
