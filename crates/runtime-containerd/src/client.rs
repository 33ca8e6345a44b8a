//! Requests to containerd's image, content, snapshot, diff and lease services.

use crate::op::Op;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::LeaseId;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{AddResourceRequest, Resource};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

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

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
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
        LeasesClient::new(self.channel.clone())
            .add_resource(self.request(request))
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
}
