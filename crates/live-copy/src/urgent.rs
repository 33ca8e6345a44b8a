//! Running before others for a moment: while processes are frozen, every other process of a busy host
//! would make them wait longer.

use rustix::process::{getpriority_process, setpriority_process};

/// The highest priority of ordinary threads (sched(7)).
const FIRST: i32 = -20;

/// The calling thread, and threads that it starts, run before others until this is dropped. By the same
/// thread: nothing else makes sense. Where it is not allowed, nothing happens.
#[derive(Debug)]
pub(crate) struct Urgent {
    before: Option<i32>,
}

impl Urgent {
    pub(crate) fn begin() -> Self {
        // On Linux this concerns the thread, not the process.
        let before = getpriority_process(None).ok();
        let set = before.filter(|_| setpriority_process(None, FIRST).is_ok());
        Self { before: set }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // To a lower priority everybody may go.
            let _ = setpriority_process(None, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_a_moment_and_for_this_thread() {
        let before = own();
        let urgent = Urgent::begin();
        assert_eq!(own(), FIRST, "these tests need root");
        assert_eq!(std::thread::spawn(own).join().unwrap(), FIRST);
        drop(urgent);
        assert_eq!(own(), before);
    }

    fn own() -> i32 {
        getpriority_process(None).unwrap()
    }
}
