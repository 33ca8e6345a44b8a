//! The host's part of the network is mended as soon as somebody else breaks it: a firewall that starts,
//! reloads or flushes all rules opens the host to workspaces, or cuts them off.

use crate::service::Inner;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked at without a word that anything changed: not all changes are told.
const EVERY: Duration = Duration::from_secs(60);
/// How long nobody listens after listening failed. Grows.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Inner {
    /// Runs for as long as the service.
    pub(crate) async fn keep_host_network(self: Arc<Self>) {
        let network = &self.runtime.network;
        let mut pause = FIRST_PAUSE;
        loop {
            let failed = match tokio::time::timeout(EVERY, network.host_changed()).await {
                Ok(Err(error)) => {
                    tracing::warn!(error = %error.chain(),
                        "cannot notice when others change the host's firewall");
                    true
                }
                Ok(Ok(())) | Err(_) => false,
            };
            if let Err(error) = network.ensure_host().await {
                tracing::warn!(error = %error.chain(), "cannot mend the host's network");
            }
            if failed {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
        }
    }
}
