//! Unpacking on a thread of its own, so that it goes on while files are written.

use super::READ;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope};

/// How many pieces wait to be taken.
const AHEAD: usize = 4;

/// What another thread reads. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    spare: Sender<Vec<u8>>,
    piece: Vec<u8>,
    taken: usize,
}

impl Ahead {
    pub(crate) fn new<'scope, 'env, R>(
        scope: &'scope Scope<'scope, 'env>,
        from: R,
    ) -> io::Result<Self>
    where
        R: Read + Send + 'scope,
    {
        let (send, pieces) = sync_channel(AHEAD);
        let (spare, back) = channel();
        let thread = Builder::new().name("unpack".to_owned());
        thread.spawn_scoped(scope, move || read(from, &send, &back))?;
        Ok(Self {
            pieces,
            spare,
            piece: Vec::new(),
            taken: 0,
        })
    }
}

/// Reads until the end, a failure, or until nobody takes it.
fn read(mut from: impl Read, send: &SyncSender<io::Result<Vec<u8>>>, back: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = back.try_recv().unwrap_or_default();
        piece.resize(READ, 0);
        let mut filled = 0;
        let mut end = false;
        while filled < READ && !end {
            match from.read(&mut piece[filled..]) {
                Ok(read) => {
                    filled += read;
                    end = read == 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    piece.truncate(filled);
                    // What was read before the failure comes first.
                    let _ = send.send(Ok(piece)).and_then(|()| send.send(Err(error)));
                    return;
                }
            }
        }
        piece.truncate(filled);
        if send.send(Ok(piece)).is_err() || end {
            return;
        }
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.piece.len() {
            let Ok(next) = self.pieces.recv() else {
                return Ok(&[]);
            };
            let old = std::mem::replace(&mut self.piece, next?);
            self.taken = 0;
            // The thread may have ended.
            let _ = self.spare.send(old);
        }
        Ok(&self.piece[self.taken..])
    }

    fn consume(&mut self, bytes: usize) {
        self.taken += bytes;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    struct Failing(usize);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let length = self.0.min(buffer.len()).min(1000);
            buffer[..length].fill(7);
            self.0 -= length;
            Ok(length)
        }
    }

    #[test]
    fn all_is_read_and_then_the_failure() {
        for length in [0, 1, READ, 3 * READ + 5] {
            std::thread::scope(|scope| {
                let mut all = Vec::new();
                let mut ahead = Ahead::new(scope, Cursor::new(vec![9; length])).unwrap();
                ahead.read_to_end(&mut all).unwrap();
                assert_eq!(all, vec![9; length]);
                let mut all = Vec::new();
                let mut ahead = Ahead::new(scope, Failing(length)).unwrap();
                let error = ahead.read_to_end(&mut all).unwrap_err();
                assert_eq!((all.len(), error.kind()), (length, io::ErrorKind::TimedOut));
                // One that nobody reads to its end does not keep the scope open.
                drop(Ahead::new(scope, io::repeat(1)).unwrap());
            });
        }
    }
}
