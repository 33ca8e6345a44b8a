//! Measures what the store's common operations cost on this machine's disk:
//! `cargo run --example measure -p botstead-store-sql [directory]`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints its figures, and fails when it cannot get them"
)]

use botstead_store::conformance::samples;
use botstead_store::{Change, ContainerPatch};
use botstead_store_sql::SqlStore;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

const ROUNDS: i64 = 500;

async fn measure(name: &str, mut run: impl AsyncFnMut(i64)) {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let began = Instant::now();
        run(round).await;
        times.push(began.elapsed());
    }
    report(name, times);
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent| times[times.len() * percent / 100];
    println!("{name:32} p50 {:>10.1?}  p95 {:>10.1?}", at(50), at(95));
}

#[tokio::main]
async fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let directory = tempfile::tempdir_in(parent).unwrap();
    let database = SqlStore::open_temporary(directory.path()).await.unwrap();
    let store = &database.store();
    let bot = samples::add_bot(store).await.id;
    let mut changes = vec![Change::InsertContainer(Box::new(samples::container(bot)))];
    changes.extend((1..=50).map(|n| Change::InsertVersion(Box::new(samples::version(bot, n)))));
    store.transactions.apply(changes).await.unwrap();

    measure("bots.get", async |_| {
        drop(store.bots.get(bot).await.unwrap())
    })
    .await;
    measure("containers.get", async |_| {
        drop(store.containers.get(bot).await.unwrap());
    })
    .await;
    measure("versions.list of 50", async |_| {
        assert_eq!(store.versions.list(bot).await.unwrap().len(), 50);
    })
    .await;
    measure("addresses.assign, again", async |_| {
        let subnet = "10.9.0.0/16".parse().unwrap();
        let assigned = store.addresses.assign(bot, subnet, [10, 9, 0, 1].into());
        assigned.await.unwrap();
    })
    .await;
    measure("operations.begin with a number", async |_| {
        let operation = samples::operation(bot);
        store.operations.begin(&operation, true).await.unwrap();
    })
    .await;
    measure("transactions.apply of 3 changes", async |n| {
        let patch = ContainerPatch {
            dirty: Some(true),
            ..ContainerPatch::default()
        };
        let changes = vec![
            Change::InsertVersion(Box::new(samples::version(bot, 10_000 + n))),
            Change::PatchContainer(bot, Box::new(patch)),
            Change::AppendEvent(samples::event(bot, n)),
        ];
        store.transactions.apply(changes).await.unwrap();
    })
    .await;
    let mut file = File::create(directory.path().join("probe")).unwrap();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        file.write_all(&[1; 4096]).unwrap();
        let began = Instant::now();
        file.sync_data().unwrap();
        times.push(began.elapsed());
    }
    report("one fsync of 4 KiB, for comparison", times);
    database.close().await;
}
