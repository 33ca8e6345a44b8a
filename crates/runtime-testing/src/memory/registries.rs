//! What is known of registries.

use super::Shared;
use super::faults::Op;
use botstead_runtime::{ErrorKind, Registries, Registry, RegistrySettings, Result};
use botstead_types::RegistryName;

#[async_trait::async_trait]
impl Registries for Shared {
    async fn list(&self) -> Result<Vec<Registry>> {
        let op = Op("registries.list", "list");
        self.call(op, "registries", |state| {
            let set = state.registries.iter();
            Ok(set.map(|(name, set)| Registry::set(name, set)).collect())
        })
    }

    async fn set(&self, name: &RegistryName, settings: RegistrySettings) -> Result<Registry> {
        self.call(Op("registries.set", "set registry"), name, |state| {
            let set = Registry::set(name, &settings);
            state.registries.insert(name.clone(), settings);
            Ok(set)
        })
    }

    async fn forget(&self, name: &RegistryName) -> Result<()> {
        let op = Op("registries.forget", "forget registry");
        self.call(op, name, |state| {
            let forgotten = state.registries.remove(name).map(drop);
            forgotten.ok_or_else(|| op.error(ErrorKind::NotFound, name))
        })
    }
}
