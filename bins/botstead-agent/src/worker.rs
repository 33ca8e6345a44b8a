//! Threads of the agent, all of them started at boot.
//!
//! A workspace at its limit of processes cannot start a thread either, and that is when its owner
//! needs the agent most. So the pool for blocking calls is filled at once and never shrinks, and
//! starting processes, ending their trees, and listing and signalling them have a thread each, which no slow
//! disk of a file operation can take from them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Threads for blocking calls.
const BLOCKING: usize = 6;
/// Longer than any workspace lives. `Duration::MAX` would overflow the clock.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Enough for directory walks and parsers; only what is used is resident.
const STACK_BYTES: usize = 1 << 20;

/// The runtime: everything but blocking calls on the calling thread.
///
/// # Errors
/// No thread could be started.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(FOR_EVER)
        .thread_stack_size(STACK_BYTES)
        .thread_name("blocking")
        .build()?;
    // Each of these waits for all others, so the pool has to start every thread.
    let barrier = Arc::new(Barrier::new(BLOCKING));
    runtime.block_on(async {
        let mut waiting = Vec::new();
        for _ in 0..BLOCKING {
            let barrier = Arc::clone(&barrier);
            waiting.push(tokio::task::spawn_blocking(move || {
                barrier.wait();
            }));
        }
        for one in waiting {
            one.await.map_err(std::io::Error::other)?;
        }
        Ok::<_, std::io::Error>(())
    })?;
    Ok(runtime)
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one job after another.
#[derive(Debug, Clone)]
pub(crate) struct Worker(mpsc::Sender<Job>);

/// The job panicked; the hook has told of it.
#[derive(Debug)]
pub(crate) struct Panicked;

impl Worker {
    /// Starts the thread. It ends with the last clone.
    pub(crate) fn start(name: &str) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                for job in jobs {
                    // What a job leaves behind is in its own hands; the caller sees that the
                    // answer is missing.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        Ok(Self(sender))
    }

    /// Does a job on the thread and waits for its result. The job is done even when the caller
    /// stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (tell, done) = oneshot::channel();
        let job = Box::new(move || {
            let _ = tell.send(job());
        });
        self.0.send(job).map_err(|_| Panicked)?;
        done.await.map_err(|_| Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_does_not_end_its_worker() {
        let runtime = runtime().unwrap();
        let worker = Worker::start("test").unwrap();
        runtime.block_on(async {
            assert!(worker.run(|| panic!("as planned")).await.is_err());
            assert_eq!(worker.run(|| 7).await.unwrap(), 7);
        });
    }

    #[test]
    fn every_thread_is_there_at_once_and_no_more_come() {
        let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let runtime = runtime().unwrap();
        let before = count();
        assert!(before >= BLOCKING, "{before}");
        runtime.block_on(async {
            let many = (0..50)
                .map(|_| tokio::task::spawn_blocking(|| thread::sleep(Duration::from_millis(2))));
            for one in many.collect::<Vec<_>>() {
                one.await.unwrap();
            }
        });
        let named = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter(|task| {
                let name = task.as_ref().unwrap().path().join("comm");
                std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "blocking")
            });
        // Other tests of this process may have a pool of their own.
        assert!(named.count().is_multiple_of(BLOCKING));
    }
}
