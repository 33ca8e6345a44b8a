//! The helper process that thaws if this program cannot: it dies, or takes too long.
//!
//! What the helper does is in `bins/botstead-agent/src/thaw_guard.rs`. It does one of two things and
//! tells which: so an answer that it has not written means that it had not by the time that it was asked.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the helper may take to begin, or to end when asked. Usually a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// How long processes may stay frozen.
const DEFAULT_LIMIT: Duration = Duration::from_secs(2);

/// Which program guards, and how long it waits before it thaws.
#[derive(Debug, Clone)]
pub struct Guard {
    program: PathBuf,
    limit: Duration,
}

impl Guard {
    /// `program` is Botstead's agent, a static program. It thaws after 2 seconds.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// Thaws after another time, which counts from before the freeze. Milliseconds are what counts.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts it, and returns when it is ready to write `text` into `file`.
    pub(super) fn start(&self, file: &Path, text: &str) -> io::Result<Watching> {
        let until = Instant::now() + self.limit;
        let mut child = Command::new(&self.program)
            .arg("thaw-guard")
            .arg("--file")
            .arg(file)
            .args(["--write", text, "--after-ms"])
            .arg(self.limit.as_millis().to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take();
        let mut watching = Watching {
            child,
            input,
            until,
        };
        watching.wait_until_armed()?;
        Ok(watching)
    }
}

/// A helper that is ready to thaw. Dropped, it does.
#[derive(Debug)]
pub(super) struct Watching {
    child: Child,
    input: Option<ChildStdin>,
    /// Not before this does it thaw by itself: it has begun to count later than we.
    pub(super) until: Instant,
}

impl Watching {
    fn wait_until_armed(&mut self) -> io::Result<()> {
        let Some(mut output) = self.child.stdout.take() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let deadline = Instant::now() + PATIENCE;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&output, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let mut byte = [0];
            if output.read(&mut byte)? == 0 {
                let status = self.child.wait()?;
                return Err(io::Error::other(format!("it ended at once, with {status}")));
            }
            line.push(byte[0]);
        }
        if line != b"armed\n" {
            return Err(io::Error::other("it answers something else than `armed`"));
        }
        Ok(())
    }

    /// Calls it off; false when it has, or may have, thawed before.
    pub(super) fn call_off(mut self) -> bool {
        let told = self.input.take().map(|mut input| {
            let told = input.write_all(b"x");
            // Not before it has read: it would find the end of its input.
            (told, input)
        });
        let Some((Ok(()), _input)) = told else {
            return false;
        };
        matches!(self.wait(), Some(0))
    }

    /// Its exit code; absent when it was killed or does not end, after which it is.
    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.code(),
                Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                Ok(None) | Err(_) => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    return None;
                }
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // At the end of its input it thaws.
        drop(self.input.take());
        self.wait();
    }
}
