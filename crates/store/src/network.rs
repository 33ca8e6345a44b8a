//! Addresses of workspaces.

use crate::Result;
use async_trait::async_trait;
use botstead_types::BotId;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// An address and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedAddress {
    /// The bot.
    pub bot: BotId,
    /// Its workspace's address.
    pub address: Ipv4Addr,
}

/// Addresses. They are released by [`crate::Transactions::apply`].
#[async_trait]
pub trait Addresses: Send + Sync {
    /// The bot's address in the subnet, assigning a free one where it has none: never the network,
    /// broadcast or `gateway` address, never one that another bot has, and not soon one that was
    /// just released. A recorded address outside of `subnet` is replaced. Again: the same address.
    ///
    /// # Errors
    /// `ResourceExhausted` when the subnet is full, `NotFound` when the bot does not exist.
    async fn assign(&self, bot: BotId, subnet: Ipv4Net, gateway: Ipv4Addr) -> Result<Ipv4Addr>;

    /// All assigned addresses, by bot.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    async fn list(&self) -> Result<Vec<AssignedAddress>>;
}
