//! What making a workspace, in whatever way, begins with, and what undoing that ends with.

use crate::Result;
use crate::layers::unless_missing;
use crate::service::Inner;
use botstead_store::ContainerRecord;
use botstead_types::{BotId, ContainerId, DesiredState, Limits, RecordedImage, SnapshotKey};
use chrono::Utc;

impl Inner {
    /// The record of a workspace that is about to be: stopped, never started, no version as its head.
    pub(crate) fn new_record(
        &self,
        bot: BotId,
        image: RecordedImage,
        snapshot: SnapshotKey,
    ) -> ContainerRecord {
        let capabilities = self.runtime.backend.capabilities();
        let now = Utc::now();
        ContainerRecord {
            bot,
            container: ContainerId::for_bot(bot),
            namespace: capabilities.namespace.clone(),
            snapshotter: capabilities.snapshotter.clone(),
            image,
            snapshot,
            head_version: None,
            dirty: false,
            desired: DesiredState::Stopped,
            started: false,
            devices: Vec::new(),
            limits: Limits::default(),
            last_error: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Removes a snapshot that was prepared for a container, and the container if it was made with it:
    /// one with another snapshot was there before, and holds somebody's data. Can be repeated.
    pub(crate) async fn remove_made(
        &self,
        container: &ContainerId,
        snapshot: &SnapshotKey,
    ) -> Result<()> {
        match self.runtime.containers.get(container).await {
            Ok(found) if found.snapshot == snapshot.as_str() => {
                unless_missing(self.runtime.containers.delete(container).await)?;
            }
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(unless_missing(
            self.runtime.snapshots.remove(snapshot).await,
        )?)
    }

    /// Takes a container's network away. Best effort: what is left is found at the next start.
    pub(crate) async fn remove_network(&self, container: &ContainerId) {
        if let Err(error) = self.runtime.network.remove(container).await {
            tracing::warn!(%container, error = %error.chain(), "cannot remove the network");
        }
    }
}
