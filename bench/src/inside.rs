//! What the agent does for its callers: the first command of a new workspace, the next ones, files.

use crate::api::Api;
use crate::bare::Bare;
use crate::paired::{Pair, WARM_UP};
use crate::server::{BUSYBOX, IMAGE};
use crate::stats::{Samples, timed};
use anyhow::{Result, ensure};
use std::time::Instant;
use tokio::process::Command;

/// From nothing to the answer of a first command, the image being local. The bare sequence ends when
/// the task runs: nothing answers in it.
pub(crate) async fn first_command(api: &Api, bare: &mut Bare, rounds: usize) -> Result<Pair> {
    let mut pair = Pair::default();
    for round in 0..WARM_UP + rounds {
        let bot = api.new_bot().await?;
        let began = Instant::now();
        api.create(&bot, IMAGE).await?;
        api.exec(&bot, &["/bin/true"]).await?;
        let server = began.elapsed();
        let (floor, container) = timed(bare.create()).await?;
        pair.add(round, server, floor);
        bare.delete(container).await?;
        api.delete_bot(&bot).await?;
    }
    Ok(pair)
}

/// `true` in a running workspace, against the server's shortest answer and `true` on the host.
pub(crate) async fn command(api: &Api, rounds: usize) -> Result<Pair> {
    let mut pair = Pair::default();
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    for round in 0..WARM_UP + rounds {
        let (server, _) = timed(api.exec(&bot, &["/bin/true"])).await?;
        let floor = async {
            api.health().await?;
            let status = Command::new(BUSYBOX).arg("true").status().await?;
            ensure!(status.success(), "{BUSYBOX} true: {status}");
            Ok(())
        };
        let (floor, ()) = timed(floor).await?;
        pair.add(round, server, floor);
    }
    api.delete_bot(&bot).await?;
    Ok(pair)
}

/// Throughput of a large file, and of `cat` inside.
#[derive(Debug)]
pub(crate) struct Files {
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) download: Samples,
    pub(crate) cat_out: Samples,
    pub(crate) upload: Samples,
    pub(crate) cat_in: Samples,
}

/// Measures both ways, in turns with `cat`.
pub(crate) async fn files(api: &Api, size: u64, rounds: usize) -> Result<Files> {
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let mut files = Files {
        size,
        download: Samples::default(),
        cat_out: Samples::default(),
        upload: Samples::default(),
        cat_in: Samples::default(),
    };
    api.upload(&bot, "/data/from", size).await?;
    for _ in 0..rounds {
        let (download, received) = timed(api.download(&bot, "/data/from")).await?;
        ensure!(received == size, "{received} of {size} bytes came");
        files.download.add(download);
        let out = "cat /data/from | cat > /dev/null";
        files.cat_out.add(api.shell(&bot, out).await?);
        let (upload, ()) = timed(api.upload(&bot, "/data/to", size)).await?;
        files.upload.add(upload);
        let into = "cat /data/from | cat > /data/copy";
        files.cat_in.add(api.shell(&bot, into).await?);
        api.shell(&bot, "rm /data/to /data/copy").await?;
    }
    api.delete_bot(&bot).await?;
    Ok(files)
}
