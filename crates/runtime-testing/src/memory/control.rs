//! What tests do to the runtime behind its ports, and what they see of it.
//!
//! Nothing here counts as a call or fails by an injected fault.

use super::faults::Op;
use super::files::{Entry, Files, put};
use super::images::{ImageContent, PullScript, Remote};
use super::{InMemoryRuntime, containers, leases, snapshots, tasks};
use botstead_runtime::{Container, Endpoint, ErrorKind, Lease, Snapshot, Task, TaskEvent, Usage};
use botstead_types::{ContainerId, ImageRef, ResolvedImage, SnapshotKey, SnapshotKind};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Faults.
impl InMemoryRuntime {
    /// The next `times` calls of `operation` (one of [`super::OPERATIONS`]) fail with `kind` and
    /// have no effect.
    pub fn fail_next(&self, operation: &str, kind: ErrorKind, times: usize) {
        self.shared.state().faults.refuse(operation, kind, times);
    }

    /// The next `times` calls of `operation` that succeed have their effect, but the caller gets
    /// `kind`: as when the connection breaks before the answer.
    pub fn lose_answer_next(&self, operation: &str, kind: ErrorKind, times: usize) {
        self.shared.state().faults.lose(operation, kind, times);
    }

    /// No injected failure happens any more.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// The operations whose injected failures did not happen yet.
    pub fn pending_faults(&self) -> Vec<&'static str> {
        self.shared.state().faults.pending()
    }

    /// Every call fails with `Unavailable` from now on, waits end and event streams end. Tasks
    /// go on.
    pub fn stop_answering(&self) {
        self.shared.state().faults.set_away(true);
        self.shared.announce_away();
    }

    /// As [`Self::stop_answering`], after this many further calls. With 0, 1, 2 and so on a test
    /// breaks an operation between any two of its steps.
    pub fn stop_answering_after(&self, calls: usize) {
        self.shared.state().faults.set_away_after(calls);
    }

    /// Ends what [`Self::stop_answering`] began.
    pub fn answer_again(&self) {
        self.shared.state().faults.set_away(false);
        self.shared.answering.send_replace(true);
    }

    /// Kills who uses the runtime after this many further calls: from then on every call panics with
    /// [`Killed`](super::Killed), so that its task ends where it stands and undoes nothing.
    pub fn kill_after(&self, calls: usize) {
        self.shared.state().faults.set_dies_after(Some(calls));
    }

    /// Counts for [`Self::kill_after`] as a call does, for what is called beside the runtime.
    pub fn pass(&self) {
        self.shared.state().faults.pass();
    }

    /// Injected failures that did not happen yet do not happen any more.
    pub fn forget_faults(&self) {
        self.shared.state().faults.forget();
    }

    /// Ends what [`Self::kill_after`] began: another process calls from now on.
    pub fn live_again(&self) {
        self.shared.state().faults.set_dies_after(None);
    }

    /// Whether calls are answered.
    pub fn is_answering(&self) -> bool {
        !self.shared.state().faults.is_away()
    }

    /// Collects garbage after every change, not only after deletions: as if a neighbour deleted
    /// something at the worst moment each time.
    pub fn collect_always(&self, always: bool) {
        self.shared.state().collects_always = always;
    }

    /// The names of the calls since this was last asked, in their order.
    pub fn take_calls(&self) -> Vec<&'static str> {
        self.shared.state().faults.take_calls()
    }

    /// What a restart of the host leaves: no tasks, no namespaces, no rules; all records.
    pub fn restart_host(&self) {
        let mut state = self.shared.state();
        state.tasks.clear();
        state.namespaces.clear();
        state.host_ready = false;
        self.shared.announce_away();
        if !state.faults.is_away() {
            self.shared.answering.send_replace(true);
        }
    }
}

/// What others do to it.
impl InMemoryRuntime {
    /// Removes a container and its task, as another program may. False when there is none.
    pub fn lose_container(&self, id: &ContainerId) -> bool {
        let mut state = self.shared.state();
        self.shared.end(&mut state, id, 128 + 9);
        state.tasks.remove(id);
        let removed = state.containers.remove(id).is_some();
        state.collect();
        removed
    }

    /// Removes a snapshot, whoever needs it. False when there is none or others build on it.
    pub fn lose_snapshot(&self, key: &SnapshotKey) -> bool {
        let mut state = self.shared.state();
        !state.has_children(key) && state.snapshots.remove(key).is_some()
    }
}

/// Images and files.
impl InMemoryRuntime {
    /// Makes an image local, as a pull long ago would have.
    pub fn add_image(&self, reference: &ImageRef, content: ImageContent) -> ResolvedImage {
        let op = Op("images.import", "add image");
        let mut state = self.shared.state();
        state
            .put_image(op, None, reference, content)
            .expect("without a lease nothing of it can fail")
            .resolved
    }

    /// Puts an image into its registry, in place of one of that name.
    pub fn add_remote_image(
        &self,
        reference: &ImageRef,
        content: ImageContent,
        script: PullScript,
    ) {
        let remote = Remote { content, script };
        self.shared
            .state()
            .remotes
            .insert(reference.clone(), remote);
    }

    /// Writes a file of an active snapshot.
    ///
    /// # Panics
    /// When there is no such active snapshot: the test is wrong.
    pub fn write_file(&self, key: &SnapshotKey, path: &str, content: impl Into<Bytes>) {
        let entry = Some(Entry::File(content.into()));
        self.change_files(key, |files| put(files, path, entry));
    }

    /// Makes a symbolic link in an active snapshot, in place of what is there.
    ///
    /// # Panics
    /// When there is no such active snapshot: the test is wrong.
    pub fn write_link(&self, key: &SnapshotKey, path: &str, target: &str) {
        let entry = Some(Entry::Link(target.to_owned()));
        self.change_files(key, |files| put(files, path, entry));
    }

    /// Removes a file of an active snapshot, or a directory with what is in it, hiding those of a parent.
    ///
    /// # Panics
    /// When there is no such active snapshot: the test is wrong.
    pub fn remove_file(&self, key: &SnapshotKey, path: &str) {
        self.change_files(key, |files| put(files, path, None));
    }

    /// Sets what is free on its disk.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.shared.state().free_bytes = Some(bytes);
    }

    /// A file as the snapshot shows it, whether it is its own or a parent's.
    pub fn read_file(&self, key: &SnapshotKey, path: &str) -> Option<Bytes> {
        self.shared.state().entry(key, path)?.into_file()
    }

    /// All files as the snapshot shows them.
    pub fn files(&self, key: &SnapshotKey) -> BTreeMap<String, Bytes> {
        let shown = self.shared.state().shown(key).into_iter();
        shown
            .filter_map(|(path, entry)| Some((path, entry.into_file()?)))
            .collect()
    }

    /// Where a symbolic link of the snapshot leads; `None` when it is anything else.
    pub fn read_link(&self, key: &SnapshotKey, path: &str) -> Option<String> {
        match self.shared.state().entry(key, path)? {
            Entry::Link(target) => Some(target),
            Entry::File(_) => None,
        }
    }

    /// Makes the changes of an active snapshot those of another snapshot: what copying one upper
    /// directory to another does on a real runtime.
    ///
    /// # Panics
    /// When either does not exist or `to` is not active: the test is wrong.
    pub fn copy_changes(&self, from: &SnapshotKey, to: &SnapshotKey) {
        let state = self.shared.state();
        let Some(record) = state.snapshots.get(from) else {
            panic!("there is no snapshot {from}");
        };
        let copy = record.files.clone();
        drop(state);
        self.change_files(to, |files| *files = copy);
    }

    fn change_files(&self, key: &SnapshotKey, change: impl FnOnce(&mut Files)) {
        let mut state = self.shared.state();
        match state.snapshots.get_mut(key) {
            Some(record) if record.snapshot.kind == SnapshotKind::Active => {
                change(&mut record.files);
            }
            _ => panic!("there is no active snapshot {key}"),
        }
    }
}

/// Tasks and the network.
impl InMemoryRuntime {
    /// Ends a container's process by itself with this code. False when none runs.
    pub fn exit_task(&self, id: &ContainerId, code: u32) -> bool {
        self.shared.end(&mut self.shared.state(), id, code)
    }

    /// Lets the memory limit kill a container's process. False when none runs.
    pub fn exhaust_memory(&self, id: &ContainerId) -> bool {
        self.shared.publish(TaskEvent::OutOfMemory(id.clone()));
        self.exit_task(id, 128 + 9)
    }

    /// Sets what a container's task is said to use.
    pub fn set_usage(&self, id: &ContainerId, usage: Usage) {
        self.shared.state().usages.insert(id.clone(), usage);
    }

    /// Takes a container's link away, as a restart of the host's network does.
    pub fn break_endpoint(&self, id: &ContainerId) {
        if let Some(namespace) = self.shared.state().namespaces.get_mut(id) {
            namespace.endpoint = None;
        }
    }
}

/// What is there.
impl InMemoryRuntime {
    /// All leases, by id.
    pub fn leases(&self) -> Vec<Lease> {
        leases::list(&self.shared.state())
    }

    /// All snapshots, by key.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        snapshots::list(&self.shared.state())
    }

    /// All container records, by id.
    pub fn containers(&self) -> Vec<Container> {
        containers::list(&self.shared.state())
    }

    /// All tasks, by container.
    pub fn tasks(&self) -> Vec<(ContainerId, Task)> {
        tasks::list(&self.shared.state())
    }

    /// All namespaces and how they are connected, by container.
    pub fn namespaces(&self) -> Vec<(ContainerId, Option<Endpoint>)> {
        let state = self.shared.state();
        let view = |(id, namespace): (&ContainerId, &super::network::Namespace)| {
            (id.clone(), namespace.endpoint)
        };
        state.namespaces.iter().map(view).collect()
    }

    /// Names of all local images.
    pub fn images(&self) -> Vec<ImageRef> {
        self.shared.state().images.keys().cloned().collect()
    }
}
