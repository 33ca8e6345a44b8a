//! Whom an import's entries belong to.

use crate::replace::blocking;
use crate::service::Inner;
use crate::users::{Accounts, number};
use crate::{Error, Result};
use botstead_archive::{Owner, Ownership};
use botstead_runtime::Access;
use botstead_store::ContainerRecord;
use botstead_types::{LeaseId, OperationId};
use std::sync::Arc;

impl Inner {
    /// Whom an archive's entries belong to in the workspace as it is now: to whom the archive says, or to
    /// `as_user` (as a command's user is given; empty for the workspace's own). What it only implies
    /// belongs to the workspace's own user. The caller holds the bot.
    ///
    /// # Errors
    /// `NoSuchUser`.
    pub(super) async fn ownership(
        self: &Arc<Self>,
        record: &ContainerRecord,
        as_user: Option<&str>,
    ) -> Result<Ownership> {
        let own = self.resolved(&record.image).await?.config.user;
        let wanted = as_user.map(|user| if user.is_empty() { &own } else { user });
        let needs_files = [Some(own.as_str()), wanted];
        let needs_files = needs_files.into_iter().flatten();
        let accounts = match needs_files.clone().all(|user| number(user).is_some()) {
            true => Accounts::default(),
            false => self.accounts(record).await?,
        };
        let own_user = accounts.owner(&own).unwrap_or_else(|| {
            // It may have been removed since the workspace was made; then there is root.
            tracing::warn!(bot = %record.bot, user = own, "the workspace has no user of its image's name");
            Owner::default()
        });
        let entries = match wanted {
            None => None,
            Some(user) => {
                let found = accounts.owner(user);
                Some(found.ok_or_else(|| Error::NoSuchUser(user.to_owned()))?)
            }
        };
        Ok(Ownership {
            entries,
            implied: entries.unwrap_or(own_user),
        })
    }

    async fn accounts(self: &Arc<Self>, record: &ContainerRecord) -> Result<Accounts> {
        let id = OperationId::generate();
        let lease = LeaseId::for_operation(id);
        self.runtime.leases.create(&lease).await?;
        let snapshots = &self.runtime.snapshots;
        let read = async {
            let tree = snapshots
                .open(&lease, &record.snapshot, Access::Read)
                .await?;
            blocking(move || Accounts::read(tree.as_ref())).await
        };
        let accounts = read.await;
        self.drop_lease(id);
        accounts
    }
}
