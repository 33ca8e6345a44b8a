//! What rough use leaves behind in the server's memory.

use crate::fleet::{create_all, delete_all};
use crate::server::Server;
use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the server is left alone afterwards.
pub(crate) const REST: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The server's resident memory in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) workspaces: usize,
    pub(crate) rounds: usize,
    pub(crate) before: u64,
    /// The most that was seen.
    pub(crate) most: u64,
    /// After a rest.
    pub(crate) after: u64,
}

/// Uses all workspaces at once, then rests.
pub(crate) async fn measure(server: &Server, workspaces: usize, rounds: usize) -> Result<Load> {
    let bots = create_all(&server.api, workspaces).await?;
    let before = server.resident()?;
    let over = CancellationToken::new();
    let worked = async {
        let _over = over.clone().drop_guard();
        for _ in 0..rounds {
            stream::iter(&bots)
                .map(|bot| use_roughly(server, bot))
                .buffer_unordered(workspaces)
                .try_for_each(async |()| Ok(()))
                .await?;
        }
        anyhow::Ok(())
    };
    let watched = async {
        let mut most = before;
        while !over.is_cancelled() {
            most = most.max(server.resident()?);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(most)
    };
    let (worked, most) = tokio::join!(worked, watched);
    worked?;
    delete_all(&server.api, &bots).await?;
    tokio::time::sleep(REST).await;
    Ok(Load {
        workspaces,
        rounds,
        before,
        most: most?,
        after: server.resident()?,
    })
}

/// What fills buffers: large files both ways, many small ones, long lists and outputs, exports and
/// versions.
async fn use_roughly(server: &Server, bot: &str) -> Result<()> {
    const FILES: &str = "mkdir -p /data/many && cd /data/many && i=0 && while [ $i -lt 3000 ]; do \
         echo $i > file-with-a-name-$i; i=$((i+1)); done";
    const TALK: &str =
        "i=0; while [ $i -lt 20000 ]; do echo line $i of a long output; i=$((i+1)); done";
    let api = &server.api;
    api.upload(bot, "/data/large", 32 << 20).await?;
    api.shell(bot, FILES).await?;
    let lists = "/fs/list?path=/data/many&recursive=true&limit=1000";
    let (down, list, talk, export) = tokio::join!(
        api.download(bot, "/data/large"),
        api.get(bot, lists),
        api.shell(bot, TALK),
        api.export(bot, "tar.gz", std::io::sink()),
    );
    down?;
    list?;
    talk?;
    export?;
    api.snapshot(bot).await?;
    Ok(())
}
