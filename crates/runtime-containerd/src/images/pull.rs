//! Pulling: documents first, which are stored at once, so that no pull holds them while its layers come;
//! then layers several at a time, each unpacked as soon as it and those below it are here, and the name
//! last.

use super::ContainerdImages;
use super::fetch::Download;
use super::progress::Progress;
use super::size::Room;
use super::tree::{self, Layer, Tree};
use crate::op::Op;
use botstead_runtime::{ErrorKind, Image, Result};
use botstead_types::{ImageRef, LeaseId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio::sync::oneshot;

impl ContainerdImages {
    pub(super) async fn pull_image(
        &self,
        op: &Op,
        lease: &LeaseId,
        reference: &ImageRef,
        progress: Progress<'_>,
    ) -> Result<Image> {
        let limits = &self.config.limits;
        let known = self.set_registries.known();
        let sources = self.sources(op, &known, reference).await?;
        let resolved = loop {
            let (source, repository) = sources.current();
            let found = async {
                let top = repository.top().await?;
                let resolved = tree::resolve(op, repository, top, Some(limits)).await?;
                limits.check(op, &resolved.tree)?;
                Ok(resolved)
            };
            match found.await {
                Err(error) if sources.go_on(source, &error) => {}
                found => break found?,
            }
        };
        // They keep the snapshots through the lease, now and as soon as they are made.
        let tree = self.store_documents(op, lease, resolved).await?;
        let room = Room::new(limits);
        progress.layers(&tree.layers);
        let download = Download {
            op,
            lease,
            sources: &sources,
            progress,
        };
        let unpacked = self.is_unpacked(op, &tree).await?;
        let (arrived, arrivals): (Vec<_>, Vec<_>) =
            tree.layers.iter().map(|_| oneshot::channel()).unzip();
        let waiting: Vec<BoxFuture<'_, Result<()>>> = tree
            .layers
            .iter()
            .zip(arrived)
            .enumerate()
            .map(|(number, (layer, arrived))| {
                let download = &download;
                async move {
                    self.download(download, number, layer).await?;
                    // Nobody waits for it where all is unpacked already.
                    let _ = arrived.send(());
                    Ok(())
                }
                .boxed()
            })
            .collect();
        let downloads = stream::iter(waiting)
            .buffer_unordered(self.config.parallel_layers.max(1))
            .try_collect::<()>();
        let unpacks = async {
            if unpacked {
                return Ok(());
            }
            self.unpack_arriving(op, lease, &tree.layers, arrivals, &room)
                .await
        };
        tokio::try_join!(downloads, unpacks)?;
        self.finish(op, lease, reference, &tree, &room).await
    }

    /// Unpacks layers in order, each when it has arrived.
    async fn unpack_arriving(
        &self,
        op: &Op,
        lease: &LeaseId,
        layers: &[Layer],
        arrivals: Vec<oneshot::Receiver<()>>,
        room: &Room,
    ) -> Result<()> {
        let mut parent = "";
        for (layer, arrival) in layers.iter().zip(arrivals) {
            arrival.await.map_err(|_| {
                // The download's own failure is what is reported: it ends both.
                op.fail(ErrorKind::Internal, "a layer did not arrive")
            })?;
            self.unpack_layer(op, lease, layer, parent, room).await?;
            parent = &layer.chain_id;
        }
        Ok(())
    }

    /// Unpacks layers that are all in the content store.
    pub(super) async fn unpack_tree(
        &self,
        op: &Op,
        lease: &LeaseId,
        tree: &Tree,
        room: &Room,
    ) -> Result<()> {
        if self.is_unpacked(op, tree).await? {
            return Ok(());
        }
        let mut parent = "";
        for layer in &tree.layers {
            self.unpack_layer(op, lease, layer, parent, room).await?;
            parent = &layer.chain_id;
        }
        Ok(())
    }

    /// Unpacks what is not, such as what another name's deletion took before the documents were stored,
    /// and sets the name.
    pub(super) async fn finish(
        &self,
        op: &Op,
        lease: &LeaseId,
        reference: &ImageRef,
        tree: &Arc<Tree>,
        room: &Room,
    ) -> Result<Image> {
        self.unpack_tree(op, lease, tree, room).await?;
        self.point(op, reference, tree).await
    }
}
