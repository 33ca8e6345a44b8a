//! Promises of [`botstead_runtime::Tasks`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, refused};
use botstead_runtime::ErrorKind::{AlreadyExists, Conflict, NotFound, Unstartable, Unsupported};
use botstead_runtime::{Exec, ExecUser, Signal, TaskEvent};
use botstead_types::{ContainerId, TaskStatus};
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::{Duration, Instant};

/// Longer than any runtime should need for anything.
/// Longer than anything takes, also on an emulated machine.
const LONG: Duration = Duration::from_secs(60);

async fn status(cx: &Context, id: &ContainerId) -> TaskStatus {
    done(cx.tasks.get(id).await).status
}

pub async fn a_task_is_created_then_running_then_stopped_then_gone(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    refused(cx.tasks.get(&spec.id).await, NotFound);
    let pid = done(cx.tasks.create(&spec.id).await);
    let created = done(cx.tasks.get(&spec.id).await);
    assert_eq!((created.status, created.pid), (TaskStatus::Created, pid));
    assert!(pid > 0 && created.exit.is_none());
    done(cx.tasks.start(&spec.id).await);
    let running = done(cx.tasks.get(&spec.id).await);
    assert_eq!((running.status, running.pid), (TaskStatus::Running, pid));
    done(cx.tasks.kill(&spec.id, Signal::KILL).await);
    let exit = done(cx.tasks.wait(&spec.id).await);
    let stopped = done(cx.tasks.get(&spec.id).await);
    assert_eq!((stopped.status, stopped.pid), (TaskStatus::Stopped, 0));
    assert_eq!(stopped.exit, Some(exit));
    assert_eq!(done(cx.tasks.delete(&spec.id).await), exit);
    refused(cx.tasks.get(&spec.id).await, NotFound);
}

pub async fn creating_it_again_already_exists(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    done(cx.tasks.create(&spec.id).await);
    refused(cx.tasks.create(&spec.id).await, AlreadyExists);
    assert_eq!(status(&cx, &spec.id).await, TaskStatus::Created);
}

pub async fn starting_it_again_conflicts(cx: Context) {
    let spec = cx.running(Program::Forever).await;
    refused(cx.tasks.start(&spec.id).await, Conflict);
    assert_eq!(status(&cx, &spec.id).await, TaskStatus::Running);
}

pub async fn a_task_runs_on_mounts_that_the_caller_knows(cx: Context) {
    let spec = cx.container(Program::Exit(42)).await;
    let root = match cx.snapshots.mounts(&spec.snapshot).await {
        Err(error) if error.kind() == Unsupported => Vec::new(),
        root => done(root),
    };
    done(cx.tasks.create_on(&spec.id, &root).await);
    refused(cx.tasks.create_on(&spec.id, &root).await, AlreadyExists);
    done(cx.tasks.start(&spec.id).await);
    assert_eq!(done(cx.tasks.wait(&spec.id).await).code, 42);
    let missing = cx.spec(&cx.fixture().base(), Program::Forever).id;
    refused(cx.tasks.create_on(&missing, &root).await, NotFound);
}

pub async fn a_container_that_does_not_exist_has_no_task(cx: Context) {
    let id = cx.spec(&cx.fixture().base(), Program::Forever).id;
    refused(cx.tasks.create(&id).await, NotFound);
    refused(cx.tasks.start(&id).await, NotFound);
    refused(cx.tasks.kill(&id, Signal::TERM).await, NotFound);
    refused(cx.tasks.wait(&id).await, NotFound);
    refused(cx.tasks.delete(&id).await, NotFound);
}

pub async fn a_program_that_does_not_exist_leaves_nothing(cx: Context) {
    let spec = cx.container(Program::Missing).await;
    refused(cx.tasks.create(&spec.id).await, Unstartable);
    refused(cx.tasks.get(&spec.id).await, NotFound);
    done(cx.containers.delete(&spec.id).await);
}

pub async fn an_exit_code_is_told(cx: Context) {
    let spec = cx.running(Program::Exit(42)).await;
    let waited = tokio::time::timeout(LONG, cx.tasks.wait(&spec.id)).await;
    assert_eq!(done(waited.expect("it did not end")).code, 42);
    assert_eq!(done(cx.tasks.delete(&spec.id).await).code, 42);
}

pub async fn a_wait_that_began_before_the_end_sees_it(cx: Context) {
    let spec = cx.running(Program::Forever).await;
    let wait = cx.tasks.wait(&spec.id);
    tokio::pin!(wait);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut wait).await;
    assert!(early.is_err(), "a running task was said to have ended");
    done(cx.tasks.kill(&spec.id, Signal::KILL).await);
    let exit = tokio::time::timeout(LONG, wait).await;
    assert_eq!(done(exit.expect("the wait missed the end")).code, 137);
}

pub async fn a_signal_to_what_ended_is_not_found(cx: Context) {
    let spec = cx.running(Program::Exit(0)).await;
    done(cx.tasks.wait(&spec.id).await);
    refused(cx.tasks.kill(&spec.id, Signal::TERM).await, NotFound);
}

pub async fn a_running_task_is_not_deleted(cx: Context) {
    let spec = cx.running(Program::Forever).await;
    refused(cx.tasks.delete(&spec.id).await, Conflict);
    assert_eq!(status(&cx, &spec.id).await, TaskStatus::Running);
}

pub async fn a_task_that_never_started_is_deleted(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    done(cx.tasks.create(&spec.id).await);
    done(cx.tasks.delete(&spec.id).await);
    refused(cx.tasks.delete(&spec.id).await, NotFound);
}

pub async fn a_container_runs_again_after_its_task_was_deleted(cx: Context) {
    let spec = cx.running(Program::Exit(0)).await;
    for _ in 0..2 {
        done(cx.tasks.wait(&spec.id).await);
        done(cx.tasks.delete(&spec.id).await);
        done(cx.tasks.create(&spec.id).await);
        done(cx.tasks.start(&spec.id).await);
    }
}

pub async fn a_list_has_every_task_once(cx: Context) {
    let specs = [
        cx.running(Program::Forever).await,
        cx.running(Program::Forever).await,
    ];
    let all = done(cx.tasks.list().await);
    for spec in &specs {
        let found: Vec<_> = all.iter().filter(|(id, _)| *id == spec.id).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.status, TaskStatus::Running);
    }
}

pub async fn a_stop_asks_first(cx: Context) {
    let spec = cx.running(Program::Forever).await;
    // A first process hears nothing before it listens, and it listens a little after its start.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    let exit = done(cx.tasks.stop(&spec.id, Signal::TERM, LONG).await);
    let code = exit.expect("it had a task").code;
    assert!(
        code != 137 && began.elapsed() < LONG,
        "it was killed, not asked"
    );
    refused(cx.tasks.get(&spec.id).await, NotFound);
}

pub async fn a_stop_kills_what_does_not_listen(cx: Context) {
    let spec = cx.running(Program::Stubborn).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grace = Duration::from_millis(300);
    let exit = done(cx.tasks.stop(&spec.id, Signal::TERM, grace).await);
    assert_eq!(exit.expect("it had a task").code, 137);
    refused(cx.tasks.get(&spec.id).await, NotFound);
}

pub async fn stopping_again_changes_nothing(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    let stop = async || done(cx.tasks.stop(&spec.id, Signal::KILL, Duration::ZERO).await);
    assert_eq!(stop().await, None);
    done(cx.tasks.create(&spec.id).await);
    assert!(stop().await.is_some());
    assert_eq!(stop().await, None);
}

pub async fn starts_and_exits_are_told(cx: Context) {
    let mut events = cx.tasks.events();
    // A stream may need a moment until it is connected.
    let first = tokio::time::timeout(Duration::from_millis(500), events.next());
    assert!(!matches!(first.await, Ok(None)), "the stream ended");
    let spec = cx.running(Program::Exit(3)).await;
    let exit = done(cx.tasks.wait(&spec.id).await);
    let mut started = false;
    let follow = async {
        while let Some(event) = events.next().await {
            match done(event) {
                TaskEvent::Started(id) if id == spec.id => started = true,
                TaskEvent::Exited(id, told) if id == spec.id => return told,
                _ => {}
            }
        }
        panic!("the stream ended");
    };
    let told = tokio::time::timeout(LONG, follow).await;
    assert_eq!(told.expect("no exit was told").code, exit.code);
    assert!(started, "no start was told");
}

pub async fn a_command_runs_in_a_running_task(cx: Context) {
    let spec = cx.running(Program::Forever).await;
    let exec = |program, timeout| Exec {
        args: cx.fixture().program(program),
        env: vec!["PATH=/bin:/usr/bin".to_owned()],
        cwd: "/".to_owned(),
        user: ExecUser::default(),
        stdin: Bytes::new(),
        timeout: Some(timeout),
        output_limit: 1 << 20,
    };
    let output = cx.tasks.exec(&spec.id, exec(Program::Exit(9), LONG)).await;
    if !cx.backend.capabilities().exec {
        return refused(output, Unsupported);
    }
    let output = done(output);
    assert_eq!((output.exit_code, output.timed_out), (9, false));
    let output = done(
        cx.tasks
            .exec(&spec.id, exec(Program::Stubborn, Duration::from_secs(1)))
            .await,
    );
    assert!(output.timed_out);
    let output = done(cx.tasks.exec(&spec.id, exec(Program::Missing, LONG)).await);
    assert_eq!(output.exit_code, 127);
    let stopped = cx.container(Program::Forever).await;
    refused(
        cx.tasks
            .exec(&stopped.id, exec(Program::Exit(0), LONG))
            .await,
        NotFound,
    );
}
