//! The host shuts down: what runs is stopped in order, and is still meant to run.

use crate::locks::Holder;
use crate::service::{Inner, Workspaces};
use crate::{Error, Result};
use botstead_store::ContainerRecord;
use botstead_types::{ContainerId, OperationId};
use futures_util::stream::{self, StreamExt};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How many workspaces are stopped at the same time: nearly all of their time they wait for their
/// programs to end.
const PARALLEL: usize = 64;

impl Workspaces {
    /// Stops all workspaces because the host shuts down, each with its grace, within `limit` all
    /// together. Refuses new work from now on; what is under way is finished first. What is recorded
    /// does not change, so the next [`Workspaces::open`] starts what ran. Tells whether everything was
    /// stopped; the rest is left to the host. Call [`Workspaces::close`] next.
    pub async fn stop_all(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let inner = Arc::clone(&self.inner);
        inner.stop_accepting();
        let work = async move {
            inner.stop_running(deadline).await?;
            // What was being created was not there yet.
            inner.finish_work(deadline).await;
            inner.stop_running(deadline).await
        };
        match self.inner.handle.spawn(work).await {
            Ok(Ok(left)) => left == 0,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot stop the workspaces");
                false
            }
            Err(error) => {
                tracing::error!(%error, "cannot stop the workspaces");
                false
            }
        }
    }
}

impl Inner {
    /// Stops what runs now and tells how many could not be stopped.
    async fn stop_running(self: &Arc<Self>, deadline: Instant) -> Result<usize> {
        let tasks = self.runtime.tasks.list().await?;
        let running: HashSet<ContainerId> = tasks.into_iter().map(|(id, _)| id).collect();
        let mut due = self.store.containers.list().await?;
        due.retain(|record| running.contains(&record.container));
        if due.is_empty() {
            return Ok(0);
        }
        tracing::info!(
            workspaces = due.len(),
            "the host shuts down: stopping workspaces"
        );
        let left = stream::iter(due)
            .map(|record| async move {
                let bot = record.bot;
                match timeout_at(deadline, self.stop_for_now(&record, deadline)).await {
                    Ok(Ok(())) => false,
                    Ok(Err(error)) => {
                        tracing::warn!(%bot, %error, "cannot stop a workspace");
                        true
                    }
                    Err(_) => {
                        tracing::warn!(%bot, "a workspace did not stop in time");
                        true
                    }
                }
            })
            .buffer_unordered(PARALLEL)
            .filter(|left| std::future::ready(*left))
            .count()
            .await;
        Ok(left)
    }

    async fn stop_for_now(
        self: &Arc<Self>,
        record: &ContainerRecord,
        deadline: Instant,
    ) -> Result<()> {
        let holder = Holder {
            operation: OperationId::generate(),
            what: "shutdown",
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        let _guard = self.locks.acquire(record.bot, holder, patience).await?;
        match self.power_down(record).await {
            Err(Error::Runtime(error)) if error.is_not_found() => Ok(()),
            done => done,
        }
    }
}
