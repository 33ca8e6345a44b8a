//! Whether live copies can work from the change feed: tried once, on the filesystem that the snapshots
//! are on.

use crate::client::Client;
use botstead_live_copy::{ChangeFeed, Reason, SecondPass};
use containerd_client::services::v1::PluginsRequest;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// What follows from the self-test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feed(Arc<OnceLock<SecondPass>>);

impl Feed {
    /// Tries it in the background. Where containerd does not tell where its snapshots are, the first
    /// copy tries it.
    pub(crate) fn try_early(&self, client: Client) {
        let feed = self.clone();
        tokio::spawn(async move {
            match snapshot_root(&client).await {
                // Nobody waits for it but a copy that needs the answer before.
                Some(root) => drop(tokio::task::spawn_blocking(move || feed.second_pass(&root))),
                None => tracing::debug!("the change feed will be tried by the first live copy"),
            }
        });
    }

    /// How changes are found by a copy of a tree beside `scratch`.
    pub(crate) fn second_pass(&self, scratch: &Path) -> SecondPass {
        let tried = self.0.get_or_init(|| match probe(scratch) {
            Ok(()) => {
                tracing::info!("live snapshots find changes by the change feed");
                SecondPass::Feed
            }
            Err(reason) => {
                tracing::warn!(%reason, "live snapshots compare whole trees: the change feed cannot \
                    be used");
                SecondPass::Walk { reason }
            }
        });
        tried.clone()
    }
}

/// A busy host may be late with what the test waits for, and the answer holds until the server ends.
fn probe(scratch: &Path) -> Result<(), Reason> {
    let again = |_| ChangeFeed::probe(scratch);
    ChangeFeed::probe(scratch).or_else(again).or_else(again)
}

/// The folder of the snapshotter, which it tells as an export of its plugin.
async fn snapshot_root(client: &Client) -> Option<PathBuf> {
    let filter = format!(
        "type==io.containerd.snapshotter.v1,id=={}",
        client.snapshotter
    );
    let request = PluginsRequest {
        filters: vec![filter],
    };
    let answer = client.introspection().plugins(client.unary(request)).await;
    let plugins = answer.ok()?.into_inner().plugins;
    let root = plugins.first()?.exports.get("root")?;
    Some(PathBuf::from(root)).filter(|root| root.is_dir())
}
