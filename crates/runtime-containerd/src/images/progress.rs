//! The progress of one pull.

use super::tree::Layer;
use botstead_runtime::{LayerProgress, PullProgress};
use tokio::sync::watch;

/// Sends progress when it changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress<'a>(Option<&'a watch::Sender<PullProgress>>);

impl<'a> Progress<'a> {
    pub(super) fn to(sender: &'a watch::Sender<PullProgress>) -> Self {
        Self(Some(sender))
    }

    /// Names the layers, none of them begun.
    pub(super) fn layers(&self, layers: &[Layer]) {
        let Some(sender) = self.0 else { return };
        let layers = layers
            .iter()
            .map(|layer| LayerProgress {
                digest: layer.digest.clone(),
                offset: 0,
                total: layer.size,
            })
            .collect();
        sender.send_replace(PullProgress { layers });
    }

    /// Says how many bytes of a layer are here.
    pub(super) fn at(&self, layer: usize, offset: u64) {
        let Some(sender) = self.0 else { return };
        sender.send_if_modified(|progress| match progress.layers.get_mut(layer) {
            Some(layer) if layer.offset != offset => {
                layer.offset = offset.min(layer.total);
                true
            }
            _ => false,
        });
    }
}
