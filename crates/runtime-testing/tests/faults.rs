//! What the in-memory runtime can be told to do to whoever uses it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use botstead_runtime::{ErrorKind, PullProgress, Runtime, Signal, TaskEvent};
use botstead_runtime_testing::memory::OPERATIONS;
use botstead_runtime_testing::{ImageContent, InMemoryRuntime, PullScript};
use botstead_types::{ImageRef, LeaseId, OperationId, SnapshotKey};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

async fn leased(memory: &InMemoryRuntime) -> (Runtime, LeaseId) {
    let runtime = memory.runtime();
    let lease = LeaseId::for_operation(OperationId::generate());
    runtime.leases.create(&lease).await.unwrap();
    (runtime, lease)
}

async fn prepare(runtime: &Runtime, lease: &LeaseId) -> Result<SnapshotKey, ErrorKind> {
    let key = SnapshotKey::active(OperationId::generate());
    let labels = BTreeMap::new();
    let prepared = runtime.snapshots.prepare(lease, &key, None, &labels).await;
    prepared.map(|_| key).map_err(|error| error.kind())
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_refused_call_has_no_effect_and_the_next_one_succeeds() {
    let memory = InMemoryRuntime::new();
    let (runtime, lease) = leased(&memory).await;
    memory.fail_next("snapshots.prepare", ErrorKind::ResourceExhausted, 2);
    for _ in 0..2 {
        let refused = prepare(&runtime, &lease).await;
        assert_eq!(refused, Err(ErrorKind::ResourceExhausted));
    }
    assert_eq!(memory.snapshots(), []);
    assert_eq!(memory.pending_faults(), [""; 0]);
    assert!(prepare(&runtime, &lease).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_has_its_effect() {
    let memory = InMemoryRuntime::new();
    let (runtime, lease) = leased(&memory).await;
    memory.lose_answer_next("snapshots.prepare", ErrorKind::Unavailable, 1);
    assert_eq!(memory.pending_faults(), ["snapshots.prepare"]);
    let lost = prepare(&runtime, &lease).await;
    assert_eq!(lost, Err(ErrorKind::Unavailable));
    assert_eq!(memory.snapshots().len(), 1);
}

#[tokio::test]
async fn a_runtime_can_go_away_between_any_two_calls() {
    let memory = InMemoryRuntime::new();
    let (runtime, lease) = leased(&memory).await;
    let mut events = runtime.tasks.events();
    memory.take_calls();
    memory.stop_answering_after(2);
    assert!(prepare(&runtime, &lease).await.is_ok());
    assert!(prepare(&runtime, &lease).await.is_ok());
    assert!(memory.is_answering());
    for _ in 0..2 {
        let away = prepare(&runtime, &lease).await;
        assert_eq!(away, Err(ErrorKind::Unavailable));
    }
    assert!(!memory.is_answering());
    assert!(events.next().await.is_none(), "the stream must end");
    let refused = runtime.tasks.events().next().await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(memory.take_calls(), ["snapshots.prepare"; 2]);
    memory.answer_again();
    assert!(prepare(&runtime, &lease).await.is_ok());
    assert_eq!(memory.snapshots().len(), 3);
}

#[test]
#[should_panic(expected = "snapshots.prepar")]
fn a_misspelt_operation_is_refused() {
    InMemoryRuntime::new().fail_next("snapshots.prepar", ErrorKind::Internal, 1);
}

#[test]
fn operations_are_listed_once() {
    assert!(OPERATIONS.is_sorted_by(|a, b| a < b));
}

/// Pulls a scripted image; `cancel_after` of the given time.
async fn pull(
    script: PullScript,
    cancel_after: Option<Duration>,
) -> (Result<u64, ErrorKind>, PullProgress, InMemoryRuntime) {
    let memory = InMemoryRuntime::new();
    let (runtime, lease) = leased(&memory).await;
    let content = ImageContent::of_files([("/a", "1")]).with_layer([("/b", "2")]);
    memory.add_remote_image(&image("localhost/a:1"), content, script);
    let (sender, receiver) = watch::channel(PullProgress::default());
    let cancel = CancellationToken::new();
    if let Some(after) = cancel_after {
        let cancel = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            cancel.cancel();
        });
    }
    let reference = image("localhost/a:1");
    let pulled = runtime.images.pull(&lease, &reference, &sender, &cancel);
    let pulled = pulled.await.map(|image| image.size_bytes);
    let progress = receiver.borrow().clone();
    (pulled.map_err(|error| error.kind()), progress, memory)
}

#[tokio::test]
async fn a_pull_that_hangs_ends_when_it_is_cancelled() {
    let script = PullScript {
        steps: 2,
        hangs_after: Some(3),
        ..PullScript::default()
    };
    let (pulled, progress, memory) = pull(script, Some(Duration::from_millis(20))).await;
    assert_eq!(pulled, Err(ErrorKind::Cancelled));
    let offsets: Vec<_> = progress
        .layers
        .iter()
        .map(|l| (l.offset, l.total))
        .collect();
    assert_eq!(offsets, [(513, 513), (256, 513)]);
    assert_eq!(memory.images(), []);
    assert_eq!(memory.snapshots(), []);
}

#[tokio::test]
async fn a_pull_fails_as_its_script_says() {
    for kind in [
        ErrorKind::PermissionDenied,
        ErrorKind::Corrupt,
        ErrorKind::ResourceExhausted,
    ] {
        let script = PullScript {
            fails_after: Some((1, kind)),
            ..PullScript::default()
        };
        let (pulled, _, memory) = pull(script, None).await;
        assert_eq!(pulled, Err(kind));
        assert_eq!(memory.images(), []);
    }
}

#[tokio::test]
async fn a_moved_tag_is_followed() {
    let (pulled, _, memory) = pull(PullScript::default(), None).await;
    assert_eq!(pulled, Ok(1026));
    let reference = image("localhost/a:1");
    let runtime = memory.runtime();
    let old = runtime.images.get(&reference).await.unwrap();
    let moved = ImageContent::of_files([("/a", "changed")]);
    memory.add_remote_image(&reference, moved, PullScript::default());
    let (_, lease) = leased(&memory).await;
    let progress = watch::channel(PullProgress::default()).0;
    let cancel = CancellationToken::new();
    let pulled = runtime.images.pull(&lease, &reference, &progress, &cancel);
    let new = pulled.await.unwrap();
    assert_ne!(new.resolved.digest, old.resolved.digest);
    assert_eq!(runtime.images.get(&reference).await.unwrap(), new);
}

#[tokio::test]
async fn layers_can_hide_files_and_changes_can_be_copied() {
    let memory = InMemoryRuntime::new();
    let (runtime, lease) = leased(&memory).await;
    memory.add_image(
        &image("localhost/a:1"),
        ImageContent::of_files([("/a", "1")]),
    );
    let top = memory.snapshots()[0].key.clone();
    let (from, to): (SnapshotKey, SnapshotKey) = ("from".parse().unwrap(), "to".parse().unwrap());
    for key in [&from, &to] {
        let labels = BTreeMap::new();
        let prepared = runtime.snapshots.prepare(&lease, key, Some(&top), &labels);
        prepared.await.unwrap();
    }
    memory.remove_file(&from, "/a");
    memory.write_file(&from, "/b", "2");
    assert_eq!(memory.files(&to).into_keys().collect::<Vec<_>>(), ["a"]);
    memory.copy_changes(&from, &to);
    assert_eq!(memory.files(&to).into_keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(memory.read_file(&top, "/a").as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_restart_of_the_host_leaves_records_only() {
    let memory = InMemoryRuntime::new();
    let (runtime, lease) = leased(&memory).await;
    let key = prepare(&runtime, &lease).await.unwrap();
    let id: botstead_types::ContainerId = "workspace-1".parse().unwrap();
    let spec = botstead_runtime::ContainerSpec {
        id: id.clone(),
        image: memory.add_image(&image("localhost/a:1"), ImageContent::default()),
        snapshot: key,
        process: botstead_runtime::Process {
            args: vec!["/agent".to_owned()],
            env: Vec::new(),
            cwd: "/".to_owned(),
            oom_score_adj: 0,
        },
        hostname: "one".to_owned(),
        hosts: Vec::new(),
        dns: Default::default(),
        timezone: None,
        mounts: Vec::new(),
        channel: None,
        network_namespace: Some(runtime.network.create_namespace(&id).await.unwrap()),
        address: None,
        limits: Default::default(),
        shared_memory_bytes: 64 << 20,
        devices: Vec::new(),
        labels: BTreeMap::new(),
    };
    runtime.containers.create(&lease, &spec).await.unwrap();
    runtime.tasks.create(&id).await.unwrap();
    runtime.tasks.start(&id).await.unwrap();
    let mut events = runtime.tasks.events();
    assert!(memory.exhaust_memory(&id));
    assert_eq!(
        events.next().await.unwrap().unwrap(),
        TaskEvent::OutOfMemory(id.clone())
    );
    assert!(!memory.exit_task(&id, 0), "it ended already");
    memory.restart_host();
    assert_eq!(memory.tasks(), []);
    assert_eq!(memory.namespaces(), []);
    assert_eq!(memory.containers().len(), 1);
    assert_eq!(memory.snapshots().len(), 1);
    let created = runtime.tasks.create(&id).await;
    assert_eq!(created.unwrap_err().kind(), ErrorKind::NotFound);
    runtime.network.create_namespace(&id).await.unwrap();
    runtime.tasks.create(&id).await.unwrap();
    let stopped = runtime.tasks.stop(&id, Signal::TERM, Duration::ZERO).await;
    assert!(stopped.unwrap().is_some());
}
