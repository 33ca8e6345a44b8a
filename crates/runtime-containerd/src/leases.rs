//! Leases, and collection on demand.

use crate::client::{Client, error, time};
use async_trait::async_trait;
use botstead_runtime::{Lease, Leases, Result};
use botstead_types::{LeaseId, OperationId};
use containerd_client::services::v1::{CreateRequest, DeleteRequest, ListRequest};
use std::collections::HashMap;
use tokio::sync::Mutex;
use tonic::Code;

/// The [`Leases`] of a namespace. They carry no `containerd.io/gc.expire` label: they never expire.
#[derive(Debug)]
pub(crate) struct ContainerdLeases {
    client: Client,
    /// The lease of a collection that is under way, or whose end failed: it is used again.
    scratch: Mutex<Option<LeaseId>>,
}

impl ContainerdLeases {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            scratch: Mutex::default(),
        }
    }

    async fn make(&self, id: &str) -> Result<()> {
        let request = CreateRequest {
            id: id.to_owned(),
            labels: HashMap::new(),
        };
        let mut service = self.client.leases();
        let created = service.create(self.client.unary(request));
        match created.await {
            Err(status) if status.code() != Code::AlreadyExists => {
                Err(error("create lease", id, status))
            }
            _ => Ok(()),
        }
    }

    async fn end(&self, id: &str, sync: bool) -> Result<()> {
        let request = DeleteRequest {
            id: id.to_owned(),
            sync,
        };
        // Without a deadline: a collection takes as long as there is to collect.
        let mut service = self.client.leases();
        let deleted = service.delete(self.client.request(request));
        match deleted.await {
            Err(status) if status.code() != Code::NotFound => {
                Err(error("delete lease", id, status))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Leases for ContainerdLeases {
    async fn create(&self, id: &LeaseId) -> Result<()> {
        self.make(id.as_str()).await
    }

    async fn list(&self) -> Result<Vec<Lease>> {
        let request = ListRequest {
            filters: Vec::new(),
        };
        let listed = self.client.leases().list(self.client.unary(request)).await;
        let leases = listed
            .map_err(|status| error("list", "leases", status))?
            .into_inner()
            .leases;
        Ok(leases
            .into_iter()
            .map(|lease| Lease {
                id: lease.id,
                created_at: time(lease.created_at),
            })
            .collect())
    }

    async fn delete(&self, id: &str) -> Result<()> {
        self.end(id, false).await
    }

    async fn collect(&self) -> Result<()> {
        // containerd has no call for it, but a synchronous delete waits for the collection.
        // Named as an operation's, so that start-up removes it where this dies on the way.
        let mut scratch = self.scratch.lock().await;
        let lease = scratch.get_or_insert_with(|| LeaseId::for_operation(OperationId::generate()));
        self.make(lease.as_str()).await?;
        self.end(lease.as_str(), true).await?;
        *scratch = None;
        Ok(())
    }
}
