//! The agent's ends of a process's streams, on the runtime.

use rustix::io::Errno;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::unix::AsyncFd;

/// The most that is read at once.
pub(super) const READ_BYTES: usize = botstead_bridge::CHUNK_BYTES;

thread_local! {
    /// What is read goes on at once, so one buffer is enough for all processes, and an idle one
    /// needs none.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A pipe's end, or a terminal's, which may be shared.
pub(super) type End = Arc<AsyncFd<OwnedFd>>;

/// Puts a non-blocking descriptor onto the runtime.
pub(super) fn end(descriptor: OwnedFd) -> io::Result<End> {
    Ok(Arc::new(crate::descriptor::register(descriptor)?))
}

/// What a look for data found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes, which were passed on.
    Data(usize),
    Nothing,
    /// Nobody can write any more.
    End,
}

/// Resolves when there may be something to read.
pub(super) async fn readable(end: &End) {
    // It fails only while the runtime ends.
    if let Ok(mut guard) = end.readable().await {
        guard.retain_ready();
    }
}

/// Reads what is there, at most `most` bytes, without waiting, and passes it on.
pub(super) fn read(end: &End, most: usize, take: impl FnOnce(&[u8])) -> Read {
    BUFFER.with_borrow_mut(|buffer| {
        let most = most.clamp(1, buffer.len());
        let result = end.try_io(tokio::io::Interest::READABLE, |descriptor| {
            Ok(rustix::io::retry_on_intr(|| {
                rustix::io::read(descriptor, &mut buffer[..most])
            })?)
        });
        match result {
            Ok(0) => Read::End,
            Ok(count) => {
                take(&buffer[..count]);
                Read::Data(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            // EIO is how a terminal that nobody has open ends; anything else will not go away.
            Err(_) => Read::End,
        }
    })
}

/// Writes everything, waiting for room, and counts what was taken.
///
/// # Errors
/// `EIO` also for a terminal that nobody has open any more and whose input is full: it is ready for ever,
/// and takes nothing.
pub(super) async fn write_all(
    end: &End,
    mut data: &[u8],
    taken: &AtomicU64,
) -> rustix::io::Result<()> {
    let took = |data: &mut &[u8], count: usize| {
        *data = &data[count..];
        taken.fetch_add(count as u64, Ordering::Relaxed);
    };
    // Without a look first: what discards input tells nobody that there is room again.
    match rustix::io::write(end.get_ref(), data) {
        Ok(count) => took(&mut data, count),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    while !data.is_empty() {
        let mut guard = end.writable().await.map_err(|_| Errno::IO)?;
        let closed = guard.ready().is_write_closed();
        let result = guard.try_io(|end| Ok(rustix::io::write(end.get_ref(), data)?));
        match result {
            Ok(Ok(count)) => took(&mut data, count),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            Err(_would_block) if closed => return Err(Errno::IO),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
