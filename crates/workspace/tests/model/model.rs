//! Performing a step, and what may be out of reach afterwards.

use crate::excused::{Excused, all_of, brought, excused, removes};
use crate::ground::{Fault, Files, Ground};
use crate::steps::{PATHS, Step};
use crate::world::{Place, Reach, World, is_data, is_token, unpacked};
use botstead_runtime_testing::memory::Killed;
use botstead_store::{Change, VersionRecord};
use botstead_types::{BotId, ContainerId, FilePath, ImageRef, PreservedId, VersionNumber};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, CreateRequest, DeleteRequest, Error, ImportMode, SnapshotMode,
    VersionUpdate,
};
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, resume_unwind};

/// What a step came to.
#[derive(Debug)]
pub enum Outcome {
    /// There was nothing to do it with, or nothing is known of it.
    Nothing,
    Done,
    /// It was written there.
    Wrote {
        token: String,
    },
    Failed(Error),
}

impl Outcome {
    fn of<T>(done: Result<T, Error>) -> Self {
        done.map_or_else(Self::Failed, |_| Self::Done)
    }
}

/// A step with its choices made.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub step: Step,
    pub bot: BotId,
    pub from: Option<BotId>,
    pub version: Option<VersionNumber>,
    pub archive: Option<PreservedId>,
    pub number: usize,
}

impl<G: Ground> World<G> {
    /// Makes the choices of a call.
    pub async fn choose(&mut self, step: &Step) -> Chosen {
        let slot = slot(step);
        let bot = self.bot(slot).await;
        let from = match step {
            Step::Fork { from, .. } => Some(self.bot(*from).await),
            _ => None,
        };
        let versions = self.versions(from.unwrap_or(bot)).await;
        let archives = self.preserved(bot).await;
        let version = match step {
            Step::Rollback { version, .. }
            | Step::RestorePath { version, .. }
            | Step::DeleteVersion { version, .. }
            | Step::Pin { version, .. }
            | Step::LoseVersion { version, .. }
            | Step::LoseVersionRow { version, .. }
            | Step::Fork {
                version: Some(version),
                ..
            } => pick(&versions, *version),
            _ => None,
        };
        let archive = match step {
            Step::Discard { archive, .. }
            | Step::Restore {
                archive: Some(archive),
                ..
            } => pick(&archives, *archive).copied(),
            _ => None,
        };
        self.written += 1;
        Chosen {
            step: step.clone(),
            bot,
            from,
            version: version.map(|version: &VersionRecord| version.number),
            archive,
            number: self.written,
        }
    }

    /// Performs a call.
    pub async fn call(&self, chosen: &Chosen) -> Outcome {
        let (w, owner, bot) = (&self.workspaces, &self.owner, chosen.bot);
        let version = || chosen.version;
        match &chosen.step {
            Step::Create { restore, .. } => {
                let request = CreateRequest {
                    restore_data: Some(*restore),
                    ..CreateRequest::default()
                };
                match w.create(owner, bot, request).await {
                    Ok(events) => last(events.collect().await),
                    Err(error) => Outcome::Failed(error),
                }
            }
            Step::Start { .. } => Outcome::of(w.start(owner, bot).await),
            Step::Stop { .. } => Outcome::of(w.stop(owner, bot).await),
            Step::Write { path, .. } => {
                let token = format!("written-{}", chosen.number);
                let Some(row) = self.row(bot).await else {
                    return Outcome::Nothing;
                };
                let written = self
                    .ground
                    .write(w, owner, &row, PATHS[*path], &token)
                    .await;
                written.map_or(Outcome::Nothing, |_| Outcome::Wrote { token })
            }
            Step::Remove { path, .. } => match self.row(bot).await {
                Some(row) if self.ground.remove(w, owner, &row, PATHS[*path]).await => {
                    Outcome::Done
                }
                _ => Outcome::Nothing,
            },
            Step::Link { .. } => match self.row(bot).await {
                Some(row) if self.ground.link(w, owner, &row).await => Outcome::Done,
                _ => Outcome::Nothing,
            },
            Step::Live { .. } => {
                Outcome::of(w.snapshot(owner, bot, None, SnapshotMode::Live).await)
            }
            Step::Snapshot { .. } => {
                Outcome::of(w.snapshot(owner, bot, None, SnapshotMode::Stop).await)
            }
            Step::Rollback { .. } => match version() {
                Some(version) => Outcome::of(w.rollback(owner, bot, version, false).await),
                None => Outcome::Nothing,
            },
            Step::Fork { version, .. } => match (chosen.from, version, chosen.version) {
                (Some(_), Some(_), None) | (None, ..) => Outcome::Nothing,
                (Some(from), ..) => Outcome::of(w.fork(owner, bot, from, chosen.version).await),
            },
            Step::Import {
                archive, replace, ..
            } => {
                let Some(archive) = pick(&self.exports, *archive) else {
                    return Outcome::Nothing;
                };
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(archive).unwrap();
                file.rewind().unwrap();
                let mode = match replace {
                    true => ImportMode::Replace,
                    false => ImportMode::Merge,
                };
                Outcome::of(w.import_data(owner, bot, file, mode.into()).await)
            }
            Step::RestorePath { path, .. } => match version() {
                Some(version) => {
                    let path = FilePath::new(format!("/{}", PATHS[*path])).unwrap();
                    Outcome::of(w.restore_path(owner, bot, version, path, None).await)
                }
                None => Outcome::Nothing,
            },
            Step::ChangeImage { .. } => {
                let now = self.row(bot).await.map(|row| row.image.reference);
                let other = self.ground.images().into_iter().find(|image| {
                    let image = image.parse().unwrap();
                    now.as_ref() != Some(&image)
                });
                let image: ImageRef = other.unwrap().parse().unwrap();
                match w.change_image(owner, bot, image).await {
                    Ok(events) => last(events.collect().await),
                    Err(error) => Outcome::Failed(error),
                }
            }
            Step::Delete {
                preserve, versions, ..
            } => {
                let request = DeleteRequest {
                    preserve_data: *preserve,
                    delete_versions: *versions,
                };
                Outcome::of(w.delete(owner, bot, request).await)
            }
            Step::Restore { archive, .. } => match (archive, chosen.archive) {
                (Some(_), None) => Outcome::Nothing,
                _ => Outcome::of(w.restore_data(owner, bot, chosen.archive).await),
            },
            Step::Discard { .. } => match chosen.archive {
                Some(archive) => Outcome::of(w.discard_preserved(owner, bot, archive).await),
                None => Outcome::Nothing,
            },
            Step::DeleteVersion { .. } => match version() {
                Some(version) => Outcome::of(w.delete_version(owner, bot, version).await),
                None => Outcome::Nothing,
            },
            Step::Pin { pinned, .. } => match version() {
                Some(version) => {
                    let update = VersionUpdate {
                        pinned: Some(*pinned),
                        ..VersionUpdate::default()
                    };
                    Outcome::of(w.update_version(owner, bot, version, update).await)
                }
                None => Outcome::Nothing,
            },
            Step::DeleteBot { preserve, .. } => {
                Outcome::of(w.delete_bot(owner, bot, *preserve).await)
            }
            Step::Export { .. } => Outcome::of(self.export(bot).await),
            other => panic!("{other:?} is no call"),
        }
    }

    /// All of an export.
    pub async fn export(&self, bot: BotId) -> Result<Vec<u8>, Error> {
        let format = ArchiveFormat::TarZst;
        let mut pieces = self
            .workspaces
            .export_data(&self.owner, bot, format)
            .await?;
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    /// Performs a step.
    pub async fn perform(&mut self, step: &Step, before: &Reach) -> (Outcome, Excused) {
        match step {
            Step::Backup => {
                self.backup().await;
                (Outcome::Done, Excused::new())
            }
            Step::Older if self.backups.is_empty() => (Outcome::Nothing, Excused::new()),
            Step::Older => {
                self.restart(World::put_back).await;
                (Outcome::Done, Excused::new())
            }
            Step::Restart => {
                self.restart(async |_: &mut Self| {}).await;
                (Outcome::Done, Excused::new())
            }
            Step::Reboot => {
                self.restart(async |world: &mut Self| world.ground.reboot().await)
                    .await;
                (Outcome::Done, Excused::new())
            }
            Step::LoseContainer { restart, .. } => {
                let chosen = self.choose(step).await;
                let id = ContainerId::for_bot(chosen.bot);
                let lost = self.ground.lose_container(&id).await;
                self.restart_if(*restart).await;
                (nothing_unless(lost), Excused::new())
            }
            Step::LoseActive { restart, .. } => {
                let chosen = self.choose(step).await;
                let Some(row) = self.row(chosen.bot).await else {
                    return (Outcome::Nothing, Excused::new());
                };
                let lost = self.ground.lose_snapshot(&row.snapshot).await;
                let place = Place::Active(chosen.bot);
                let excused = if lost {
                    all_of(&place, before)
                } else {
                    Excused::new()
                };
                self.restart_if(*restart).await;
                (nothing_unless(lost), excused)
            }
            Step::LoseVersion { restart, .. } => {
                let chosen = self.choose(step).await;
                let versions = self.versions(chosen.bot).await;
                let version = versions
                    .into_iter()
                    .find(|version| Some(version.number) == chosen.version);
                let Some(version) = version else {
                    return (Outcome::Nothing, Excused::new());
                };
                let lost = self.ground.lose_snapshot(&version.snapshot).await;
                let place = Place::Version(chosen.bot, version.number);
                let excused = if lost {
                    all_of(&place, before)
                } else {
                    Excused::new()
                };
                self.restart_if(*restart).await;
                (nothing_unless(lost), excused)
            }
            Step::LoseRow { .. } => {
                let chosen = self.choose(step).await;
                self.change(Change::DeleteContainer(chosen.bot)).await;
                (Outcome::Done, Excused::new())
            }
            Step::LoseVersionRow { .. } => {
                let chosen = self.choose(step).await;
                let Some(version) = chosen.version else {
                    return (Outcome::Nothing, Excused::new());
                };
                self.change(Change::DeleteVersion(chosen.bot, version))
                    .await;
                (Outcome::Done, Excused::new())
            }
            Step::LoseBot { .. } => {
                let chosen = self.choose(step).await;
                self.change(Change::DeleteBot(chosen.bot)).await;
                (Outcome::Done, Excused::new())
            }
            Step::Killed { at, step } => {
                let chosen = self.choose(step).await;
                self.ground.arm(Fault::Killed { at: *at });
                // Also where the caller's own task is at the call: its answer is lost.
                let call = AssertUnwindSafe(self.call(&chosen)).catch_unwind().await;
                let outcome = match call {
                    Err(panic) if !panic.is::<Killed>() => resume_unwind(panic),
                    call => call.unwrap_or(Outcome::Nothing),
                };
                self.restart(async |_: &mut Self| {}).await;
                (outcome, excused(&chosen, before))
            }
            Step::Away { at, step } => {
                let chosen = self.choose(step).await;
                self.ground.arm(Fault::Away { at: *at });
                let outcome = self.call(&chosen).await;
                self.ground.disarm();
                (outcome, excused(&chosen, before))
            }
            Step::AwayAndRestart { at, step } => {
                let chosen = self.choose(step).await;
                self.ground.arm(Fault::Away { at: *at });
                let outcome = self.call(&chosen).await;
                self.restart(async |_: &mut Self| {}).await;
                (outcome, excused(&chosen, before))
            }
            Step::Fails {
                call,
                full,
                lost,
                step,
            } => {
                let chosen = self.choose(step).await;
                self.ground.arm(Fault::Fails {
                    call: *call,
                    full: *full,
                    lost: *lost,
                });
                let outcome = self.call(&chosen).await;
                self.ground.disarm();
                (outcome, excused(&chosen, before))
            }
            Step::Both { first, second } => {
                let first = self.choose(first).await;
                let second = self.choose(second).await;
                let mut may_go = excused(&first, before);
                may_go.extend(excused(&second, before));
                if first.bot == second.bot {
                    // What the one brings the other may remove.
                    if removes(&first.step) || removes(&second.step) {
                        may_go.extend(brought(&first, before));
                        may_go.extend(brought(&second, before));
                    }
                }
                let (one, other) = tokio::join!(self.call(&first), self.call(&second));
                let outcome = match (one, other) {
                    (Outcome::Failed(error), _) | (_, Outcome::Failed(error)) => {
                        Outcome::Failed(error)
                    }
                    _ => Outcome::Done,
                };
                (outcome, may_go)
            }
            Step::Export { .. } => {
                let chosen = self.choose(step).await;
                let outcome = match self.export(chosen.bot).await {
                    Ok(archive) => {
                        let found = tokens(&unpacked(&archive));
                        let active = before.of(&Place::Active(chosen.bot));
                        let data = active
                            .clone()
                            .into_iter()
                            .filter(|(path, _)| is_data(path, &active));
                        assert_eq!(
                            found,
                            tokens(&data.collect()),
                            "an export is not what /data is"
                        );
                        self.exports.push(archive);
                        Outcome::Done
                    }
                    Err(error) => Outcome::Failed(error),
                };
                (outcome, Excused::new())
            }
            call => {
                let chosen = self.choose(call).await;
                let outcome = self.call(&chosen).await;
                (outcome, excused(&chosen, before))
            }
        }
    }

    async fn restart_if(&mut self, restart: bool) {
        if restart {
            self.restart(async |_: &mut Self| {}).await;
        }
    }

    /// Changes the database while the server is down.
    async fn change(&mut self, change: Change) {
        self.restart(async |world: &mut Self| {
            let changed = world.store.transactions.apply(vec![change]).await;
            changed.unwrap();
        })
        .await;
    }
}

fn slot(step: &Step) -> usize {
    match step {
        Step::Create { bot, .. }
        | Step::Start { bot }
        | Step::Stop { bot }
        | Step::Write { bot, .. }
        | Step::Remove { bot, .. }
        | Step::Link { bot }
        | Step::Live { bot }
        | Step::Snapshot { bot }
        | Step::Rollback { bot, .. }
        | Step::Fork { bot, .. }
        | Step::Export { bot }
        | Step::Import { bot, .. }
        | Step::RestorePath { bot, .. }
        | Step::ChangeImage { bot }
        | Step::Delete { bot, .. }
        | Step::Restore { bot, .. }
        | Step::Discard { bot, .. }
        | Step::DeleteVersion { bot, .. }
        | Step::Pin { bot, .. }
        | Step::DeleteBot { bot, .. }
        | Step::LoseContainer { bot, .. }
        | Step::LoseActive { bot, .. }
        | Step::LoseVersion { bot, .. }
        | Step::LoseRow { bot }
        | Step::LoseVersionRow { bot, .. }
        | Step::LoseBot { bot } => *bot,
        other => panic!("{other:?} is of no bot"),
    }
}

fn pick<T>(all: &[T], choice: usize) -> Option<&T> {
    (!all.is_empty()).then(|| &all[choice % all.len()])
}

fn nothing_unless(done: bool) -> Outcome {
    match done {
        true => Outcome::Done,
        false => Outcome::Nothing,
    }
}

fn last(mut events: Vec<CreateEvent>) -> Outcome {
    match events.pop() {
        Some(CreateEvent::Complete(_)) => Outcome::Done,
        Some(CreateEvent::Failed(error)) => Outcome::Failed(error),
        other => panic!("a creation ended with {other:?}"),
    }
}

pub fn tokens(files: &Files) -> BTreeSet<String> {
    files
        .values()
        .filter(|text| is_token(text))
        .cloned()
        .collect()
}
