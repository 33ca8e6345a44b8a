//! Notices when somebody else breaks the host's part of the network: a firewall that starts, reloads or
//! flushes all rules opens the host to workspaces, or cuts them off. The reconcile loop mends it.

use crate::service::Inner;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nobody listens after listening failed. Grows with each failure soon after another.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Inner {
    /// Runs for as long as the service.
    pub(crate) async fn follow_host_network(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut failed: Option<Instant> = None;
        loop {
            let Err(error) = self.runtime.network.host_changed().await else {
                self.wake.host();
                continue;
            };
            if failed.is_none_or(|last| last.elapsed() > 2 * LONGEST_PAUSE) {
                pause = FIRST_PAUSE;
            }
            tracing::warn!(error = %error.chain(), seconds = pause.as_secs(),
                "cannot notice when others change the host's firewall; trying again after a pause");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            failed = Some(Instant::now());
        }
    }
}
