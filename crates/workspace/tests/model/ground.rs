//! What the model stands on: a runtime, and hands that reach behind it.

use botstead_authz::Actor;
use botstead_runtime::Runtime;
use botstead_store::{ContainerRecord, Store};
use botstead_types::{ContainerId, SnapshotKey};
use botstead_workspace::{WorkspaceConfig, Workspaces};
use std::collections::BTreeMap;

/// The files of a state, by path, with what they say.
pub type Files = BTreeMap<String, String>;

/// A fault that is due.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The server is killed at that call.
    Killed { at: usize },
    /// The runtime stops answering at that call.
    Away { at: usize },
    /// One call fails, or its answer is lost.
    Fails { call: usize, full: bool, lost: bool },
}

/// A runtime, and hands that reach behind it.
#[allow(async_fn_in_trait, reason = "called by this test alone")]
pub trait Ground {
    /// The ports.
    fn runtime(&self) -> Runtime;
    /// The store as the server gets it: one whose calls count for [`Fault::Killed`].
    fn store(&self, store: Store) -> Store;
    /// What the server's settings must be on it.
    fn configure(&self, config: &mut WorkspaceConfig);
    /// Makes it empty: another sequence may have been there.
    async fn begin(&self);
    /// The images that workspaces are made from.
    fn images(&self) -> [&'static str; 2];
    /// Writes a file as a program in the workspace does. Tells the file that was written: none when
    /// nothing runs there.
    async fn write(
        &self,
        workspaces: &Workspaces,
        owner: &Actor,
        row: &ContainerRecord,
        path: &str,
        text: &str,
    ) -> Option<String>;
    /// Removes a file, or what a path names as a file.
    async fn remove(
        &self,
        workspaces: &Workspaces,
        owner: &Actor,
        row: &ContainerRecord,
        path: &str,
    ) -> bool;
    /// Moves `/data` to `/home/moved` and puts a link in its place.
    async fn link(&self, workspaces: &Workspaces, owner: &Actor, row: &ContainerRecord) -> bool;
    /// What a snapshot holds; `None` when there is none of that name.
    async fn files(&self, key: &SnapshotKey) -> Option<Files>;
    /// Removes a container and its task.
    async fn lose_container(&self, id: &ContainerId) -> bool;
    /// Removes a snapshot that nothing builds on.
    async fn lose_snapshot(&self, key: &SnapshotKey) -> bool;
    /// What a restart of the host leaves.
    async fn reboot(&self);
    /// Lets a fault happen.
    fn arm(&self, fault: Fault);
    /// No fault happens any more, and everything answers.
    fn disarm(&self);
}
