//! Workspaces without the HTTP server: everything that an embedder puts together, on a containerd
//! of its own, used once from creation to deletion, and removed again.
//!
//! It needs root, containerd, runc, nftables and busybox-static, and the agent's static program:
//!
//! ```text
//! cargo run -p botstead-workspace --example embed -- path/to/botstead-agent
//! ```
#![allow(clippy::print_stdout, reason = "it tells what it does")]

use anyhow::{Context, Result, ensure};
use botstead_authz::Actor;
use botstead_image_fixtures::{Compression, busybox, oci_archive};
use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use botstead_runtime::Runtime;
use botstead_runtime_containerd::daemon::{Daemon, DaemonConfig};
use botstead_runtime_containerd::images::RegistryConfig;
use botstead_runtime_containerd::{Containerd, ContainerdConfig};
use botstead_store::{Bot, BotStatus, Store, User};
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::{BotId, Role, UserId};
use botstead_workspace::{
    CreateEvent, CreateRequest, ExecRequest, SnapshotMode, WorkspaceConfig, Workspaces,
};
use chrono::Utc;
use futures_util::StreamExt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const IMAGE: &str = "localhost/embed/busybox:latest";

#[tokio::main]
async fn main() -> Result<()> {
    let variable = std::env::var_os("BOTSTEAD_TEST_AGENT");
    let agent = std::env::args_os().nth(1).or(variable);
    let agent = agent.context("give the agent's program, or set BOTSTEAD_TEST_AGENT")?;
    let agent = std::path::absolute(PathBuf::from(agent))?;

    // What is named after it belongs to this installation alone: control groups, bridge, runc's
    // state, the namespace in containerd. A lasting service makes it once and keeps it.
    let name = format!("embed-{}", std::process::id());
    // Data belongs on a disk with room, sockets where paths are short: they have 107 bytes at most.
    let mut folder = tempfile::Builder::new();
    folder.prefix(&name);
    let (data, run) = (folder.tempdir_in("/var/tmp")?, folder.tempdir_in("/run")?);

    // The network: a bridge, an address for each workspace, name resolution.
    let network = BridgeConfig::for_installation(&name, run.path().join("netns"));
    let network = Arc::new(BridgeNetwork::new(network)?);

    // A containerd of our own. It would outlive us, as workspaces do, unless it is stopped.
    let daemon = DaemonConfig::new(data.path().join("containerd"), run.path().join("c"));
    let daemon = Daemon::start(daemon).await?;
    println!("containerd runs");

    // All ports of a runtime on that containerd. Another backend would begin to differ here, and
    // nothing below would notice.
    let mut config = ContainerdConfig::new(daemon.socket(), &name, data.path().join("state"));
    config.runc_root = run.path().join("runc");
    config.guard.clone_from(&agent);
    let runtime =
        Containerd::connect(config, RegistryConfig::default(), Arc::clone(&network) as _)?;

    let done = embed(runtime, agent, data.path()).await;

    // Nothing stays, whatever happened. A service would leave containerd and workspaces running.
    network.teardown_host().await?;
    daemon.stop().await?;
    remove_control_groups(&name);
    println!("closed");
    done
}

async fn embed(runtime: Runtime, agent: PathBuf, data: &Path) -> Result<()> {
    // The records. Whoever has a database already implements the traits of botstead-store on it.
    let database = SqlStore::open(&SqlConfig::at(data.join("embed.db"))).await?;
    let store = database.store();

    // The use cases. Opening them finishes what a process that died left unfinished, and starts
    // what should run. All work runs on the given tokio runtime.
    let mut config = WorkspaceConfig::new(agent, data.to_owned());
    config.default_image = IMAGE.parse()?;
    let workspaces = Workspaces::open(runtime, store.clone(), config, Handle::current()).await?;

    let bot = BotId::generate();
    let done = day_in_a_life(&workspaces, &store, bot, data).await;
    if done.is_err() {
        let _ = workspaces.delete_bot(&Actor::System, bot, false).await;
    }
    // What is under way is waited for; what is not finished then, the next opening finishes.
    let closed = workspaces.close(Duration::from_secs(30)).await;
    database.close().await;
    ensure!(closed, "something is still under way");
    done
}

/// What a bot's workspace goes through.
async fn day_in_a_life(
    workspaces: &Workspaces,
    store: &Store,
    bot: BotId,
    data: &Path,
) -> Result<()> {
    // An image, here from an archive. `CreateRequest` pulls what is not local from its registry.
    let archive = data.join("busybox.tar");
    let image = busybox(Path::new("/bin/busybox"), &[Compression::Gzip])?;
    oci_archive(File::create(&archive)?, &[(Some(IMAGE), &image)], None)?;
    let admin = Actor::System;
    workspaces.import_images(&admin, archive, None).await?;
    println!("imported {IMAGE}");

    // Who owns what. Actions are taken in somebody's name and refused where it is not theirs.
    let owner = add_owner_and_bot(store, bot).await?;
    let actor = Actor::User {
        id: owner,
        role: Role::Member,
    };

    // Creation reports how far it is, and goes on when nobody listens any more.
    let wishes = CreateRequest::default();
    let mut events = workspaces.create(&actor, bot, wishes).await?;
    while let Some(event) = events.next().await {
        match event {
            CreateEvent::Pulling { image } => println!("looking for {image}"),
            CreateEvent::PullProgress { layers } => println!("pulling {} layers", layers.len()),
            CreateEvent::Creating => println!("creating"),
            CreateEvent::Restoring => println!("bringing preserved data back"),
            CreateEvent::Complete(made) => println!("{} runs", made.container),
            CreateEvent::Failed(error) => return Err(error.into()),
        }
    }

    // The bot works in `/data`, and its state is kept as version 1.
    sh(workspaces, &actor, bot, "echo first > note").await?;
    let name = Some("a good state".to_owned());
    // It is copied while the workspace runs on; its processes stand still for milliseconds.
    let made = workspaces
        .snapshot(&actor, bot, name, SnapshotMode::Live)
        .await?;
    let kept = made.version.number;
    println!("version {kept} is kept");

    // It changes its mind, and is brought back. The state before is kept too.
    sh(workspaces, &actor, bot, "echo second > note").await?;
    let note = sh(workspaces, &actor, bot, "cat note").await?;
    println!("the note says: {note}");
    let back = workspaces.rollback(&actor, bot, kept, false).await?;
    let safety = back.safety_version.context("nothing was kept")?;
    println!("rolled back to version {kept}, the state before is version {safety}");
    let note = sh(workspaces, &actor, bot, "cat note").await?;
    println!("the note says: {note}");
    ensure!(note == "first", "the rollback did not bring the note back");

    for snapshot in workspaces.snapshots(&actor, bot, None).await?.snapshots {
        println!("snapshot {:?}: {}", snapshot.kind, snapshot.name);
    }

    // The workspace, its versions and the bot. `Workspaces::delete` leaves versions and bot.
    workspaces.delete_bot(&actor, bot, false).await?;
    println!("deleted");
    Ok(())
}

/// Runs a shell line in `/data` and gives what it printed.
async fn sh(workspaces: &Workspaces, actor: &Actor, bot: BotId, line: &str) -> Result<String> {
    let command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    let request = ExecRequest {
        command,
        ..ExecRequest::default()
    };
    let output = workspaces.exec(actor, bot, request).await?;
    let code = output.exit.map(|exit| exit.code);
    ensure!(code == Some(0), "`{line}` failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn add_owner_and_bot(store: &Store, bot: BotId) -> Result<UserId> {
    let (owner, now) = (UserId::generate(), Utc::now());
    let user = User {
        id: owner,
        username: "ada".to_owned(),
        display_name: None,
        role: Role::Member,
        is_active: true,
        // Nobody signs in here; botstead-accounts makes hashes and checks them.
        password_hash: "!".to_owned(),
        created_at: now,
        updated_at: now,
    };
    store.users.create(&user).await?;
    let bot = Bot {
        id: bot,
        owner,
        name: "embedded".to_owned(),
        display_name: None,
        is_active: true,
        status: BotStatus::Ready,
        metadata: Default::default(),
        created_at: now,
        updated_at: now,
    };
    store.bots.create(&bot).await?;
    Ok(owner)
}

/// The installation's own, which are empty now; one for each controller where cgroups are v1.
fn remove_control_groups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    for controller in root.read_dir().into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(controller.path().join(name));
    }
    let _ = std::fs::remove_dir(root.join(name));
}
