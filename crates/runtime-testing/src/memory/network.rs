//! Network namespaces: names and addresses, no packets.

use super::Shared;
use super::faults::Op;
use super::state::State;
use botstead_runtime::{Endpoint, EndpointStatus, ErrorKind, Network, NetworkInfo, Result};
use botstead_types::ContainerId;
use std::path::PathBuf;

/// A container's namespace.
pub(super) struct Namespace {
    pub(super) path: PathBuf,
    pub(super) endpoint: Option<Endpoint>,
}

#[async_trait::async_trait]
impl Network for Shared {
    fn info(&self) -> &NetworkInfo {
        &self.network
    }

    async fn ensure_host(&self) -> Result<()> {
        let op = Op("network.ensure_host", "prepare the network of");
        self.call(op, "the host", |state| {
            state.host_ready = true;
            Ok(())
        })
    }

    async fn create_namespace(&self, id: &ContainerId) -> Result<PathBuf> {
        let op = Op("network.create_namespace", "create network namespace of");
        self.call(op, id, |state| {
            let namespace = state
                .namespaces
                .entry(id.clone())
                .or_insert_with(|| Namespace {
                    // No such path exists: a test that opened it would leave the fake.
                    path: PathBuf::from(format!("/memory/netns/{id}")),
                    endpoint: None,
                });
            Ok(namespace.path.clone())
        })
    }

    async fn attach(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<()> {
        let op = Op("network.attach", "connect");
        self.call(op, id, |state| {
            if !self.network.subnet.contains(&endpoint.address) {
                return Err(op.error(ErrorKind::InvalidArgument, id).because(format!(
                    "{} is not in {}",
                    endpoint.address, self.network.subnet
                )));
            }
            let namespace = state
                .namespaces
                .get_mut(id)
                .ok_or_else(|| op.error(ErrorKind::NotFound, id))?;
            namespace.endpoint = Some(*endpoint);
            Ok(())
        })
    }

    async fn status(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<EndpointStatus> {
        let op = Op("network.status", "check the network of");
        self.call(op, id, |state| Ok(status(state, id, endpoint)))
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        let op = Op("network.remove", "remove the network of");
        self.call(op, id, |state| {
            state.namespaces.remove(id);
            Ok(())
        })
    }

    async fn list(&self) -> Result<Vec<ContainerId>> {
        self.call(Op("network.list", "list"), "network namespaces", |state| {
            Ok(state.namespaces.keys().cloned().collect())
        })
    }
}

fn status(state: &State, id: &ContainerId, endpoint: &Endpoint) -> EndpointStatus {
    let broken = |reason: &str| EndpointStatus::Broken(reason.to_owned());
    if !state.host_ready {
        return broken("the host is not prepared");
    }
    match state.namespaces.get(id).map(|namespace| namespace.endpoint) {
        None => broken("there is no namespace"),
        Some(None) => broken("there is no link"),
        Some(Some(found)) if found != *endpoint => broken("it has another address"),
        Some(Some(_)) => EndpointStatus::Up,
    }
}
