//! What many workspaces cost that do nothing.

use crate::fleet::{create_all, delete_all};
use crate::server::{Server, processor_time};
use anyhow::Result;
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

/// After the last creation: agents boot, and the server looks at what is new.
const SETTLE: Duration = Duration::from_secs(20);

/// Shares of one core, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) workspaces: usize,
    /// How long it was measured.
    pub(crate) window: Duration,
    pub(crate) server: f64,
    pub(crate) containerd: f64,
    /// All shims together.
    pub(crate) shims: f64,
    /// All agents together.
    pub(crate) agents: f64,
}

/// Creates workspaces, does nothing for a while, and removes them.
pub(crate) async fn measure(server: &Server, workspaces: usize, window: Duration) -> Result<Idle> {
    let bots = create_all(&server.api, workspaces).await?;
    tokio::time::sleep(SETTLE).await;
    let began = Instant::now();
    let before = used(server).await?;
    tokio::time::sleep(window).await;
    let after = used(server).await?;
    let took = began.elapsed();
    let share = |of: fn(&Used) -> Duration| {
        of(&after).saturating_sub(of(&before)).as_secs_f64() / took.as_secs_f64() * 100.0
    };
    let idle = Idle {
        workspaces,
        window,
        server: share(|used| used.server),
        containerd: share(|used| used.containerd),
        shims: share(|used| used.shims),
        agents: share(|used| used.agents),
    };
    delete_all(&server.api, &bots).await?;
    Ok(idle)
}

struct Used {
    server: Duration,
    containerd: Duration,
    shims: Duration,
    agents: Duration,
}

async fn used(server: &Server) -> Result<Used> {
    let shims = server.shims()?;
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        // What is no process, or has ended meanwhile, has nothing to add.
        if let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>()
            && let Ok(found) = processor_time(pid)
        {
            all.insert(pid, found);
        }
    }
    let of = |pid: &u32| all.get(pid).map_or(Duration::ZERO, |(used, _)| *used);
    let agents = all.values().filter(|(_, parent)| shims.contains(parent));
    Ok(Used {
        server: of(&server.pid()),
        containerd: of(&server.containerd_pid().await?),
        shims: shims.iter().map(of).sum(),
        agents: agents.map(|(used, _)| *used).sum(),
    })
}
