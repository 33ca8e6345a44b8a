//! Measures for how long a workspace reaches the host when somebody flushes all firewall rules:
//! `cargo run --release -p botstead-network-bridge --example flushed [TIMES]`, as root, in a network
//! namespace of its own. A workspace sends to a port of the host without a pause; what arrives tells.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{HOST, Workspace, is_guarded, mend_at_once, on_own_host, sh};

/// A moment without a packet for so long is over.
const OVER: Duration = Duration::from_millis(500);

fn main() {
    let times = std::env::args().nth(1).map_or(100, |n| n.parse().unwrap());
    on_own_host(move |lab| async move {
        let network = Arc::new(lab.network().await);
        mend_at_once(&network);
        let workspace = Workspace::connect(&network, 1).await;
        let host = UdpSocket::bind((HOST, 0)).unwrap();
        host.set_read_timeout(Some(OVER)).unwrap();
        let to = host.local_addr().unwrap();
        let (start, stop) = (Instant::now(), AtomicBool::new(false));
        let (workspace, stop) = (&workspace, &stop);
        let mut open = std::thread::scope(|scope| {
            scope.spawn(|| workspace.run(|| send(to, start, stop)));
            let open: Vec<Duration> = (0..times).map(|_| flush(&host)).collect();
            stop.store(true, Ordering::Relaxed);
            open
        });
        open.sort_unstable();
        let at = |part: f64| open[((open.len() - 1) as f64 * part) as usize];
        println!(
            "{times} flushes, {}: open for {:?} (half of them at most), {:?} (95 %), {:?} (all)",
            match is_guarded(&network) {
                true => "with a table that cannot be flushed",
                false => "without a table that cannot be flushed",
            },
            at(0.5),
            at(0.95),
            at(1.0)
        );
    });
}

/// Sends the time, again and again.
fn send(to: SocketAddr, start: Instant, stop: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    while !stop.load(Ordering::Relaxed) {
        let now = u64::try_from(start.elapsed().as_nanos()).unwrap();
        // Refused where the host has dropped the one before.
        let _ = socket.send_to(&now.to_ne_bytes(), to);
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Between the sending of the first packet that arrived and of the last.
fn flush(host: &UdpSocket) -> Duration {
    sh("nft flush ruleset");
    let mut sent: Option<(u64, u64)> = None;
    let mut packet = [0; 8];
    while host.recv(&mut packet).is_ok() {
        let now = u64::from_ne_bytes(packet);
        sent = Some((sent.map_or(now, |(first, _)| first), now));
    }
    sent.map_or(Duration::ZERO, |(first, last)| {
        Duration::from_nanos(last - first)
    })
}
