//! All that runs in the workspace, and signals to it.

use super::workspace::{Workspace, command, wait_until};
use botstead_bridge::proto::{
    ReadTableReply, ReadTableRequest, SignalManyReply, SignalManyRequest, TableEntry,
};
use botstead_bridge::{Failure, FailureKind};
use rustix::process::Signal;
use std::time::{SystemTime, UNIX_EPOCH};

async fn read(workspace: &Workspace, after: u32, limit: u32) -> ReadTableReply {
    let mut table = workspace.client().process_table();
    let read = table.read(ReadTableRequest { after, limit }).await;
    read.unwrap().into_inner()
}

async fn signal(
    workspace: &Workspace,
    pids: Vec<u32>,
    all: bool,
    signal: i32,
) -> Result<SignalManyReply, FailureKind> {
    let mut table = workspace.client().process_table();
    let sent = table.signal_many(SignalManyRequest { pids, all, signal });
    let sent = sent
        .await
        .map_err(|status| Failure::of(&status).unwrap().kind)?;
    Ok(sent.into_inner())
}

fn shows(entry: &TableEntry, text: &str) -> bool {
    let line: Vec<u8> = entry.args.join(&b' ');
    String::from_utf8_lossy(&line).contains(text)
}

#[tokio::test]
async fn everything_is_listed_in_pages_whoever_started_it() {
    let workspace = Workspace::start(&[]);
    let script = "setsid sh -c 'sleep 611 & wait' & sleep 612 & sleep 613 & echo up; wait";
    let mut start = command(&["sh", "-c", script]);
    start.user = "bot".to_owned();
    start.cwd = "/".into();
    let id = start.id.clone();
    let mut call = workspace.begin(start).await;
    call.until_text("up").await;
    let count = async || {
        let all = read(&workspace, 0, 500).await.entries;
        all.iter().filter(|entry| &*entry.name == b"sleep").count()
    };
    wait_until("the tree", async || count().await == 3).await;
    let whole = read(&workspace, 0, 500).await;
    assert!(!whole.more);
    assert!(
        whole
            .entries
            .iter()
            .all(|entry| entry.pid > 1 && entry.uid == 1000)
    );
    let of = |text: &str| {
        let is_it = |entry: &&TableEntry| &*entry.name == b"sleep" && shows(entry, text);
        let found = whole.entries.iter().find(is_it);
        found.unwrap().clone()
    };
    // What left the session belongs to no command any more.
    let (inside, outside) = (of("sleep 612"), of("sleep 611"));
    assert_eq!((inside.id.as_str(), outside.id.as_str()), (id.as_str(), ""));
    assert_eq!((&*inside.name, inside.threads), (&b"sleep"[..], 1));
    assert!(inside.resident_bytes > 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let age = i64::try_from(now.as_millis()).unwrap() - inside.started_at_ms;
    assert!((-1000..60_000).contains(&age), "{age}");
    // Pages give the same.
    let mut pages = Vec::new();
    loop {
        let after = pages.last().map_or(0, |entry: &TableEntry| entry.pid);
        let page = read(&workspace, after, 2).await;
        assert!(page.entries.len() <= 2);
        pages.extend(page.entries);
        if !page.more {
            break;
        }
    }
    let pids = |entries: &[TableEntry]| entries.iter().map(|entry| entry.pid).collect::<Vec<_>>();
    assert_eq!(pids(&pages), pids(&whole.entries));
    // Long arguments are cut.
    let long = "x".repeat(3000);
    let mut call = workspace
        .begin(command(&["sh", "-c", "echo up; sleep 614; :", &long]))
        .await;
    call.until_text("up").await;
    let all = read(&workspace, 0, 500).await.entries;
    let long = all
        .iter()
        .find(|entry| shows(entry, "echo up; sleep 614"))
        .unwrap();
    assert!(long.args_cut && long.args.iter().map(|arg| arg.len()).sum::<usize>() <= 1024);
}

#[tokio::test]
async fn signals_reach_those_that_are_named_or_all_but_the_agent() {
    let workspace = Workspace::start(&[]);
    let script = "for n in 1 2 3; do setsid sleep 621 & done; echo up; wait";
    let mut call = workspace.begin(command(&["sh", "-c", script])).await;
    call.until_text("up").await;
    let mut sleepers = Vec::new();
    wait_until("the sleepers", async || {
        let all = read(&workspace, 0, 500).await.entries;
        let found = all.iter().filter(|entry| &*entry.name == b"sleep");
        sleepers = found.map(|entry| entry.pid).collect();
        sleepers.len() == 3
    })
    .await;
    let kill = Signal::KILL.as_raw();
    // Itself, what is not there and what is no number of a process are no targets.
    let named = vec![1, sleepers[0], 4_000_000, 0, u32::MAX];
    let sent = signal(&workspace, named, false, kill).await.unwrap();
    assert_eq!(sent.pids, [sleepers[0]]);
    wait_until("one to go", async || {
        let left = read(&workspace, 0, 500).await.entries;
        !left.iter().any(|entry| entry.pid == sleepers[0])
    })
    .await;
    for bad in [0, 65, -1] {
        let refused = signal(&workspace, sleepers.clone(), false, bad).await;
        assert_eq!(refused.unwrap_err(), FailureKind::Invalid, "{bad}");
    }
    let refused = signal(&workspace, vec![7; 1001], false, kill).await;
    assert_eq!(refused.unwrap_err(), FailureKind::Invalid);
    let sent = signal(&workspace, Vec::new(), true, kill).await.unwrap();
    assert!(sent.pids.contains(&sleepers[1]), "{sent:?}");
    wait_until("all to go", async || {
        read(&workspace, 0, 500).await.entries.is_empty()
    })
    .await;
    // Nothing is left to signal, and the agent lives.
    let sent = signal(&workspace, Vec::new(), true, kill).await.unwrap();
    assert!(sent.pids.is_empty());
    let seen = workspace.run(command(&["echo", "alive"])).await;
    assert_eq!(seen.text(), "alive\n");
}
