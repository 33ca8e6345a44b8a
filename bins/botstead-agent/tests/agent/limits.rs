//! Programs that want too much: floods, fork bombs.

use super::workspace::{Workspace, command, kept, resident, size, status, wait_until};
use botstead_bridge::FailureKind;
use botstead_bridge::proto::run_input::{Input, Start};
use botstead_bridge::proto::{HealthRequest, ListProcessesRequest, TerminalSize};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Memory of the agent, which must not follow what is written.
fn grows_by(workspace: &Workspace, before: u64) -> u64 {
    resident(workspace.agent).saturating_sub(before)
}

#[tokio::test]
async fn a_flood_that_is_not_read_waits() {
    let workspace = Workspace::start(&[]);
    workspace.shell("true").await;
    let before = resident(workspace.agent);
    let own = i32::try_from(std::process::id()).unwrap();
    let own_before = resident(own);
    // 100 MB want out; the caller takes a message every 10 ms.
    let mut call = workspace
        .begin(command(&["head", "-c", "100000000", "/dev/zero"]))
        .await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert!(call.next().await);
        call.seen.stdout.clear();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let grown = grows_by(&workspace, before);
    assert!(grown < 4 << 10, "the agent grew by {grown} KiB");
    let grown = resident(own).saturating_sub(own_before);
    assert!(grown < 64 << 10, "the caller grew by {grown} KiB");
    // Nothing is dropped: the rest comes, and all of it.
    let mut count = 0;
    while call.next().await {
        count += call.seen.stdout.len();
        call.seen.stdout.clear();
    }
    assert!(count > 60_000_000, "{count}");
    assert_eq!((call.seen.code(), call.seen.skipped), (0, 0));
}

#[tokio::test]
async fn a_flood_that_is_kept_drops_the_oldest() {
    let workspace = Workspace::start(&[]);
    workspace.shell("true").await;
    let before = resident(workspace.agent);
    let start = Start {
        replay_bytes: 100_000,
        ..kept(&["sh", "-c", "head -c 50000000 /dev/zero; echo; echo end"])
    };
    let id = start.id.clone();
    let call = workspace.begin(start).await;
    // A viewer that takes nothing does not hold it up.
    let list = async || {
        let list = workspace
            .client()
            .processes()
            .list(ListProcessesRequest {})
            .await;
        list.unwrap().into_inner().processes.remove(0)
    };
    super::workspace::wait_until("its end", async || !list().await.running).await;
    let grown = grows_by(&workspace, before);
    assert!(grown < 4 << 10, "the agent grew by {grown} KiB");
    assert!(list().await.exit.unwrap().truncated);
    let seen = call.finish().await;
    assert_eq!(seen.skipped + seen.stdout.len() as u64, 50_000_005);
    assert!(seen.skipped > 0 && seen.exit.as_ref().unwrap().truncated);
    assert!(seen.text().ends_with("\nend\n"));
    // One that comes later gets what is held.
    let attach = botstead_bridge::proto::run_input::Attach {
        id,
        replay: true,
        ..Default::default()
    };
    let seen = workspace.attach(attach).await.finish().await;
    assert_eq!((seen.skipped, seen.stdout.len()), (49_900_005, 100_000));
    assert_eq!(seen.code(), 0);
}

#[tokio::test]
async fn a_terminal_that_floods_costs_no_memory() {
    let workspace = Workspace::start(&[]);
    workspace.shell("true").await;
    let before = resident(workspace.agent);
    let start = Start {
        terminal: size(80, 24),
        ..kept(&[
            "sh",
            "-c",
            "yes 'a line that is repeated' | head -c 2000000; exit 6",
        ])
    };
    let id = start.id.clone();
    drop(workspace.begin(start).await);
    let attach = botstead_bridge::proto::run_input::Attach {
        id,
        replay: true,
        follow: true,
        ..Default::default()
    };
    let seen = workspace.attach(attach).await.finish().await;
    assert_eq!(seen.code(), 6);
    let grown = grows_by(&workspace, before);
    assert!(grown < 4 << 10, "the agent grew by {grown} KiB");
}

#[tokio::test]
async fn a_terminal_of_one_cell_costs_no_memory() {
    let workspace = Workspace::start(&[]);
    let start = Start {
        terminal: size(1000, 500),
        ..kept(&[
            "sh",
            "-c",
            "yes 'a line' | head -c 1000000 | tr '\\n' ' '; echo; echo full; cat",
        ])
    };
    let mut call = workspace.begin(start).await;
    call.until_text("full").await;
    for (columns, rows) in [
        (1, 1),
        (1000, 500),
        (2, 500),
        (1000, 1),
        (1, 500),
        (1000, 500),
    ] {
        let size = TerminalSize { columns, rows };
        call.send(Input::Resize(size)).await;
    }
    call.write("alive\r").await;
    call.until_text("alive\r\nalive").await;
    // Both screens of the largest size, and those of the step before while a size changes.
    let most: u64 = status(workspace.agent, "VmHWM")
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(most < 200 << 10, "the agent had {most} KiB");
}

/// A control group that limits processes, removed on drop.
struct PidsLimit(PathBuf);

impl PidsLimit {
    fn new(most: u32) -> Self {
        let name = format!("botstead-agent-test-{}", std::process::id());
        let group = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .iter()
            .map(|root| PathBuf::from(root).join(&name))
            .find(|group| fs::create_dir(group).is_ok() && group.join("pids.max").exists())
            .expect("this test needs a control group with a pids controller");
        fs::write(group.join("pids.max"), most.to_string()).unwrap();
        Self(group)
    }

    fn hold(&self, workspace: &Workspace) {
        fs::write(self.0.join("cgroup.procs"), workspace.agent.to_string()).unwrap();
    }

    fn current(&self) -> u32 {
        let text = fs::read_to_string(self.0.join("pids.current")).unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        // The last of the workspace's processes may still be ending.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn a_fork_bomb_at_the_limit_leaves_the_agent_alone() {
    const MOST: u32 = 150;
    // Dropped after the workspace.
    let limit = PidsLimit::new(MOST);
    let workspace = Workspace::start(&[]);
    limit.hold(&workspace);
    let threads = status(workspace.agent, "Threads");
    let first = workspace.begin(kept(&["sleep", "606"])).await;
    // Every process forks two that go on, and its parent ends.
    let bomb = "b() { b & b & sleep 607; }; b";
    let call = workspace.begin(command(&["bash", "-c", bomb])).await;
    wait_until("the limit", async || limit.current() == MOST).await;
    let client = workspace.client();
    for _ in 0..20 {
        let began = Instant::now();
        let health = client.agent().health(HealthRequest {}).await;
        assert_eq!(health.unwrap().into_inner().running, 2);
        let list = client.processes().list(ListProcessesRequest {}).await;
        assert_eq!(list.unwrap().into_inner().processes.len(), 1);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
    // At the limit there is no other process, which is said as what it is. A process of the bomb may
    // end at any moment and leave a place.
    let mut refused = None;
    for _ in 0..50 {
        if let Err(failure) = workspace.call(Input::Start(command(&["true"]))).await {
            refused = Some(failure);
            break;
        }
    }
    let refused = refused.expect("a command is refused at the limit");
    assert_eq!(refused.kind, FailureKind::Limit, "{refused:?}");
    assert!(
        refused.message.contains("limit of processes"),
        "{refused:?}"
    );
    assert_eq!(status(workspace.agent, "Threads"), threads);
    // The caller leaves, and the bomb with it.
    drop(call);
    wait_until("the bomb to be gone", async || workspace.count("b &") == 0).await;
    assert_eq!(workspace.shell("echo fine").await, "fine\n");
    drop(first);
}
