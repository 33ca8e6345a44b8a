//! Copying many files at once, on two processors.
//!
//! Names, links and directories are made one after the other; only the content of regular files, with
//! their metadata, waits for this: while everybody stands still all of it, before that what is new.

use super::copier::{Copied, Copier, How};
use super::{Fault, Mirror, Name};
use crate::dirs::is_gone;
use crate::halt::{Halt, Step};
use crate::model::{DirId, Model};
use crate::stop::Stop;
use rustix::fd::AsFd;
use rustix::fs::Statx;
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What a thread takes at once.
const AT_ONCE: usize = 8;
/// Less is done faster than a thread is started.
const WORTH_A_THREAD: usize = 32;
/// The same for the bytes of all files together.
const WORTH_BYTES: u64 = 4 << 20;

/// As many wait while the processes run.
const MOST_WAITING: usize = 256;
/// Larger ones do not wait then: who follows the progress shall see some.
pub(super) const LARGE: u64 = WORTH_BYTES;

/// A regular file to copy.
#[derive(Debug)]
pub(super) struct Job {
    name: Name,
    stat: Statx,
    is_new: bool,
}

impl Job {
    pub(super) fn new(dir: DirId, name: &CStr, stat: &Statx, is_new: bool) -> Self {
        Self {
            name: (dir, name.into()),
            stat: *stat,
            is_new,
        }
    }
}

/// A job by its place in the list, and how it went.
type Outcome = (usize, Result<Copied, Fault>);

impl Mirror<'_> {
    /// Copies what waits, if that is much. For the time while the processes run.
    pub(super) fn copy_many_waiting(&mut self) -> Step<()> {
        if self.is_frozen || self.jobs.len() < MOST_WAITING {
            return Ok(());
        }
        self.copy_waiting()
    }

    /// Copies what waits. When everybody stands still all names must be right: only then is every
    /// directory where the model has it.
    pub(super) fn copy_waiting(&mut self) -> Step<()> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let mut jobs: Vec<_> = self.jobs.drain().map(|(_, job)| job).collect();
        // Those of one directory together.
        jobs.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut outcomes: Vec<_> = jobs.iter().map(|_| None).collect();
        for (at, outcome) in self.in_threads(&jobs) {
            outcomes[at] = Some(outcome);
        }
        let mut failure = None;
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            let ino = job.stat.stx_ino;
            let halt = match outcome {
                Some(Ok(copied)) => {
                    if let Some(file) = self.model.file_mut(ino) {
                        file.seen = copied.seen;
                    }
                    self.note_copied(ino, copied);
                    continue;
                }
                Some(Err(Fault::Source(_, errno))) if is_gone(errno) && self.is_frozen => {
                    Err(self.inconsistent(job.name.0, &job.name.1, errno))
                }
                Some(Err(fault)) => self.met(job.name.0, &job.name.1, fault),
                None => Err(Halt::stopped(self.stop)),
            };
            failure = failure.or(halt.err());
            self.drop_job(job);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Leaves what waits to a round to come.
    pub(super) fn drop_waiting(&mut self) {
        for (_, job) in std::mem::take(&mut self.jobs) {
            self.drop_job(job);
        }
    }

    /// Whether there is nothing yet in the target of a file that the model has.
    pub(super) fn is_to_come(&self, ino: u64) -> bool {
        self.jobs.get(&ino).is_some_and(|job| job.is_new)
    }

    fn drop_job(&mut self, job: Job) {
        if job.is_new {
            // There is nothing of it in the target.
            self.model.unlink(job.name.0, &job.name.1);
        }
        self.again.insert(job.name);
    }

    fn in_threads(&mut self, jobs: &[Job]) -> Vec<Outcome> {
        let (model, stop, is_frozen) = (&self.model, self.stop, self.is_frozen);
        let next = AtomicUsize::new(0);
        let work = |copier: &mut Copier| work(copier, model, jobs, is_frozen, &next, stop);
        let bytes: u64 = jobs.iter().map(|job| job.stat.stx_size).sum();
        let is_small = jobs.len() < WORTH_A_THREAD && bytes < WORTH_BYTES;
        if is_small || jobs.len() == 1 {
            return work(&mut self.copier);
        }
        let (source, target) = (self.copier.source.root(), self.copier.target.root());
        let other = Copier::again(source.as_fd(), target.as_fd());
        // Without it, this thread does all.
        let Ok(mut other) = other else {
            return work(&mut self.copier);
        };
        let own = &mut self.copier;
        thread::scope(|scope| {
            let helper = scope.spawn(|| work(&mut other));
            let mut outcomes = work(own);
            // It only fails when it panicked, which this thread then does too.
            let others = helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcomes.extend(others);
            outcomes
        })
    }
}

/// Does jobs until none is left, or time is up.
fn work(
    copier: &mut Copier,
    model: &Model,
    jobs: &[Job],
    is_frozen: bool,
    next: &AtomicUsize,
    stop: Stop<'_>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    loop {
        let start = next.fetch_add(AT_ONCE, Ordering::Relaxed);
        for at in start..start + AT_ONCE {
            let Some(job) = jobs.get(at).filter(|_| !stop.is_due()) else {
                return outcomes;
            };
            let how = How {
                is_frozen,
                is_new: job.is_new,
            };
            let place = (job.name.0, &*job.name.1);
            outcomes.push((at, copier.regular(model, place, &job.stat, how, &stop)));
        }
    }
}
