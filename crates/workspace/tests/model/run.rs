//! Performing sequences, and shortening one that fails.

use crate::excused::{Pending, lost, pending, unpinned};
use crate::ground::{Files, Ground};
use crate::model::{Outcome, tokens};
use crate::steps::{Abilities, Step, draw};
use crate::world::{Place, World};
use botstead_runtime_testing::memory::Killed;
use botstead_store::User;
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::{Role, UserId};
use botstead_workspace::{CreateEvent, CreateRequest};
use chrono::Utc;
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How much is done.
pub struct Settings {
    pub sequences: u64,
    /// The only one, where there is one.
    pub first: Option<u64>,
    pub threads: usize,
    pub abilities: Abilities,
}

/// A number from the environment.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number")),
    )
}

/// No sequence takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// A fresh database, and its only user.
struct Fresh {
    folder: tempfile::TempDir,
    owner: UserId,
}

impl Fresh {
    fn file(&self) -> PathBuf {
        self.folder.path().join("botstead.db")
    }
}

/// Syncs cost nothing in memory, and are not what is tested here.
fn folder() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("botstead-model-");
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => builder.tempdir_in(memory),
        false => builder.tempdir(),
    }
    .unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn fresh() -> Fresh {
    let folder = folder();
    let owner = UserId::generate();
    runtime().block_on(async {
        let made = SqlConfig::at(folder.path().join("made.db"));
        let sql = SqlStore::open(&made).await.unwrap();
        let now = Utc::now();
        let user = User {
            id: owner,
            username: "owner".to_owned(),
            display_name: None,
            role: Role::Member,
            is_active: true,
            password_hash: String::new(),
            created_at: now,
            updated_at: now,
        };
        sql.store().users.create(&user).await.unwrap();
        sql.backup_to(&folder.path().join("botstead.db"))
            .await
            .unwrap();
        sql.close().await;
    });
    Fresh { folder, owner }
}

/// Performs all sequences; fails with the first that violates the invariant, shortened.
pub fn check<G: Ground>(settings: &Settings, ground: impl Fn() -> G + Sync) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // A server that is killed is no failure.
        if !info.payload().is::<Killed>() {
            print(info);
        }
    }));
    let fresh = fresh();
    let next = AtomicU64::new(settings.first.unwrap_or(0));
    let end = settings.first.map_or(settings.sequences, |first| first + 1);
    let failed = AtomicBool::new(false);
    let began = std::time::Instant::now();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..settings.threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::SeqCst);
                        if seed >= end || failed.load(Ordering::SeqCst) {
                            return None;
                        }
                        let steps = draw(seed, settings.abilities);
                        if settings.first.is_some() {
                            println!("{}", written(&steps));
                        }
                        if let Err(reason) = perform(&steps, &ground, &fresh) {
                            failed.store(true, Ordering::SeqCst);
                            return Some(shortened(seed, steps, reason, &ground, &fresh));
                        }
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().unwrap())
            .collect()
    });
    let performed = end - settings.first.unwrap_or(0);
    println!("{performed} sequences in {:?}", began.elapsed());
    if let Some(failure) = failures.first() {
        panic!("{failure}");
    }
}

/// Takes out steps as long as it still fails.
fn shortened<G: Ground>(
    seed: u64,
    mut steps: Vec<Step>,
    mut reason: String,
    ground: &impl Fn() -> G,
    fresh: &Fresh,
) -> String {
    let whole = steps.len();
    let mut shorter = true;
    while shorter {
        shorter = false;
        let mut at = steps.len();
        while at > 0 {
            at -= 1;
            let mut fewer = steps.clone();
            fewer.remove(at);
            if let Err(other) = perform(&fewer, ground, fresh) {
                (steps, reason, shorter) = (fewer, other, true);
            }
        }
    }
    format!(
        "seed {seed} ({} of its {whole} steps matter):\n{}{reason}\n\
         again: BOTSTEAD_TEST_MODEL_SEED={seed} cargo test -p botstead-workspace --test model",
        steps.len(),
        written(&steps)
    )
}

fn written(steps: &[Step]) -> String {
    let mut text = String::new();
    for (number, step) in steps.iter().enumerate() {
        writeln!(text, "{:4}. {step:?}", number + 1).unwrap();
    }
    text
}

/// Performs one sequence in a world of its own.
fn perform<G: Ground>(
    steps: &[Step],
    ground: &impl Fn() -> G,
    fresh: &Fresh,
) -> Result<(), String> {
    let folder = folder();
    let runtime = runtime();
    let done = runtime.block_on(async {
        let sequence = async {
            let mut world = World::new(ground(), folder.path(), &fresh.file(), fresh.owner).await;
            let done = sequence(&mut world, steps).await;
            world.close().await;
            done
        };
        let sequence = AssertUnwindSafe(tokio::time::timeout(PATIENCE, sequence)).catch_unwind();
        match sequence.await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err("it does not come to its end".to_owned()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(format!("panic: {}", text.unwrap_or("of another kind")))
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

async fn sequence<G: Ground>(world: &mut World<G>, steps: &[Step]) -> Result<(), String> {
    let mut log = String::new();
    let mut before = world.reach().await;
    let mut unended = Pending::new();
    for (number, step) in steps.iter().enumerate() {
        let (outcome, excused) = world.perform(step, &before).await;
        writeln!(log, "{:4}. {}", number + 1, told(&outcome)).unwrap();
        if matches!(outcome, Outcome::Nothing) && excused.is_empty() && !step.restarts() {
            continue;
        }
        for stopped in world.store.operations.unfinished().await.unwrap() {
            // It goes on when anybody asks for the bot's data.
            let _ = world.export(stopped.bot).await;
        }
        let after = world.reach().await;
        if let Outcome::Wrote { token } = &outcome
            && matches!(step, Step::Write { .. })
            && after.places_of(token).is_empty()
        {
            return Err(format!("{log}{token} was written and is not in reach"));
        }
        if let Some(version) = unpinned(&before, &after)
            && !step.unpins()
        {
            return Err(format!("{log}version {version} is not pinned any more"));
        }
        if let [token, ..] = lost(&before, &after, &excused, &unended)[..] {
            let places = before.places_of(token);
            return Err(format!(
                "{log}lost {token}, which was in {places:?}; now: {after:#?}"
            ));
        }
        if world
            .store
            .operations
            .unfinished()
            .await
            .unwrap()
            .is_empty()
        {
            unended.clear();
        } else {
            // One that stopped half-way goes on when it can.
            unended.extend(pending(&excused, &before));
        }
        before = after;
    }
    finally(world, &unended)
        .await
        .map_err(|reason| format!("{log}finally: {reason}"))
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Nothing => "nothing".to_owned(),
        Outcome::Done => "done".to_owned(),
        Outcome::Wrote { token } => token.clone(),
        Outcome::Failed(error) => format!("{}: {error}", error.code()),
    }
}

/// With nothing broken any more, everything that is there must also be usable.
async fn finally<G: Ground>(world: &mut World<G>, unended: &Pending) -> Result<(), String> {
    let before = world.reach().await;
    world.restart(async |_: &mut World<G>| {}).await;
    let reach = world.reach().await;
    if let [token, ..] = lost(&before, &reach, &BTreeSet::new(), unended)[..] {
        return Err(format!(
            "{token} was lost by a restart: {:?}",
            before.places_of(token)
        ));
    }
    let places: Vec<Place> = reach.places.keys().cloned().collect();
    let failed = |what: &str, place: &Place| {
        let (what, place) = (what.to_owned(), place.clone());
        move |error: botstead_workspace::Error| {
            format!(
                "{what} {place:?}: {}: {error} {:?}",
                error.code(),
                std::error::Error::source(&error)
            )
        }
    };
    for place in places {
        let held = reach.of(&place);
        let bot = match &place {
            Place::Active(bot) | Place::Version(bot, _) | Place::Archive(bot, _) => *bot,
            Place::Unrecorded(..) | Place::UnknownArchive(..) => continue,
        };
        match &place {
            Place::Active(_) => {
                let started = world.workspaces.start(&world.owner, bot).await;
                started.map_err(failed("start", &place))?;
            }
            Place::Version(_, number) => {
                if tokens(&held).is_empty()
                    || world.row(bot).await.is_none()
                        && world
                            .versions(bot)
                            .await
                            .iter()
                            .all(|version| version.number != *number)
                {
                    continue;
                }
                let back = world
                    .workspaces
                    .rollback(&world.owner, bot, *number, false)
                    .await;
                match back {
                    // It made room for those that this makes.
                    Err(botstead_workspace::Error::VersionNotFound { .. }) => continue,
                    back => drop(back.map_err(failed("roll back to", &place))?),
                }
            }
            Place::Archive(_, id) => {
                if world.row(bot).await.is_some() {
                    // One whose files were removed begins anew; a call that needs them says so.
                    // Its processes may still run on what is gone.
                    let stopped = world.workspaces.stop(&world.owner, bot).await;
                    stopped.map_err(failed("stop for", &place))?;
                    let started = world.workspaces.start(&world.owner, bot).await;
                    started.map_err(failed("start for", &place))?;
                }
                if world.row(bot).await.is_none() {
                    let request = CreateRequest {
                        restore_data: Some(false),
                        ..CreateRequest::default()
                    };
                    let made = world.workspaces.create(&world.owner, bot, request).await;
                    let events: Vec<_> =
                        made.map_err(failed("create for", &place))?.collect().await;
                    if !matches!(events.last(), Some(CreateEvent::Complete(_))) {
                        return Err(format!("create for {place:?}: {events:?}"));
                    }
                }
                let back = world
                    .workspaces
                    .restore_data(&world.owner, bot, Some(*id))
                    .await;
                back.map_err(failed("restore", &place))?;
            }
            Place::Unrecorded(..) | Place::UnknownArchive(..) => {}
        }
        let active = match world.row(bot).await {
            Some(row) => world.ground.files(&row.snapshot).await.unwrap_or_default(),
            None => Files::new(),
        };
        let missing: BTreeSet<_> = tokens(&held)
            .difference(&tokens(&active))
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(format!("{place:?} came back without {missing:?}"));
        }
    }
    let after = world.reach().await;
    if let [token, ..] = lost(&reach, &after, &BTreeSet::new(), &Pending::new())[..] {
        let places = reach.places_of(token);
        return Err(format!(
            "{token} was lost, which was in {places:?}; now: {after:#?}"
        ));
    }
    Ok(())
}
