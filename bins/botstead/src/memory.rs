//! Giving memory back to the system.
//!
//! The C library's allocator keeps most of what load took. It makes an arena for every few threads, and
//! each of them shrinks from its end only, where something of long life lies; and with every large block
//! that is freed it raises the size from which blocks are mapped by themselves. So there are two arenas,
//! large blocks are always mapped, and what is free inside is given back every few seconds: measured
//! under transfers and exports, 73 MiB were left of 162 instead of 278 of 395.

use std::io;
use std::time::Duration;

/// How often memory is given back; when there is none to give, that takes some microseconds.
const EVERY: Duration = Duration::from_secs(10);

/// Settles how the process allocates. Call it before there are other threads.
pub fn settle() {
    glibc::settle();
}

/// Gives memory back from now on, on a thread of its own.
///
/// # Errors
/// When there can be no more threads.
pub fn give_back() -> io::Result<()> {
    let thread = std::thread::Builder::new().name("memory".to_owned());
    let thread = thread.spawn(|| {
        loop {
            std::thread::sleep(EVERY);
            glibc::trim();
        }
    });
    thread.map(drop)
}

#[cfg(target_env = "gnu")]
mod glibc {
    #![allow(unsafe_code, reason = "no crate has safe calls for these")]

    const ARENAS: i32 = 2;
    /// The allocator's own first threshold; once it is set, it stays.
    const LARGE: i32 = 128 << 10;

    pub(super) fn settle() {
        // SAFETY: mallopt(3) takes two numbers and changes the allocator's settings under its lock.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        }
    }

    pub(super) fn trim() {
        // SAFETY: malloc_trim(3) takes a number and releases pages of blocks that are free, those of
        // each arena under its lock.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(target_env = "gnu"))]
mod glibc {
    pub(super) fn settle() {}

    pub(super) fn trim() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of the process is in memory, in KiB (proc_pid_status(5)).
    fn resident() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// Small blocks of many threads, and behind them one that stays: what load leaves.
    #[cfg(target_env = "gnu")]
    #[test]
    fn what_is_free_is_given_back() {
        settle();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| {
                    let blocks: Vec<_> = (0..20_000).map(|_| Box::new([1_u8; 1000])).collect();
                    let last = Box::new([1_u8; 1000]);
                    drop(blocks);
                    last
                })
            })
            .collect();
        let kept: Vec<_> = threads.into_iter().map(|one| one.join().unwrap()).collect();
        glibc::trim();
        let after = resident();
        assert_eq!(kept.len(), 8);
        assert!(after < 100 << 10, "{after} KiB of 160 MB that were freed");
    }
}
