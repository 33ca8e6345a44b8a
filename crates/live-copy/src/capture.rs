//! The protocol: first pass, rounds, freeze, last pass, thaw, sync; and what happens when a step does
//! not come out. What the steps do is in `mirror`.

use crate::Error;
use crate::feed::Feed;
use crate::freezer::{FreezeError, Freezer, Frozen, Thaw};
use crate::halt::{Halt, Step};
use crate::mirror::Mirror;
use crate::options::{Observer, Options};
use crate::report::{Phase, Progress, Reason, Report, SecondPass};
use crate::scan::mounts::Mounts;
use crate::scan::{Found, Scan};
use crate::stop::Stop;
use crate::urgent::Urgent;
use botstead_overlay::tree::entries;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// For the estimate: to copy a small file.
const PER_FILE: Duration = Duration::from_micros(30);
/// For the estimate: to look at a name once more.
const PER_NAME: Duration = Duration::from_micros(2);
/// For the estimate: bytes per second.
const SPEED: f64 = 3e9;
/// A round that leaves more than this part of the estimate was not worth it.
const WORTH: f64 = 0.7;
/// Fewer processes are looked at faster than a thread is started.
const WORTH_A_THREAD: usize = 8;

/// Copies the tree at `source` into the empty directory `target`, as it is at one moment, while the
/// processes of `freezer` write to it.
///
/// Only they may write to `source`, and nobody to `target`. When it returns, the copy is on the disk.
/// Blocks for as long as it takes: call it where that is allowed. `cancel` ends it early.
///
/// # Errors
/// [`Error`]; see there. The processes run again in any case, unless someone else had frozen them.
pub fn capture(
    source: &Path,
    target: &Path,
    freezer: &dyn Freezer,
    options: &Options,
    observer: &mut dyn Observer,
    cancel: &AtomicBool,
) -> Result<Report, Error> {
    let began = Instant::now();
    let trees = Trees::open(source, target)?;
    let observer = RefCell::new(observer);
    let phase = Cell::new(Phase::FirstPass);
    let progress = |done: crate::mirror::Done| {
        observer.borrow_mut().progress(Progress {
            phase: phase.get(),
            entries: done.entries,
            bytes: done.bytes,
        });
    };
    let failed = |errno| Error::io("open", source.display(), errno);
    let mirror = Mirror::new(trees.source, trees.target, Stop::new(cancel), &progress);
    let mut capture = Capture {
        mirror: mirror.map_err(failed)?,
        freezer,
        options,
        observer: &observer,
        phase: &phase,
        stop: Stop::new(cancel),
        rounds: 0,
        walk_time: Duration::ZERO,
        unreported: 0,
        is_in_doubt: false,
    };
    capture.mirror.memory_limit = options.memory_limit;
    capture.open_feed(trees.mount.is_some());
    let frozen = capture.run().map_err(|halt| match halt {
        Halt::Failed(error) => error,
        // Both are dealt with where they arise.
        Halt::OutOfTime => Error::FreezeTooLong {
            limit: options.freeze_limit,
            attempts: 0,
        },
        Halt::Feed(reason) => Error::io("follow", reason, Errno::STALE),
    })?;
    let report = capture.report(frozen, began.elapsed());
    tracing::debug!(target = %target.display(), ?report, "copied a live tree");
    Ok(report)
}

/// The two trees, open.
struct Trees {
    source: OwnedFd,
    target: OwnedFd,
    /// The target's mount, if it is one of our own: it ends with this.
    mount: Option<OwnedFd>,
}

impl Trees {
    fn open(source: &Path, target: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &Path| {
            openat(CWD, path, flags, Mode::empty())
                .map_err(|errno| Error::io("open", path.display(), errno))
        };
        let source = open(source)?;
        let plain = open(target)?;
        let listed = entries(&plain).map_err(|errno| Error::io("read", target.display(), errno))?;
        if !listed.is_empty() {
            return Err(Error::TargetNotEmpty(target.to_owned()));
        }
        // By a mount of our own, so that the feed can leave out what we write. It works without.
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let here = OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(&plain, "", clone | here).ok();
        let own = mount
            .as_ref()
            .and_then(|mount| openat(mount, ".", flags, Mode::empty()).ok());
        Ok(Self {
            source,
            mount: own.is_some().then_some(mount).flatten(),
            target: own.unwrap_or(plain),
        })
    }
}

/// A copy that is going on.
struct Capture<'a, 'o> {
    mirror: Mirror<'a>,
    freezer: &'a dyn Freezer,
    options: &'a Options,
    observer: &'a RefCell<&'o mut dyn Observer>,
    phase: &'a Cell<Phase>,
    stop: Stop<'a>,
    rounds: u32,
    /// How long the last look at the whole tree took.
    walk_time: Duration,
    unreported: u64,
    /// Processes ran while the feed was paused, so that it has missed something.
    is_in_doubt: bool,
}

/// How a freeze went.
struct Freeze {
    took: Duration,
    attempts: u32,
    first_pass: Duration,
    bytes: u64,
    files: u64,
}

impl Capture<'_, '_> {
    /// Starts the change feed, if it is wanted. Without it the walk is used.
    fn open_feed(&mut self, own_mount: bool) {
        let mirror = &mut self.mirror;
        mirror.second_pass = self.options.second_pass.clone();
        if mirror.second_pass != SecondPass::Feed {
            return;
        }
        match Feed::open(mirror.source_root().as_fd()) {
            Ok(feed) => {
                if own_mount && let Err(errno) = feed.ignore(mirror.target_root.as_fd()) {
                    tracing::debug!(%errno, "the feed reports the copy's own writing as well");
                }
                mirror.feed = Some(feed);
            }
            Err(reason) => self.walk_from_now_on(reason),
        }
    }

    fn walk_from_now_on(&mut self, reason: Reason) {
        tracing::debug!(%reason, "no change feed");
        self.mirror.feed = None;
        self.mirror.second_pass = SecondPass::Walk { reason };
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        let done = self.mirror.done;
        self.observer.borrow_mut().progress(Progress {
            phase,
            entries: done.entries,
            bytes: done.bytes,
        });
    }

    fn run(&mut self) -> Step<Freeze> {
        let began = Instant::now();
        self.enter(Phase::FirstPass);
        // At once, which is faster than file by file.
        self.flush()?;
        self.mirror.first_pass()?;
        let first_pass = began.elapsed();
        let mut freeze = self.freeze()?;
        freeze.first_pass = first_pass;
        self.enter(Phase::Finishing);
        self.mirror.finish()?;
        if self.options.durable {
            self.mirror.sync()?;
        }
        Ok(freeze)
    }

    fn flush(&self) -> Step<()> {
        let synced = syncfs(self.mirror.source_root());
        synced.map_err(|errno| Error::io("sync", "the source", errno).into())
    }

    /// Copies what changed, while the processes run, until that is little.
    fn catch_up(&mut self) -> Step<()> {
        self.enter(Phase::Rounds);
        if std::mem::take(&mut self.is_in_doubt) {
            // From here on the feed sees everything again.
            self.mirror.walk_round()?;
        }
        let mut last: Option<Duration> = None;
        for _ in 0..self.options.rounds {
            self.rounds += 1;
            let estimate = self.round()?;
            let is_worth_it = last.is_none_or(|last| estimate < last.mul_f64(WORTH));
            if estimate <= self.options.freeze_target || !is_worth_it {
                break;
            }
            last = Some(estimate);
        }
        Ok(())
    }

    /// One round; returns how long a freeze right after it may take.
    fn round(&mut self) -> Step<Duration> {
        if let Some(feed) = &self.mirror.feed {
            match feed.take() {
                Ok(changes) => {
                    self.mirror.feed_round(changes)?;
                    return self.estimate();
                }
                Err(reason) => self.walk_from_now_on(reason),
            }
        }
        let began = Instant::now();
        let (count, looked) = self.mirror.walk_round()?;
        self.walk_time = looked;
        // What was copied just now took its time, in which as much may have changed.
        let rate = count as f64 * looked.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-6);
        Ok(looked + PER_FILE.mul_f64(rate))
    }

    /// Where the processes see the tree.
    fn mounts(&self) -> Step<Mounts> {
        let pids = self.freezer.processes()?;
        Ok(Mounts::find(self.mirror.source_id(), &pids))
    }

    fn estimate(&self) -> Step<Duration> {
        let Some(feed) = &self.mirror.feed else {
            return Ok(self.walk_time);
        };
        let pids = self.freezer.processes()?;
        let mounts = Mounts::find(self.mirror.source_id(), &pids);
        let began = Instant::now();
        // What takes longer than that would take too long in any case.
        let stop = self.stop.until(began + self.options.freeze_limit / 4);
        let scan = Scan::new(&pids, &mounts, stop);
        // They run: what cannot be looked at now can be when they are frozen.
        let _ = scan.work();
        let scan_time = began.elapsed();
        let mapped = self.mirror.mapped_bytes(&scan.into_found());
        let (names, bytes) = feed.peek(|changes| self.mirror.size_of(changes));
        let again = PER_NAME * u32::try_from(self.mirror.count_touched()).unwrap_or(u32::MAX);
        let copies = PER_FILE * u32::try_from(names).unwrap_or(u32::MAX);
        let content = Duration::from_secs_f64((bytes + mapped) as f64 / SPEED);
        Ok(scan_time + again + copies + content)
    }

    /// Freezes and copies the last changes, and tries again when it takes too long.
    fn freeze(&mut self) -> Step<Freeze> {
        let attempts = self.options.attempts.max(1);
        let mut deadline = self.options.freeze_deadline;
        let mut failure = None;
        for attempt in 1..=attempts {
            self.catch_up()?;
            self.enter(Phase::Freezing);
            let mounts = self.mounts()?;
            let urgent = Urgent::begin();
            let frozen = match self.freezer.freeze(deadline) {
                Ok(frozen) => frozen,
                Err(FreezeError::Failed(error)) => return Err(error.into()),
                Err(FreezeError::Slow { waited }) => {
                    // Mostly someone waits for the disk.
                    self.flush()?;
                    deadline *= 2;
                    failure = Some(Error::FreezeTimedOut {
                        waited,
                        attempts: attempt,
                    });
                    continue;
                }
            };
            let before = self.mirror.done;
            let thaw = self.last_pass(frozen, mounts)?;
            drop(urgent);
            match thaw {
                Thaw::InTime { frozen } => {
                    let done = self.mirror.done;
                    return Ok(Freeze {
                        took: frozen,
                        attempts: attempt,
                        first_pass: Duration::ZERO,
                        bytes: done.bytes - before.bytes,
                        files: done.files - before.files,
                    });
                }
                Thaw::TooLate => {
                    failure = Some(Error::FreezeTooLong {
                        limit: self.options.freeze_limit,
                        attempts: attempt,
                    });
                }
                Thaw::Interfered => failure = Some(Error::Thawed { attempts: attempt }),
            }
            // They ran while they were thought to stand still.
            self.mirror.distrust_frozen();
        }
        // There was one attempt at least, and each that did not return failed.
        Err(failure.unwrap_or(Error::Cancelled).into())
    }

    /// Copies the last changes, and lets the processes go on.
    fn last_pass(&mut self, frozen: Box<dyn Frozen>, mounts: Mounts) -> Step<Thaw> {
        self.mirror.is_frozen = true;
        if let Some((since, safe)) = frozen.since() {
            let limit = self.options.freeze_limit.min(safe / 2);
            self.mirror.stop = self.stop.until(since + limit);
        }
        let passed = self.pass_frozen(&*frozen, mounts);
        self.mirror.is_frozen = false;
        self.mirror.stop = self.stop;
        if let Some(feed) = &self.mirror.feed {
            feed.resume(self.mirror.source_root().as_fd());
        }
        if let Err(halt) = passed {
            let thaw = frozen.thaw()?;
            return match (halt, thaw) {
                // Not by the guard's clock, but by ours. What was under work may have been forgotten.
                (Halt::OutOfTime, Thaw::InTime { .. }) => {
                    self.is_in_doubt = true;
                    Ok(Thaw::TooLate)
                }
                (halt, Thaw::InTime { .. }) => Err(halt),
                // It may have failed because the source was changed.
                (_, thaw) => {
                    self.is_in_doubt = true;
                    Ok(thaw)
                }
            };
        }
        let told = self.observer.borrow_mut().before_thaw(&*frozen);
        told.map_err(Error::BeforeThaw)?;
        let thaw = frozen.thaw()?;
        self.is_in_doubt |= !matches!(thaw, Thaw::InTime { .. });
        Ok(thaw)
    }

    fn pass_frozen(&mut self, frozen: &dyn Frozen, mut mounts: Mounts) -> Step<()> {
        let pids = frozen.processes()?;
        if !mounts.is_known() {
            // There may have been nobody as yet.
            mounts = Mounts::find(self.mirror.source_id(), &pids);
        }
        let stop = self.mirror.stop;
        let scan = Scan::new(&pids, &mounts, stop);
        let look = || {
            let scanned = scan.work();
            scanned.map_err(|errno| Halt::from(Error::io("look at", "the processes", errno)))?;
            if stop.is_due() {
                return Err(Halt::stopped(stop));
            }
            Ok(())
        };
        let changed = if pids.len() < WORTH_A_THREAD {
            let changed = self.pass_changes();
            look()?;
            changed
        } else {
            thread::scope(|scope| {
                let helper = scope.spawn(look);
                let changed = self.pass_changes();
                look()?;
                // It only fails when it panicked, which this thread then does too.
                helper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                changed
            })
        };
        let found = scan.into_found();
        let reason = match changed.and_then(|()| self.check(&found, &mounts)) {
            Err(Halt::Feed(reason)) => reason,
            done => return done,
        };
        // Only for this attempt: what made it necessary may be over by the next one.
        tracing::debug!(%reason, "the walk does what the change feed cannot");
        self.mirror.second_pass = SecondPass::Walk { reason };
        self.mirror.walk_round()?;
        match self.mirror.check_open(&found, &mounts) {
            // The walk has seen whatever they changed before they were frozen.
            Err(Halt::Feed(_)) => Ok(()),
            done => done,
        }
    }

    fn pass_changes(&mut self) -> Step<()> {
        if let Some(feed) = &self.mirror.feed {
            let changes = feed.take().map_err(Halt::Feed)?;
            feed.pause(self.mirror.source_root().as_fd());
            self.mirror.second_pass = SecondPass::Feed;
            let earlier = self.mirror.take_touched();
            if let Err(halt) = self.mirror.feed_round(changes) {
                self.mirror.put_touched(earlier);
                return Err(halt);
            }
            self.unreported = self.mirror.verify(earlier)?;
        } else {
            self.mirror.walk_round()?;
        }
        Ok(())
    }

    fn check(&mut self, found: &Found, mounts: &Mounts) -> Step<()> {
        match self.mirror.check_open(found, mounts) {
            Err(Halt::Feed(_)) if self.mirror.feed.is_none() => Ok(()),
            done => done,
        }
    }

    fn report(&self, freeze: Freeze, total: Duration) -> Report {
        let model = &self.mirror.model;
        Report {
            freeze: freeze.took,
            total,
            first_pass: freeze.first_pass,
            copied_bytes: self.mirror.done.bytes,
            frozen_bytes: freeze.bytes,
            files: model.files() as u64,
            directories: model.dirs().filter(|id| model.is_attached(*id)).count() as u64,
            frozen_files: freeze.files,
            rounds: self.rounds,
            attempts: freeze.attempts,
            second_pass: self.mirror.second_pass.clone(),
            unreported: self.unreported,
        }
    }
}
