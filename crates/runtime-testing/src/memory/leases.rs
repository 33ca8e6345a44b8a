//! Leases.

use super::Shared;
use super::faults::Op;
use super::state::{LeaseRecord, State};
use botstead_runtime::{Error, ErrorKind, Lease, Leases, Result};
use botstead_types::{LeaseId, SnapshotKey};
use std::collections::BTreeSet;

/// Lets a lease protect a snapshot. Without the lease nothing can be made under it.
pub(super) fn protect(state: &mut State, op: Op, lease: &LeaseId, key: &SnapshotKey) -> Result<()> {
    let lease = lease_of(state, op, lease)?;
    lease.snapshots.insert(key.clone());
    Ok(())
}

/// The lease's record.
pub(super) fn lease_of<'a>(
    state: &'a mut State,
    op: Op,
    lease: &LeaseId,
) -> Result<&'a mut LeaseRecord> {
    state.leases.get_mut(lease.as_str()).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, op.1, lease).because("the lease does not exist")
    })
}

#[async_trait::async_trait]
impl Leases for Shared {
    async fn create(&self, id: &LeaseId) -> Result<()> {
        self.call(Op("leases.create", "create lease"), id, |state| {
            let created_at = state.now();
            state
                .leases
                .entry(id.as_str().to_owned())
                .or_insert_with(|| LeaseRecord {
                    created_at,
                    snapshots: BTreeSet::new(),
                });
            Ok(())
        })
    }

    async fn list(&self) -> Result<Vec<Lease>> {
        self.call(Op("leases.list", "list"), "leases", |state| Ok(list(state)))
    }

    async fn delete(&self, id: &str) -> Result<()> {
        self.call(Op("leases.delete", "delete lease"), id, |state| {
            if state.leases.remove(id).is_some() {
                state.collect();
            }
            Ok(())
        })
    }

    async fn collect(&self) -> Result<()> {
        self.call(Op("leases.collect", "collect"), "garbage", |state| {
            state.collect();
            Ok(())
        })
    }
}

pub(super) fn list(state: &State) -> Vec<Lease> {
    state
        .leases
        .iter()
        .map(|(id, lease)| Lease {
            id: id.clone(),
            created_at: lease.created_at,
        })
        .collect()
}
