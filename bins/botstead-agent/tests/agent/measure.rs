//! Prints what the agent costs. `cargo test -p botstead-agent measure -- --nocapture`; with
//! `AGENT_STATIC` naming a static build (`cargo xtask` makes one), that one is measured, and its size
//! and memory are held to their limits.

use super::workspace::{
    AGENT, Workspace, command, kept, resident, size as size_of_terminal, ticks,
};
use botstead_bridge::proto::HealthRequest;
use botstead_bridge::proto::run_input::Start;
use std::time::{Duration, Instant};

/// Limits of the static build.
const MOST_BYTES: u64 = 5_100_000;
const MOST_RESIDENT_KIB: u64 = 3 << 10;

#[tokio::test]
async fn measure() {
    let static_build = std::env::var("AGENT_STATIC").ok();
    let agent = static_build.as_deref().unwrap_or(AGENT);
    let workspace = Workspace::new("full", agent, &[], |root| {
        std::fs::create_dir_all(root.join("etc")).unwrap();
    });
    let size = std::fs::metadata(agent).unwrap().len();
    let idle = resident(workspace.agent);
    let before = ticks(workspace.agent);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle_ticks = ticks(workspace.agent) - before;
    println!("size {size} bytes, idle {idle} KiB, {idle_ticks} ticks in 500 ms");
    assert_eq!(idle_ticks, 0, "it must sleep");

    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let client = workspace.client();
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        client.agent().health(HealthRequest {}).await.unwrap();
        times.push(began.elapsed());
    }
    println!("health {:?}", median(times));
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        assert_eq!(workspace.run(command(&["/usr/bin/true"])).await.code(), 0);
        times.push(began.elapsed());
    }
    println!("true {:?}", median(times));
    let bytes = if static_build.is_some() {
        1_000_000_000
    } else {
        50_000_000
    };
    let mut call = workspace
        .begin(command(&["head", "-c", &bytes.to_string(), "/dev/zero"]))
        .await;
    let (began, mut count) = (Instant::now(), 0);
    while call.next().await {
        count += call.seen.stdout.len();
        call.seen.stdout.clear();
    }
    assert_eq!(count, bytes);
    let rate = count as f64 / began.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("stdout {rate:.0} MiB/s");
    println!("after that {} KiB", resident(workspace.agent));
    let before = resident(workspace.agent);
    let mut terminals = Vec::new();
    for _ in 0..20 {
        let start = Start {
            terminal: size_of_terminal(80, 24),
            ..kept(&["sh", "-c", "seq 1 5000; sleep 600"])
        };
        let mut call = workspace.begin(start).await;
        call.until_text("\n5000\r\n").await;
        terminals.push(call);
    }
    let each = (resident(workspace.agent) - before) / 20;
    println!("a terminal with 5000 lines of history {each} KiB");
    assert!(each < 1300, "{each} KiB");
    if static_build.is_some() {
        assert!(size <= MOST_BYTES, "{size} bytes");
        assert!(idle <= MOST_RESIDENT_KIB, "{idle} KiB");
    }
}
