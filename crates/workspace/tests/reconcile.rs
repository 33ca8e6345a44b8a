//! The reconcile loop: what one workspace does is its own affair, and nothing is done while nothing
//! happens.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use async_trait::async_trait;
use botstead_bridge::proto;
use botstead_bridge::proto::processes_server::{Processes, ProcessesServer};
use botstead_runtime::{
    ByteStream, Channels, Error as RuntimeError, ErrorKind, Exec, ExecOutput, ExitStatus, Result,
    Signal, Task, TaskEvent, Tasks,
};
use botstead_runtime_testing::InMemoryRuntime;
use botstead_types::{BotId, ContainerId, PageRequest};
use botstead_workspace::{CreateEvent, DeleteRequest, SnapshotMode};
use common::gated::Gated;
use common::{LONG, World, container};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::{Request, Response, Status, Streaming};

type Events = BoxStream<'static, Result<TaskEvent>>;

/// Ends the workspace's task as if by itself, and waits until it runs again.
async fn end(world: &World, bot: BotId) {
    let events = world.memory.runtime().tasks.events();
    assert!(world.memory.exit_task(&container(bot), 137));
    started(events, bot).await;
}

/// Waits until the workspace's task is started.
async fn started(mut events: Events, bot: BotId) {
    let seen = async {
        while let Some(event) = events.next().await {
            if matches!(event, Ok(TaskEvent::Started(id)) if id == container(bot)) {
                return;
            }
        }
        panic!("the runtime's events ended");
    };
    let seen = tokio::time::timeout(LONG, seen).await;
    seen.expect("the workspace was not started again");
}

#[tokio::test]
async fn a_bot_deleted_before_it_was_seen_running_again_leaves_nothing_to_look_at() {
    let world = World::new().await;
    let bot = world.running().await;
    end(&world, bot).await;
    let all = DeleteRequest {
        delete_versions: true,
        ..DeleteRequest::default()
    };
    world
        .workspaces
        .delete(&world.owner, bot, all)
        .await
        .unwrap();
    world.settled().await;
    world.memory.take_calls();
    // Several of the shortest pauses.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.memory.take_calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn an_end_concerns_its_own_workspace_only() {
    let world = World::new().await;
    let bot = world.running().await;
    for _ in 0..9 {
        world.running().await;
    }
    world.settled().await;
    world.memory.take_calls();
    end(&world, bot).await;
    // Long enough for a round that was not asked for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let calls = world.memory.take_calls();
    let count = |name: &str| calls.iter().filter(|call| **call == name).count();
    assert_eq!(count("tasks.create"), 1, "{calls:?}");
    assert_eq!(count("tasks.list"), 0, "{calls:?}");
    assert_eq!(count("network.ensure_host"), 0, "{calls:?}");
    assert!(count("network.status") <= 1, "{calls:?}");
}

#[tokio::test]
async fn ends_that_were_missed_are_found_once_the_runtime_answers_again() {
    let world = World::new().await;
    let bot = world.running().await;
    world.memory.stop_answering();
    assert!(world.memory.exit_task(&container(bot), 137));
    world.memory.answer_again();
    let events = world.memory.runtime().tasks.events();
    started(events, bot).await;
}

/// Agents that accept a connection and never say a word.
#[derive(Default)]
struct Mute {
    held: Mutex<Vec<tokio::io::DuplexStream>>,
}

#[async_trait]
impl Channels for Mute {
    async fn connect(&self, _: &ContainerId, _: &str) -> Result<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.held.lock().unwrap().push(theirs);
        Ok(Box::new(ours))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_whose_agents_never_answer_hold_up_no_other() {
    let memory = InMemoryRuntime::limited(|capabilities| capabilities.channels = true);
    let world = World::with(memory, |runtime, config| {
        runtime.channels = Arc::new(Mute::default());
        // All are looked at soon, and again and again.
        config.reconcile_interval = Duration::from_secs(2);
    })
    .await;
    let bot = world.running().await;
    join_all((0..120).map(|_| world.running())).await;
    // A round that looks at some of them at a time, and waits for each, is under way then.
    world.memory.take_calls();
    let round = async {
        while !world.memory.take_calls().contains(&"tasks.list") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let round = tokio::time::timeout(LONG, round).await;
    round.expect("nobody looked at the workspaces");
    for _ in 0..3 {
        end(&world, bot).await;
    }
}

/// Agents that are not there.
struct Absent;

#[async_trait]
impl Channels for Absent {
    async fn connect(&self, id: &ContainerId, _: &str) -> Result<Box<dyn ByteStream>> {
        Err(RuntimeError::new(ErrorKind::NotFound, "connect to", id))
    }
}

/// A task whose agent does not answer, after somebody asked for it to be started; the pids of its first
/// process before and after, and the events.
async fn started_again(channels: Arc<dyn Channels>) -> (bool, [u32; 2], Vec<String>) {
    let memory = InMemoryRuntime::limited(|capabilities| capabilities.channels = true);
    let world = World::with(memory, |runtime, _| runtime.channels = channels).await;
    let bot = world.running().await;
    let pid = async || {
        let task = world.memory.runtime().tasks.get(&container(bot)).await;
        task.unwrap().pid
    };
    let before = pid().await;
    let started = world.workspaces.start(&world.owner, bot).await;
    let events = world.store.events.list(bot, &PageRequest::default()).await;
    let kinds = events.unwrap().items.into_iter();
    let kinds = kinds.map(|event| event.event.kind).collect();
    (started.is_ok(), [before, pid().await], kinds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_replaced_when_its_agent_is_gone_and_not_when_it_is_busy() {
    let (busy, gone) = tokio::join!(
        started_again(Arc::new(Mute::default())),
        started_again(Arc::new(Absent))
    );
    let (started, [before, after], events) = busy;
    assert!(!started && before == after, "{events:?}");
    assert!(!events.contains(&"task_replaced".to_owned()), "{events:?}");
    let (started, [before, after], events) = gone;
    assert!(started && before != after, "{events:?}");
    assert!(events.contains(&"task_replaced".to_owned()), "{events:?}");
}

#[tokio::test]
async fn data_that_is_brought_back_holds_no_place_among_the_starts() {
    let mut gated = None;
    let world = World::with(InMemoryRuntime::new(), |runtime, config| {
        gated = Some(Gated::before(runtime));
        config.max_concurrent_starts = 1;
    })
    .await;
    let gated = gated.unwrap();
    let slow = world.running().await;
    world.write(slow, "kept").await;
    let preserve = DeleteRequest {
        preserve_data: true,
        delete_versions: true,
    };
    world
        .workspaces
        .delete(&world.owner, slow, preserve)
        .await
        .unwrap();
    gated.close();
    let restoring = world.create(slow);
    tokio::pin!(restoring);
    let others = async {
        while gated.gate.available_permits() == 0 {
            let started = tokio::time::timeout(Duration::from_secs(20), world.running()).await;
            started.expect("another workspace waits for the archive");
            gated.gate.add_permits(1);
        }
    };
    tokio::select! {
        early = &mut restoring => panic!("nothing was held up: {early:?}"),
        () = gated.arrived.notified() => {}
    }
    let (events, ()) = tokio::join!(restoring, others);
    assert!(
        matches!(events.last(), Some(CreateEvent::Complete(_))),
        "{events:?}"
    );
    assert_eq!(world.read(slow).await.as_deref(), Some("kept"));
}

/// Tasks whose making never ends for some, as with a root that holds the runtime up.
struct HeldUp {
    inner: Arc<dyn Tasks>,
    held: Arc<Mutex<HashSet<ContainerId>>>,
}

#[async_trait]
impl Tasks for HeldUp {
    async fn create(&self, id: &ContainerId) -> Result<u32> {
        let made = self.inner.create(id).await?;
        if self.held.lock().unwrap().contains(id) {
            std::future::pending::<()>().await;
        }
        Ok(made)
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        self.inner.start(id).await
    }

    async fn kill(&self, id: &ContainerId, signal: Signal) -> Result<()> {
        self.inner.kill(id, signal).await
    }

    async fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        self.inner.wait(id).await
    }

    async fn delete(&self, id: &ContainerId) -> Result<ExitStatus> {
        self.inner.delete(id).await
    }

    async fn get(&self, id: &ContainerId) -> Result<Task> {
        self.inner.get(id).await
    }

    async fn list(&self) -> Result<Vec<(ContainerId, Task)>> {
        self.inner.list().await
    }

    async fn exec(&self, id: &ContainerId, exec: Exec) -> Result<ExecOutput> {
        self.inner.exec(id, exec).await
    }

    fn events(&self) -> Events {
        self.inner.events()
    }
}

#[tokio::test]
async fn starts_that_are_held_up_hold_up_neither_other_users_nor_the_reconciliation() {
    let held = Arc::new(Mutex::new(HashSet::new()));
    let mut world = World::with(InMemoryRuntime::new(), |runtime, config| {
        runtime.tasks = Arc::new(HeldUp {
            inner: Arc::clone(&runtime.tasks),
            held: Arc::clone(&held),
        });
        config.max_concurrent_starts = 2;
    })
    .await;
    let running = world.running().await;
    let bots = [world.running().await, world.running().await];
    for bot in bots {
        world.workspaces.stop(&world.owner, bot).await.unwrap();
        held.lock().unwrap().insert(container(bot));
        let (workspaces, owner) = (world.workspaces.clone(), world.owner);
        tokio::spawn(async move { workspaces.start(&owner, bot).await });
    }
    world.change_owner().await;
    let created = tokio::time::timeout(LONG, world.running()).await;
    let others = created.expect("another user waits for a place");
    end(&world, running).await;
    // Those of the reconciliation are shared as well.
    held.lock().unwrap().insert(container(running));
    assert!(world.memory.exit_task(&container(running), 137));
    end(&world, others).await;
}

#[tokio::test]
async fn a_replay_takes_no_place_among_the_starts_that_somebody_asked_for() {
    let held = Arc::new(Mutex::new(HashSet::new()));
    let world = World::with(InMemoryRuntime::new(), |runtime, config| {
        runtime.tasks = Arc::new(HeldUp {
            inner: Arc::clone(&runtime.tasks),
            held: Arc::clone(&held),
        });
        config.max_concurrent_starts = 2;
    })
    .await;
    let bot = world.running().await;
    held.lock().unwrap().insert(container(bot));
    // The version is recorded, and what is left is the start.
    world
        .memory
        .fail_next("tasks.create", ErrorKind::Unavailable, 1);
    let made = world
        .workspaces
        .snapshot(&world.owner, bot, None, SnapshotMode::Stop)
        .await;
    made.unwrap_err();
    let replayed = async {
        while world.memory.tasks().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let replayed = tokio::time::timeout(LONG, replayed).await;
    replayed.expect("nobody tries it again");
    let created = tokio::time::timeout(Duration::from_secs(20), world.running()).await;
    created.expect("its owner waits for the replay");
}

/// Agents that name many terminals, all idle, and of which some never answer when told to end one.
struct Terminals {
    honest: Arc<Mutex<Option<ContainerId>>>,
    asked_to_end: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    /// Told with each change of these.
    told: Arc<Notify>,
}

#[async_trait]
impl Channels for Terminals {
    async fn connect(&self, id: &ContainerId, _: &str) -> Result<Box<dyn ByteStream>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let honest = self.honest.lock().unwrap().as_ref() == Some(id);
        let agent = Agent {
            terminals: if honest { 1 } else { 2_000 },
            answers: honest,
            asked_to_end: Arc::clone(&self.asked_to_end),
            ended: Arc::clone(&self.ended),
            told: Arc::clone(&self.told),
        };
        let connections = futures_util::stream::once(async { Ok::<_, std::io::Error>(theirs) });
        // The server goes on until its connection ends.
        let connections = connections.chain(futures_util::stream::pending());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(ProcessesServer::new(agent))
                .serve_with_incoming(connections),
        );
        Ok(Box::new(ours))
    }
}

struct Agent {
    terminals: usize,
    answers: bool,
    asked_to_end: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    told: Arc<Notify>,
}

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Processes for Agent {
    type RunStream = futures_util::stream::Empty<std::result::Result<proto::RunOutput, Status>>;

    async fn run(&self, _: Request<Streaming<proto::RunInput>>) -> Answer<Self::RunStream> {
        Err(Status::unimplemented(""))
    }

    async fn list(
        &self,
        _: Request<proto::ListProcessesRequest>,
    ) -> Answer<proto::ListProcessesReply> {
        let terminal = |number: usize| proto::ProcessInfo {
            id: number.to_string(),
            running: true,
            terminal: true,
            idle_ms: u64::MAX,
            ..proto::ProcessInfo::default()
        };
        Ok(Response::new(proto::ListProcessesReply {
            processes: (0..self.terminals).map(terminal).collect(),
        }))
    }

    async fn remove(
        &self,
        _: Request<proto::RemoveProcessRequest>,
    ) -> Answer<proto::RemoveProcessReply> {
        if !self.answers {
            self.asked_to_end.fetch_add(1, Ordering::SeqCst);
            self.told.notify_one();
            std::future::pending::<()>().await;
        }
        self.ended.store(true, Ordering::SeqCst);
        self.told.notify_one();
        Ok(Response::new(proto::RemoveProcessReply::default()))
    }

    async fn write_input(
        &self,
        _: Request<proto::WriteInputRequest>,
    ) -> Answer<proto::WriteInputReply> {
        Err(Status::unimplemented(""))
    }

    async fn signal(&self, _: Request<proto::SignalRequest>) -> Answer<proto::SignalReply> {
        Err(Status::unimplemented(""))
    }

    async fn find_shell(
        &self,
        _: Request<proto::FindShellRequest>,
    ) -> Answer<proto::FindShellReply> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_terminals_are_no_reason_to_leave_others_open() {
    let memory = InMemoryRuntime::limited(|capabilities| capabilities.channels = true);
    let (honest, asked_to_end, ended) = (Arc::default(), Arc::default(), Arc::default());
    let told = Arc::new(Notify::new());
    let world = World::with(memory, |runtime, config| {
        runtime.channels = Arc::new(Terminals {
            honest: Arc::clone(&honest),
            asked_to_end: Arc::clone(&asked_to_end),
            ended: Arc::clone(&ended),
            told: Arc::clone(&told),
        });
        config.terminal_idle = Duration::from_secs(10);
    })
    .await;
    for _ in 0..12 {
        world.running().await;
    }
    let bot = world.bot().await;
    *honest.lock().unwrap() = Some(container(bot));
    world.create(bot).await;
    let both = async {
        while !ended.load(Ordering::SeqCst) || asked_to_end.load(Ordering::SeqCst) == 0 {
            told.notified().await;
        }
    };
    let both = tokio::time::timeout(LONG, both).await;
    both.expect("nobody ended the terminal of the honest agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_workspaces_whose_agents_do_not_answer_keep_no_place_among_the_starts() {
    let memory = InMemoryRuntime::limited(|capabilities| capabilities.channels = true);
    let world = World::with(memory, |runtime, config| {
        runtime.channels = Arc::new(Mute::default());
        config.first_answer = LONG;
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let bot = world.bot().await;
        let request = common::request(common::IMAGE);
        streams.push(
            world
                .workspaces
                .create(&world.owner, bot, request)
                .await
                .unwrap(),
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let other = world.bot().await;
    let request = common::request(common::IMAGE);
    let _stream = world
        .workspaces
        .create(&world.owner, other, request)
        .await
        .unwrap();
    let runs = async {
        while !world
            .memory
            .tasks()
            .iter()
            .any(|(id, _)| *id == container(other))
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let runs = tokio::time::timeout(Duration::from_secs(20), runs).await;
    assert!(
        runs.is_ok(),
        "another's workspace is not started for 20 s; {} run",
        world.memory.tasks().len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_workspace_is_not_undone_because_its_end_could_not_be_waited_for() {
    let memory = InMemoryRuntime::limited(|capabilities| capabilities.channels = true);
    let world = World::with(memory, |runtime, config| {
        runtime.channels = Arc::new(Mute::default());
        config.first_answer = LONG;
    })
    .await;
    world
        .memory
        .fail_next("tasks.wait", ErrorKind::Unavailable, 1);
    let bot = world.bot().await;
    let made = tokio::time::timeout(Duration::from_secs(10), world.create(bot)).await;
    assert!(made.is_err(), "{made:?}");
}
