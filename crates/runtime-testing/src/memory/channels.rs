//! Channels: there are no processes to reach.

use super::Shared;
use super::faults::Op;
use async_trait::async_trait;
use botstead_runtime::{ByteStream, Channels, ErrorKind, Result};
use botstead_types::ContainerId;

#[async_trait]
impl Channels for Shared {
    async fn connect(&self, id: &ContainerId, _: &str) -> Result<Box<dyn ByteStream>> {
        Err(Op("channels.connect", "connect to task").error(ErrorKind::Unsupported, id))
    }
}
