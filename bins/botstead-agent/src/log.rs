//! Lines to standard error, for whoever started the agent.
//!
//! Nobody need read that pipe, and what happens inside a workspace may make the agent write often.
//! A line that has no room is dropped: the agent never waits for its reader.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::Arguments;

/// A pipe that polls as writable takes this many bytes at once (`PIPE_BUF`, pipe(7)).
const LONGEST: usize = 4096;

/// Writes a line.
pub(crate) fn line(text: Arguments<'_>) {
    let mut line = format!("botstead-agent: {text}").into_bytes();
    line.truncate(LONGEST - 1);
    line.push(b'\n');
    let stderr = rustix::stdio::stderr();
    let mut descriptors = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if matches!(poll(&mut descriptors, Some(&now)), Ok(1))
        && descriptors[0].revents().contains(PollFlags::OUT)
    {
        // There is nowhere to report a failure to report.
        let _ = rustix::io::write(stderr, &line);
    }
}

/// `report!("cannot ...: {error}")`
macro_rules! report {
    ($($argument:tt)*) => {
        $crate::log::line(format_args!($($argument)*))
    };
}
pub(crate) use report;
