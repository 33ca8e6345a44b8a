//! The connection to containerd: its socket, the namespace of every call, leases and deadlines.

use crate::op::Op;
use botstead_runtime::{Error, ErrorKind, Result};
use botstead_types::LeaseId;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{AddResourceRequest, Resource};
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// How long containerd may take for one call that should be short. Generous: a host under load
/// takes seconds to start a task, and a call that was given up may still have its effect.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long containerd may take for a call that walks the files of a snapshot.
const WALK: Duration = Duration::from_secs(600);

/// Lists of containers and tasks come in one message; tonic's default of 4 MiB is some thousands.
const MAX_MESSAGE: usize = 256 << 20;

/// A connection to the socket, made with the first call and again whenever it broke. Must be called
/// on a tokio runtime.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The address is never looked up: the connector knows the socket.
    Endpoint::from_static("http://containerd").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}

/// What containerd's answer to an operation means.
pub(crate) fn error(operation: &'static str, subject: impl ToString, status: Status) -> Error {
    Op::new(operation, subject).status(status)
}

/// A connection, the namespace and the snapshotter.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    pub(crate) snapshotter: String,
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

    /// The namespace's name.
    pub(crate) fn namespace(&self) -> &str {
        // It was made from a str.
        self.namespace.to_str().unwrap_or_default()
    }

    /// A request that may take as long as it takes: a stream or a wait.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// A request that is answered within [`DEADLINE`] or fails as `Unavailable`.
    pub(crate) fn unary<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(DEADLINE);
        request
    }

    /// A request that is answered within [`WALK`] or fails as `Unavailable`.
    pub(crate) fn walk<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(WALK);
        request
    }

    /// Makes the results of a request stay until the lease is deleted.
    pub(crate) fn leased<T>(
        &self,
        op: &Op,
        lease: &LeaseId,
        mut request: Request<T>,
    ) -> Result<Request<T>> {
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
        LeasesClient::new(self.channel.clone())
            .add_resource(self.unary(request))
            .await
            .map_err(|status| op.status(status))?;
        Ok(())
    }

    pub(crate) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    pub(crate) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub(crate) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    pub(crate) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(crate) fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    pub(crate) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }
}

/// A protobuf timestamp, or the epoch where containerd gave none.
pub(crate) fn time(time: Option<prost_types::Timestamp>) -> chrono::DateTime<chrono::Utc> {
    time.and_then(|time| {
        chrono::DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshots::ContainerdSnapshots;
    use botstead_runtime::Snapshots;
    use botstead_types::{OperationId, SnapshotKey};
    use futures_util::{FutureExt, TryFutureExt};
    use std::collections::BTreeMap;
    use tokio::time::Instant;

    /// Time passes at once whenever nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_hangs_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = Client::new(channel(&socket), "test", "overlayfs").unwrap();
        let config = crate::ContainerdConfig::new(&socket, "test", folder.path());
        let copies =
            crate::copies::Copies::new(std::sync::Arc::new(config), crate::feed::Feed::default());
        let snapshots = ContainerdSnapshots { client, copies };
        let lease = LeaseId::for_operation(OperationId::generate());
        let key = || SnapshotKey::active(OperationId::generate());
        let none = BTreeMap::new();
        for (deadline, call) in [
            (
                DEADLINE,
                snapshots
                    .prepare(&lease, &key(), None, &none)
                    .map_ok(drop)
                    .boxed(),
            ),
            (DEADLINE, snapshots.commit(&lease, &key(), &key(), &none)),
        ] {
            let began = Instant::now();
            let error = call.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
            assert!(began.elapsed() >= deadline && began.elapsed() < deadline * 2);
        }
    }
}
