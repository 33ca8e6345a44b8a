//! Processes that outlive their calls.

use super::workspace::{Workspace, command, failure, kept, wait_until};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::run_input::{Attach, Input, Start};
use botstead_bridge::proto::{
    ListProcessesRequest, ProcessInfo, RemoveProcessRequest, SignalRequest, WriteInputRequest,
};
use std::time::{Duration, Instant};

fn attach(id: &str, replay: bool, follow: bool) -> Attach {
    Attach {
        id: id.to_owned(),
        replay,
        follow,
        ..Attach::default()
    }
}

async fn list(workspace: &Workspace) -> Vec<ProcessInfo> {
    let list = workspace
        .client()
        .processes()
        .list(ListProcessesRequest {})
        .await;
    list.unwrap().into_inner().processes
}

async fn write(
    workspace: &Workspace,
    id: &str,
    data: &str,
    close: bool,
) -> Result<(), FailureKind> {
    let request = WriteInputRequest {
        id: id.to_owned(),
        data: bytes::Bytes::copy_from_slice(data.as_bytes()),
        close,
    };
    let answer = workspace.client().processes().write_input(request).await;
    answer.map(|_| ()).map_err(|status| failure(status).kind)
}

#[tokio::test]
async fn what_it_reads_first_needs_no_caller() {
    let workspace = Workspace::start(&[]);
    // More than a pipe holds, for programs that are slow to begin and callers that leave at once.
    let stdin = bytes::Bytes::from(vec![b'x'; 300_000]);
    let script = "sleep 0.1; wc -c; echo end";
    let mut ids = Vec::new();
    for _ in 0..20 {
        let start = Start {
            stdin: stdin.clone(),
            ..kept(&["sh", "-c", script])
        };
        ids.push(start.id.clone());
        let mut call = workspace.begin(start).await;
        assert!(call.next().await);
    }
    for id in ids {
        let seen = workspace
            .attach(attach(&id, true, true))
            .await
            .finish()
            .await;
        assert_eq!(
            seen.text().split_whitespace().collect::<Vec<_>>(),
            ["300000", "end"]
        );
    }
    // What others write comes after it, where the input stays open.
    let start = Start {
        stdin: stdin.clone(),
        stdin_open: true,
        ..kept(&["sh", "-c", "sleep 0.1; tr -d x"])
    };
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    assert!(call.next().await);
    write(&workspace, &id, "after\n", true).await.unwrap();
    assert_eq!(call.finish().await.text(), "after\n");
    // A process that is not kept is written to in the same way.
    let start = command(&["cat"]);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    assert!(call.next().await);
    write(&workspace, &id, "not kept\n", true).await.unwrap();
    assert_eq!(call.finish().await.text(), "not kept\n");
}

#[tokio::test]
async fn goes_on_without_its_caller_and_is_replayed() {
    let workspace = Workspace::start(&[]);
    let script = "echo one; echo two >&2; while read line; do echo got $line; done; exit 9";
    let start = kept(&["sh", "-c", script]);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("one").await;
    drop(call);
    wait_until("the caller to be gone", async || {
        list(&workspace).await[0].viewers == 0
    })
    .await;
    write(&workspace, &id, "first\n", false).await.unwrap();

    let mut early = workspace.attach(attach(&id, true, true)).await;
    early.until_text("got first").await;
    // The other output comes by itself.
    while early.seen.stderr.is_empty() {
        assert!(early.next().await);
    }
    assert_eq!(
        (early.seen.text().as_str(), &*early.seen.stderr),
        ("one\ngot first\n", &b"two\n"[..])
    );
    assert!(early.seen.pid > 1);
    // One that wants only what comes from now on, and one that wants only what is held.
    let mut later = workspace.attach(attach(&id, false, true)).await;
    assert!(later.next().await);
    let held = workspace
        .attach(attach(&id, true, false))
        .await
        .finish()
        .await;
    assert_eq!(
        (held.text().as_str(), held.exit),
        ("one\ngot first\n", None)
    );
    let info = &list(&workspace).await[0];
    assert_eq!(
        (info.viewers, info.running, info.terminal),
        (2, true, false)
    );
    assert_eq!(info.args[2], script);
    assert!(info.started_at_ms > 1_600_000_000_000 && info.idle_ms < 10_000);

    // Any viewer writes, and all see.
    later.write("second\n").await;
    early.until_text("got second").await;
    later.until_text("got second").await;
    assert_eq!(later.seen.text(), "got second\n");
    write(&workspace, &id, "third\n", true).await.unwrap();
    for call in [early, later] {
        let seen = call.finish().await;
        assert!(seen.text().ends_with("got third\n"), "{seen:?}");
        assert_eq!(seen.code(), 9);
    }
    // It is remembered.
    let info = &list(&workspace).await[0];
    assert!(!info.running && info.ended_at_ms >= info.started_at_ms);
    assert_eq!((info.exit.as_ref().unwrap().code, info.pid), (9, 0));
    let seen = workspace
        .attach(attach(&id, true, true))
        .await
        .finish()
        .await;
    assert_eq!(seen.text(), "one\ngot first\ngot second\ngot third\n");
    assert_eq!((seen.code(), seen.pid), (9, 0));
    assert_eq!(
        write(&workspace, &id, "x", false).await,
        Err(FailureKind::Ended)
    );
    let same = botstead_bridge::proto::run_input::Start {
        id: id.clone(),
        ..kept(&["true"])
    };
    let taken = workspace.call(Input::Start(same)).await.err().unwrap();
    assert_eq!(taken.kind, FailureKind::AlreadyExists);
}

/// Each viewer begins where the one before left, and both outputs come in their order.
#[tokio::test]
async fn a_replay_begins_where_it_is_asked_to() {
    let workspace = Workspace::start(&[]);
    let script =
        "echo one; echo two >&2; read line; echo three; read line; head -c 2000000 /dev/zero";
    let start = kept(&["sh", "-c", script]);
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until("both", |seen| {
        seen.stdout.len() == 4 && seen.stderr.len() == 4
    })
    .await;
    let from = |out: u64, err: u64| Attach {
        stdout_offset: out,
        stderr_offset: err,
        ..attach(&id, true, true)
    };
    let mut second = workspace.attach(from(2, 4)).await;
    second.until_text("e\n").await;
    let refused = workspace.call(Input::Attach(from(5, 0))).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Invalid);
    assert!(refused.message.contains("4 bytes of stdout"), "{refused:?}");
    write(&workspace, &id, "\n", false).await.unwrap();
    second.until_text("three\n").await;
    assert_eq!(
        (second.seen.text().as_str(), second.seen.stderr.len()),
        ("e\nthree\n", 0)
    );
    drop(second);
    write(&workspace, &id, "\n", true).await.unwrap();
    assert_eq!(call.finish().await.code(), 0);
    // What is not held any more is counted from the place that was asked for.
    let seen = workspace.attach(from(10, 0)).await.finish().await;
    assert_eq!(seen.skipped + seen.stdout.len() as u64, 2_000_000);
    assert_eq!(
        (seen.stdout.len(), seen.stderr.as_slice()),
        (1 << 20, &b"two\n"[..])
    );
    let seen = workspace.attach(from(2_000_009, 4)).await.finish().await;
    assert_eq!((seen.stdout.len(), seen.skipped, seen.code()), (1, 0, 0));
    let seen = workspace.attach(from(2_000_010, 4)).await.finish().await;
    assert_eq!(
        (seen.stdout.len(), seen.stderr.len(), seen.code()),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn is_removed_with_its_tree() {
    let workspace = Workspace::start(&[]);
    let start = kept(&[
        "sh",
        "-c",
        "trap '' TERM; sleep 608 & setsid sleep 608 & sleep 608",
    ]);
    let id = start.id.clone();
    let call = workspace.begin(start).await;
    wait_until("the tree", async || workspace.count("sleep 608") >= 4).await;
    let remove = async |id: &str| {
        let request = RemoveProcessRequest { id: id.to_owned() };
        let answer = workspace.client().processes().remove(request).await;
        answer
            .map(|reply| reply.into_inner().exit.unwrap().code)
            .map_err(|status| failure(status).kind)
    };
    assert_eq!(remove(&id).await, Ok(137));
    assert_eq!(call.finish().await.code(), 137);
    wait_until("the tree to be gone", async || {
        workspace.count("sleep 608") == 0
    })
    .await;
    assert_eq!(remove(&id).await, Err(FailureKind::NotFound));
    assert!(list(&workspace).await.is_empty());
    // One that ended gives how.
    let start = kept(&["sh", "-c", "exit 4"]);
    let id = start.id.clone();
    assert_eq!(workspace.run(start).await.code(), 4);
    assert_eq!(remove(&id).await, Ok(4));
    let gone = workspace.call(Input::Attach(attach(&id, true, true))).await;
    assert_eq!(gone.err().unwrap().kind, FailureKind::NotFound);
}

/// What was read is forgotten first. The caller of its start does not count as a reader.
#[tokio::test]
async fn what_ended_is_kept_until_it_was_read() {
    let workspace = Workspace::start(&[]);
    let large = |number: u32| Start {
        replay_bytes: 16 << 20,
        id: format!("large{number}"),
        ..kept(&["head", "-c", "16777216", "/dev/zero"])
    };
    let mut first = true;
    for number in 0..5 {
        workspace.run(large(number)).await;
        wait_until("its end", async || {
            let list = list(&workspace).await;
            let id = format!("large{number}");
            list.iter()
                .any(|process| process.id == id && !process.running)
        })
        .await;
        if std::mem::take(&mut first) {
            continue;
        }
        let id = format!("large{number}");
        workspace
            .attach(attach(&id, true, true))
            .await
            .finish()
            .await;
    }
    let mut left: Vec<_> = list(&workspace).await.into_iter().map(|it| it.id).collect();
    left.sort();
    // Three have room; those that were read went first.
    assert_eq!(left.first().unwrap(), "large0");
    assert!(!left.contains(&"large1".to_owned()), "{left:?}");
    assert_eq!(left.last().unwrap(), "large4");
    // There is room for great numbers of small ones, and arguments of any length do not add up.
    let long = "x".repeat(100_000);
    let many = (0..200).map(|_| workspace.run(kept(&["true", long.as_str()])));
    futures_util::future::join_all(many).await;
    let listed = list(&workspace).await;
    assert!(listed.len() > 200, "{}", listed.len());
}

#[tokio::test]
async fn one_that_cannot_be_executed_is_remembered() {
    let workspace = Workspace::start(&[]);
    let start = kept(&["no-such-program"]);
    let id = start.id.clone();
    let seen = workspace.run(start).await;
    assert_eq!((seen.code(), seen.pid), (127, 0));
    let again = workspace
        .attach(attach(&id, true, true))
        .await
        .finish()
        .await;
    let exit = again.exit.unwrap();
    assert!(
        exit.code == 127 && exit.message.contains("not found"),
        "{exit:?}"
    );
    assert_eq!(list(&workspace).await.len(), 1);
}

#[tokio::test]
async fn a_timeout_and_signals_end_it() {
    let workspace = Workspace::start(&[]);
    let start = botstead_bridge::proto::run_input::Start {
        timeout_ms: 200,
        ..kept(&["sleep", "609"])
    };
    let exit = workspace.run(start).await.exit.unwrap();
    assert!(exit.timed_out && exit.code == 143);
    let start = kept(&["sleep", "609"]);
    let id = start.id.clone();
    let call = workspace.begin(start).await;
    let request = SignalRequest { id, signal: 2 };
    workspace
        .client()
        .processes()
        .signal(request)
        .await
        .unwrap();
    assert_eq!(call.finish().await.code(), 130);
}

/// Messages of several writers do not mix, however long they are.
#[tokio::test]
async fn writers_take_turns() {
    let workspace = Workspace::start(&[]);
    let start = kept(&[
        "sh",
        "-c",
        "sleep 0.3; tr -s 'a-z' | tr -d '\\n' | head -c 8",
    ]);
    let id = start.id.clone();
    let call = workspace.begin(start).await;
    let long = |letter: &str| letter.repeat(300_000);
    let letters = ["a", "b", "c", "d"].map(long);
    let writes = letters
        .iter()
        .map(|text| write(&workspace, &id, text, false));
    for done in futures_util::future::join_all(writes).await {
        done.unwrap();
    }
    write(&workspace, &id, "", true).await.unwrap();
    let mut order: Vec<_> = call.finish().await.text().chars().collect();
    order.sort_unstable();
    assert_eq!(order, ['a', 'b', 'c', 'd']);
}

/// A viewer that is cut off while it floods is no viewer any more.
#[tokio::test]
async fn many_viewers_come_and_go() {
    let workspace = Workspace::start(&[]);
    let start = kept(&["sh", "-c", "while :; do echo tick; sleep 0.01; done"]);
    let id = start.id.clone();
    drop(workspace.begin(start).await);
    for _ in 0..3 {
        let mut viewers = Vec::new();
        for _ in 0..100 {
            let mut viewer = workspace.attach(attach(&id, true, true)).await;
            viewer.until_text("tick").await;
            viewers.push(viewer);
        }
        assert_eq!(list(&workspace).await[0].viewers, 100);
        drop(viewers);
        let began = Instant::now();
        wait_until("all to be gone", async || {
            list(&workspace).await[0].viewers == 0
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(workspace.run(command(&["true"])).await.code(), 0);
}
