//! Somebody swaps directories and links while calls go on: nothing outside of the root is ever read
//! or changed.

use crate::support::{Space, failure};
use botstead_bridge::proto;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::codegen::tokio_stream::StreamExt;

const SECRET: &[u8] = b"secret of the host\n";
const TIME: Duration = Duration::from_secs(3);

/// Exchanges pairs of names as fast as it can until it is told to end.
fn swap(folder: &Path, pairs: &[(&str, &str)], end: &AtomicBool) -> u64 {
    let mut swaps = 0;
    while !end.load(Ordering::Relaxed) {
        // The calls want the processors too.
        std::thread::sleep(Duration::from_micros(50));
        for (one, other) in pairs {
            let (one, other) = (folder.join(one), folder.join(other));
            // Calls remove and replace them as well.
            if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                swaps += 1;
            }
        }
    }
    swaps
}

fn has_secret(data: &[u8]) -> bool {
    data.windows(SECRET.len()).any(|window| window == SECRET)
}

/// What stands outside, exactly.
fn snapshot(folder: &Path) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let content = std::fs::read(entry.path()).unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, content, entry.metadata().unwrap().modified().unwrap())
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_is_read_or_changed() {
    // The root of requests is a folder beside the one with the secret.
    let folder = TempDir::with_prefix("botstead-race-").unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for name in ["shadow", "file", "sub"] {
        std::fs::write(outside.join(name), SECRET).unwrap();
    }
    let before = snapshot(&outside);
    let space = Arc::new(Space::at(
        TempDir::with_prefix_in("root-", folder.path()).unwrap(),
    ));
    space.put("/d/file", "inside");
    space.put("/d/sub/shadow", "inside");
    space.put("/file", "inside");
    // Each of these takes the place of something inside.
    space.link("/to-outside", &outside);
    space.link("/up", "../outside");
    space.link("/to-shadow", "../outside/shadow");
    space.link("/to-shadow-absolute", outside.join("shadow"));

    let end = Arc::new(AtomicBool::new(false));
    let swappers: Vec<_> = [
        vec![("d", "to-outside"), ("file", "to-shadow")],
        vec![("d", "up"), ("file", "to-shadow-absolute")],
    ]
    .into_iter()
    .map(|pairs| {
        let (end, folder) = (Arc::clone(&end), space.folder.path().to_owned());
        std::thread::spawn(move || swap(&folder, &pairs, &end))
    })
    .collect();

    let calls = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for worker in 0..8 {
        let (space, calls) = (Arc::clone(&space), Arc::clone(&calls));
        tasks.push(tokio::spawn(async move {
            let began = Instant::now();
            while began.elapsed() < TIME {
                act(&space, worker).await;
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    end.store(true, Ordering::Relaxed);
    let mut swaps = 0;
    for swapper in swappers {
        swaps += swapper.join().unwrap();
    }
    println!("{} calls, {swaps} swaps", calls.load(Ordering::Relaxed));
    assert!(swaps > 100);
    assert_eq!(snapshot(&outside), before);
}

/// One call of a kind; whether it fails does not matter.
async fn act(space: &Space, worker: u32) {
    let mut files = space.files.clone();
    match worker {
        0 | 1 => {
            for path in ["/d/file", "/d/shadow", "/d/sub/shadow", "/file"] {
                if let Ok((_, data)) = space.read(path).await {
                    assert!(!has_secret(&data), "read {path}");
                }
            }
        }
        2 => {
            for path in ["/d/file", "/d/shadow", "/d/new/file", "/file"] {
                let head = proto::write_request::Head {
                    parents: true,
                    ..space.head(path)
                };
                let _ = space.write_as(head, "written").await;
            }
        }
        3 => {
            for path in ["/d/shadow", "/d/new", "/d/made/a/b"] {
                let make = proto::MakeDirectoryRequest {
                    at: space.location(path),
                    parents: true,
                    mode: None,
                };
                let _ = files.make_directory(make).await;
                let _ = space.remove(path, true).await;
            }
        }
        4 => {
            let search = proto::SearchRequest {
                at: space.location("/"),
                pattern: "secret".to_owned(),
                limit: 10,
                respect_ignore_files: true,
                ..proto::SearchRequest::default()
            };
            let mut stream = files
                .search(search)
                .await
                .map_err(failure)
                .unwrap()
                .into_inner();
            while let Some(Ok(reply)) = stream.next().await {
                let found = matches!(reply.part, Some(proto::search_reply::Part::Match(_)));
                assert!(!found, "{reply:?}");
            }
        }
        5 => {
            for path in ["/", "/d"] {
                let archive = proto::ArchiveRequest {
                    at: space.location(path),
                };
                let Ok(stream) = files.archive(archive).await else {
                    continue;
                };
                let mut stream = stream.into_inner();
                let mut data = Vec::new();
                while let Some(Ok(reply)) = stream.next().await {
                    data.extend_from_slice(&reply.data);
                }
                assert!(!has_secret(&data), "archive of {path}");
            }
        }
        6 => {
            for (from, to) in [
                ("/d", "/copy"),
                ("/d/shadow", "/copy"),
                ("/file", "/d/copy"),
            ] {
                let copy = proto::CopyRequest {
                    root: space.root().into(),
                    from: from.into(),
                    to: to.into(),
                    recursive: true,
                    replace: true,
                    parents: false,
                };
                let _ = files.copy(copy).await;
                if let Ok((_, data)) = space.read("/copy").await {
                    assert!(!has_secret(&data), "copy of {from}");
                }
                let _ = space.remove("/copy", true).await;
            }
            let rename = proto::RenameRequest {
                root: space.root().into(),
                from: "/d/file".into(),
                to: "/d/renamed".into(),
                replace: true,
                parents: false,
            };
            let _ = files.rename(rename).await;
        }
        _ => {
            let list = proto::ListRequest {
                at: space.location("/"),
                recursive: true,
                limit: 1000,
                ..proto::ListRequest::default()
            };
            let _ = space.list(list).await;
            let list = proto::ListRequest {
                at: space.location("/d"),
                limit: 1000,
                ..proto::ListRequest::default()
            };
            if let Ok(reply) = space.list(list).await {
                // What is outside has a file of this size, and inside there is none.
                let size = SECRET.len() as u64;
                assert!(reply.entries.iter().all(|entry| entry.kind() != proto::entry::Kind::File || entry.size != size));
            }
        }
    }
}
