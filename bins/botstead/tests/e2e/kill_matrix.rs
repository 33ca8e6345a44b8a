//! Every fault point of every operation, while something else is lost at the same moment: the
//! managed containerd dies, the database is locked, or the disk is full. The server is started again
//! while that lasts; it waits or ends with a clear error. Afterwards all must be as after a plain kill.
//!
//! `cargo xtask test --kill-matrix` runs it; it takes many minutes.

mod disturbance;
mod report;

use crate::disk::Disk;
use crate::faults::harness::Harness;
use crate::faults::scene::Scene;
use crate::server::{Server, folder};
use botstead_workspace::FAULT_POINTS;
use disturbance::Disturbance;
use report::{Cell, Report};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Names the file that the results are written to; without it they are only printed.
const REPORT: &str = "BOTSTEAD_TEST_KILL_MATRIX_REPORT";
/// Names operations, with commas; without it all are tried.
const OPERATIONS: &str = "BOTSTEAD_TEST_KILL_MATRIX_OPERATIONS";

/// Servers at the same time: most of their time is waiting.
const LANES: usize = 6;
/// What a server with a few small workspaces needs, many times over.
const DISK: &str = "512M";

/// A server and what is disturbed of it. Fields are dropped in this order.
struct Place {
    harness: Harness,
    disk: Option<Disk>,
}

impl Place {
    async fn make(disturbance: Disturbance) -> Self {
        let disk = (disturbance == Disturbance::Full).then(|| Disk::mount(DISK));
        let folder = folder("botstead-e2e-");
        let data = match &disk {
            Some(disk) => disk.target().join("data"),
            None => folder.path().join("data"),
        };
        let server = Server::start_in(folder, data, "min_free_bytes = 0\n").await;
        Self {
            harness: Harness::on(server).await,
            disk,
        }
    }

    /// Kills at one point, with the disturbance; tells whether the restart was refused.
    async fn at(&mut self, disturbance: Disturbance, operation: &'static str, step: &str) -> bool {
        let harness = &mut self.harness;
        let scene = Scene::set(&harness.server, operation, step).await;
        let mut active = disturbance.prepare(harness, self.disk.as_ref());
        harness.kill_at(&scene, || active.meanwhile()).await;
        active.hold(&scene.point);
        let already_killed = harness.server.log().len();
        harness.spawn();
        let mut refused = refused_within(&mut harness.server, disturbance.lasts()).await;
        active.lift();
        if !refused {
            // It may still find out about what it began to do before.
            refused = !harness.server.comes_up().await;
        }
        if refused {
            let log = harness.server.log();
            let said = log.get(already_killed..).unwrap_or_default();
            assert!(
                said.contains("error: ") && !said.contains("panicked"),
                "{}: it ended without a clear error:\n{said}",
                scene.point
            );
            harness.spawn();
        }
        harness.server.ready().await;
        harness.check(scene).await;
        refused
    }
}

/// Whether the server ends by itself within this time.
async fn refused_within(server: &mut Server, time: Duration) -> bool {
    let until = Instant::now() + time;
    let mut refused = false;
    while Instant::now() < until {
        if let Some(status) = server.ended() {
            assert_eq!(status.code(), Some(1), "{}", server.log());
            refused = true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refused
}

impl Server {
    /// Waits until the server is ready; false when it ended instead.
    async fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.client.is_ready().await {
            if let Some(status) = self.ended() {
                assert_eq!(status.code(), Some(1), "{}", self.log());
                return false;
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

type Job = (&'static str, &'static [&'static str], Disturbance);

/// Every point of an operation with one disturbance. A point that fails does not end the others.
fn cell((operation, steps, disturbance): Job) -> Cell {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut cell = Cell::new(operation, disturbance, steps.len());
    let mut place: Option<Place> = None;
    for step in steps {
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                if place.is_none() {
                    place = Some(Place::make(disturbance).await);
                }
                let place = place.as_mut().unwrap();
                place.at(disturbance, operation, step).await
            })
        }));
        match done {
            Ok(refused) => {
                cell.passed += 1;
                cell.refused += usize::from(refused);
            }
            Err(_) => {
                // What it said is on standard error; the next point gets a server of its own.
                let log = place.as_ref().map(|place| place.harness.server.log());
                let log = log.unwrap_or_default();
                // The harness itself asks again and again.
                let said = |line: &&str| !line.contains("botstead_http::access");
                let lines: Vec<_> = log.lines().filter(said).collect();
                let last = lines[lines.len().saturating_sub(80)..].join("\n");
                eprintln!("{operation}.{step} failed, {disturbance}; the server's log:\n{last}");
                cell.failed.push((*step).to_owned());
                place = None;
            }
        }
    }
    drop(place);
    cell.took = began.elapsed();
    println!("{}", cell.line());
    cell
}

#[test]
#[ignore = "takes many minutes; cargo xtask test --kill-matrix"]
fn every_kill_survives_every_disturbance() {
    let only = std::env::var(OPERATIONS).unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    for name in &only {
        let known = FAULT_POINTS.iter().any(|(known, _)| known == name);
        assert!(known, "there is no operation {name}");
    }
    let mut jobs = VecDeque::new();
    for disturbance in Disturbance::ALL {
        for (operation, steps) in FAULT_POINTS {
            if only.is_empty() || only.contains(operation) {
                jobs.push_back((*operation, *steps, disturbance));
            }
        }
    }
    let began = Instant::now();
    let expected: usize = jobs.iter().map(|(_, steps, _)| steps.len()).sum();
    let jobs = Mutex::new(jobs);
    let next = || {
        jobs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let cells = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| scope.spawn(|| std::iter::from_fn(next).map(cell).collect::<Vec<_>>()))
            .collect();
        let cells = lanes.into_iter().map(|lane| lane.join().unwrap());
        cells.flatten().collect::<Vec<_>>()
    });
    let report = Report::new(cells, began.elapsed());
    println!("{}", report.render());
    if let Some(path) = std::env::var_os(REPORT) {
        std::fs::write(path, report.render()).unwrap();
    }
    assert_eq!(report.points(), expected);
    assert_eq!(report.passed(), expected, "{:?}", report.failed());
}
