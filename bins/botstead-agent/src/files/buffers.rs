//! The buffers of a call that sends data: a few, used again and again, because to get memory from the
//! kernel for every chunk costs as much as to fill it.

use botstead_bridge::CHUNK_BYTES;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait for their next use, at most.
const MOST: usize = 10;

/// Buffers of one call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer for one chunk.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop()
            .unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    /// What is in a buffer, as data to send; the buffer comes back when that is done.
    pub(crate) fn data(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Sent {
            buffer,
            home: self.clone(),
        })
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() == CHUNK_BYTES && free.len() < MOST {
            free.push(buffer);
        }
    }
}

struct Sent {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_all_of_its_data_is_dropped() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"data");
        let place = buffer.as_ptr();
        let data = buffers.data(buffer);
        let part = data.slice(1..);
        drop(data);
        let other = buffers.take();
        assert_ne!(other.as_ptr(), place);
        assert_eq!(part, b"ata".as_slice());
        drop(part);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }
}
