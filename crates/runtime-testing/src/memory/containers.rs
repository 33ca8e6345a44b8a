//! Container records.

use super::Shared;
use super::faults::Op;
use super::state::{ContainerRecord, State};
use botstead_runtime::{Container, ContainerSpec, Containers, ErrorKind, Result};
use botstead_types::{CdiDevice, ContainerId, LeaseId};
use chrono::{DateTime, Utc};

/// Refuses a spec that no runtime could run.
fn check(op: Op, spec: &ContainerSpec) -> Result<()> {
    let refuse = |reason: &str| {
        Err(op
            .error(ErrorKind::InvalidArgument, &spec.id)
            .because(reason))
    };
    match spec.process.args.first() {
        None => return refuse("it has no program"),
        Some(program) if !program.starts_with('/') => {
            return refuse("its program is not an absolute path");
        }
        Some(_) => {}
    }
    if !spec.process.cwd.starts_with('/') {
        return refuse("its working directory is not an absolute path");
    }
    if spec.mounts.iter().any(|m| !m.destination.starts_with('/')) {
        return refuse("a mount's destination is not an absolute path");
    }
    check_devices(op, &spec.devices)
}

fn check_devices(op: Op, devices: &[CdiDevice]) -> Result<()> {
    match devices.first() {
        None => Ok(()),
        Some(device) => Err(op
            .error(ErrorKind::Unsupported, device)
            .because("there are no devices in memory")),
    }
}

fn record(spec: &ContainerSpec, created_at: DateTime<Utc>, now: DateTime<Utc>) -> ContainerRecord {
    ContainerRecord {
        container: Container {
            id: spec.id.clone(),
            image: spec.image.reference.to_string(),
            snapshot: spec.snapshot.to_string(),
            snapshotter: "memory".to_owned(),
            labels: spec.labels.clone(),
            created_at,
            updated_at: now,
        },
        spec: spec.clone(),
    }
}

#[async_trait::async_trait]
impl Containers for Shared {
    async fn create(&self, _lease: &LeaseId, spec: &ContainerSpec) -> Result<()> {
        let op = Op("containers.create", "create container");
        self.call(op, &spec.id, |state| {
            check(op, spec)?;
            if state.containers.contains_key(&spec.id) {
                return Err(op.error(ErrorKind::AlreadyExists, &spec.id));
            }
            let now = state.now();
            state
                .containers
                .insert(spec.id.clone(), record(spec, now, now));
            state.changed();
            Ok(())
        })
    }

    async fn check_devices(&self, devices: &[CdiDevice]) -> Result<()> {
        let op = Op("containers.check_devices", "find device");
        self.call(op, "devices", |_| check_devices(op, devices))
    }

    async fn switch(&self, _lease: &LeaseId, spec: &ContainerSpec) -> Result<()> {
        let op = Op("containers.switch", "switch container");
        self.call(op, &spec.id, |state| {
            check(op, spec)?;
            let now = state.now();
            let has_task = state.tasks.contains_key(&spec.id);
            let Some(found) = state.containers.get_mut(&spec.id) else {
                return Err(op.error(ErrorKind::NotFound, &spec.id));
            };
            if has_task {
                return Err(op
                    .error(ErrorKind::Conflict, &spec.id)
                    .because("it has a task"));
            }
            *found = record(spec, found.container.created_at, now);
            state.changed();
            Ok(())
        })
    }

    async fn get(&self, id: &ContainerId) -> Result<Container> {
        let op = Op("containers.get", "read container");
        self.call(op, id, |state| {
            state
                .containers
                .get(id)
                .map(|record| record.container.clone())
                .ok_or_else(|| op.error(ErrorKind::NotFound, id))
        })
    }

    async fn list(&self) -> Result<Vec<Container>> {
        self.call(Op("containers.list", "list"), "containers", |state| {
            Ok(list(state))
        })
    }

    async fn delete(&self, id: &ContainerId) -> Result<()> {
        let op = Op("containers.delete", "delete container");
        self.call(op, id, |state| {
            if !state.containers.contains_key(id) {
                return Err(op.error(ErrorKind::NotFound, id));
            }
            if state.tasks.contains_key(id) {
                return Err(op.error(ErrorKind::Conflict, id).because("it has a task"));
            }
            state.containers.remove(id);
            state.collect();
            Ok(())
        })
    }
}

pub(super) fn list(state: &State) -> Vec<Container> {
    state
        .containers
        .values()
        .map(|record| record.container.clone())
        .collect()
}
