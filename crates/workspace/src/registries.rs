//! What admins set for registries while the server runs.

use crate::service::Workspaces;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_runtime::{Registry, RegistrySettings};
use botstead_types::RegistryName;
use std::sync::Arc;

impl Workspaces {
    /// What is known of registries, by name and without secrets.
    ///
    /// # Errors
    /// `Forbidden`, `Unsupported`.
    pub async fn registries(&self, actor: &Actor) -> Result<Vec<Registry>> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "list registries")?;
        Ok(inner.runtime.registries.list().await?)
    }

    /// Sets all of what is said of a registry, for the pulls that begin afterwards.
    ///
    /// # Errors
    /// `Forbidden`, `InvalidValue`, `Unsupported`; certificates that are none; a full disk.
    pub async fn set_registry(
        &self,
        actor: &Actor,
        name: RegistryName,
        settings: RegistrySettings,
    ) -> Result<Registry> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "set registries")?;
        inner.refuse_when_closing()?;
        settings.check()?;
        let registries = Arc::clone(&inner.runtime.registries);
        let actor = *actor;
        let work = async move {
            let set = registries.set(&name, settings).await?;
            tracing::info!(?actor, registry = set.name, "a registry was set");
            Ok(set)
        };
        inner.detached(work).await
    }

    /// Forgets what was set for a registry; what is configured for it holds again.
    ///
    /// # Errors
    /// `Forbidden`, `RegistryNotSet`, `Unsupported`; a full disk.
    pub async fn forget_registry(&self, actor: &Actor, name: RegistryName) -> Result<()> {
        let inner = &self.inner;
        inner.authorized_on_server(actor, Action::ManageImages, "forget registries")?;
        inner.refuse_when_closing()?;
        let registries = Arc::clone(&inner.runtime.registries);
        let actor = *actor;
        let work = async move {
            match registries.forget(&name).await {
                Err(error) if error.is_not_found() => return Err(Error::RegistryNotSet(name)),
                done => done?,
            }
            tracing::info!(?actor, registry = %name, "what was set for a registry was forgotten");
            Ok(())
        };
        inner.detached(work).await
    }
}
