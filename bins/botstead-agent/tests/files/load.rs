//! Many calls at once, clients that do not read, and how fast it is.

use crate::read::pattern;
use crate::support::{Space, failure, part};
use botstead_bridge::CHUNK_BYTES;
use botstead_bridge::proto::write_request::{End, Head, Part};
use botstead_bridge::proto::{self, ReadRequest, SearchRequest};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::codegen::tokio_stream::{self, StreamExt};

#[tokio::test]
async fn a_hundred_reads_and_writes_at_once() {
    let space = Arc::new(Space::new());
    let began = Instant::now();
    let calls: Vec<_> = (0..100_usize)
        .map(|number| {
            let space = Arc::clone(&space);
            tokio::spawn(async move {
                let path = format!("/f{}", number / 2);
                let content = pattern(300_000 + number / 2);
                if number % 2 == 0 {
                    for _ in 0..3 {
                        space.write(&path, &content).await.unwrap();
                    }
                    return;
                }
                // Either the whole file or none: it is written over and over meanwhile.
                let mut seen = 0;
                while seen < 3 {
                    if let Ok((_, data)) = space.read(&path).await {
                        assert!(data == content);
                        seen += 1;
                    }
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    println!("100 at once: {:?}", began.elapsed());
    assert_eq!(space.names("/").len(), 50);
}

#[tokio::test]
async fn of_writes_that_expect_the_same_revision_one_wins() {
    let space = Arc::new(Space::new());
    let mut revision = space
        .write("/f", "0")
        .await
        .unwrap()
        .entry
        .unwrap()
        .revision;
    for round in 0..20 {
        let calls: Vec<_> = (0..8)
            .map(|number| {
                let space = Arc::clone(&space);
                let expected_revision = revision.clone();
                tokio::spawn(async move {
                    let head = Head {
                        expected_revision,
                        ..space.head("/f")
                    };
                    space.write_as(head, format!("{round} {number}")).await
                })
            })
            .collect();
        let mut won = Vec::new();
        for call in calls {
            won.extend(call.await.unwrap().ok());
        }
        assert_eq!(won.len(), 1);
        revision = won.remove(0).entry.unwrap().revision;
        assert_eq!(space.stat("/f").await.unwrap().revision, revision);
    }
}

/// Clients that begin long calls and do not read them hold nobody up.
#[tokio::test]
async fn clients_that_do_not_read_hold_nobody_up() {
    let space = Space::new();
    let line = "needle ".repeat(100);
    space.put("/large", format!("{line}\n").repeat(20_000));
    let mut idle = Vec::new();
    for number in 0..30 {
        let mut files = space.files.clone();
        let at = space.location("/large");
        match number % 3 {
            0 => {
                let request = SearchRequest {
                    at,
                    pattern: "needle".to_owned(),
                    limit: 10_000,
                    ..SearchRequest::default()
                };
                let stream = files.search(request).await.unwrap().into_inner();
                idle.push(Box::new(stream) as Box<dyn std::any::Any>);
            }
            1 => {
                let request = proto::ArchiveRequest { at };
                let stream = files.archive(request).await.unwrap().into_inner();
                idle.push(Box::new(stream));
            }
            _ => {
                let request = ReadRequest {
                    at,
                    ..ReadRequest::default()
                };
                let stream = files.read(request).await.unwrap().into_inner();
                idle.push(Box::new(stream));
            }
        }
    }
    // The connection's window is full: others have one of their own.
    let other = Space::new();
    for number in 0..50 {
        let path = format!("/f{number}");
        let began = Instant::now();
        other.write(&path, "content").await.unwrap();
        let request = SearchRequest {
            at: other.location("/"),
            pattern: "content".to_owned(),
            limit: 1000,
            ..SearchRequest::default()
        };
        let found = other
            .files
            .clone()
            .search(request)
            .await
            .unwrap()
            .into_inner();
        let replies: Vec<_> = found.collect().await;
        assert_eq!(replies.len(), number + 2);
        assert!(other.stat(&path).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    drop(idle);
}

/// A long job that is dropped ends: its turn is free for the next one.
#[tokio::test]
async fn dropped_calls_end() {
    let space = Space::new();
    // Sparse: it costs nothing but takes long to search.
    for number in 0..20 {
        let file = std::fs::File::create(space.host(format!("/sparse{number}"))).unwrap();
        file.set_len(1 << 40).unwrap();
    }
    let request = || SearchRequest {
        at: space.location("/"),
        // No zero byte ends it: lines of zeros are binary, so this looks at names that it may read.
        pattern: "needle".to_owned(),
        max_file_bytes: u64::MAX,
        limit: 1,
        ..SearchRequest::default()
    };
    for _ in 0..10 {
        let stream = space.files.clone().search(request()).await.unwrap();
        drop(stream);
    }
    // A read of 20 TiB of zeros is far from done either.
    for _ in 0..10 {
        let read = ReadRequest {
            at: space.location("/sparse0"),
            part: Some(proto::read_request::Part::Lines(
                proto::read_request::Lines { first: 2, count: 1 },
            )),
            ..ReadRequest::default()
        };
        let mut stream = space.files.clone().read(read).await.unwrap().into_inner();
        let next = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
        assert!(next.is_err(), "there is no second line");
    }
    let began = Instant::now();
    space.write("/f", "x").await.unwrap();
    assert!(space.remove("/f", false).await.is_ok());
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Prints how fast large files are; asserts only what a slow build reaches as well.
#[tokio::test]
async fn large_files_are_quick() {
    const SIZE: usize = 96 << 20;
    let space = Space::fast();
    let chunk = Bytes::from(pattern(CHUNK_BYTES));
    let count = SIZE / CHUNK_BYTES;
    let mut messages = vec![part(Part::Head(space.head("/f")))];
    messages.extend((0..count).map(|_| part(Part::Data(chunk.clone()))));
    messages.push(part(Part::End(End { size: SIZE as u64 })));
    let began = Instant::now();
    let answer = space
        .files
        .clone()
        .write(tokio_stream::iter(messages))
        .await;
    answer.map_err(failure).unwrap();
    let rate = |began: Instant| (SIZE >> 20) as f64 / began.elapsed().as_secs_f64();
    println!("write: {:.0} MiB/s", rate(began));
    let request = ReadRequest {
        at: space.location("/f"),
        ..ReadRequest::default()
    };
    let began = Instant::now();
    let mut stream = space
        .files
        .clone()
        .read(request)
        .await
        .unwrap()
        .into_inner();
    let mut length = 0;
    while let Some(reply) = stream.next().await {
        if let Some(proto::read_reply::Part::Data(data)) = reply.unwrap().part {
            length += data.len();
        }
    }
    assert_eq!(length, SIZE);
    println!("read: {:.0} MiB/s", rate(began));
    assert!(rate(began) > 20.0);
}
