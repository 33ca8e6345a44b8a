//! gzip on several cores, in pigz's way: blocks are compressed side by side, each with the end of the
//! one before as its dictionary, and end at a byte, so that together they are one member.
//!
//! Not with the crate `gzp`, which does the same: it ends the stream properly also when it is dropped
//! after a failure, so that a broken export would look complete, panics there when the writer
//! fails, and needs a writer that can go to another thread. Here the caller's thread writes.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What is compressed at once. Smaller blocks waste more on dictionaries, larger ones take memory.
const BLOCK: usize = 512 << 10;
/// As far as deflate can look back.
const WINDOW: usize = 32 << 10;

/// Magic, deflate, no flags, no time, no hint, Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

struct Job {
    /// The dictionary and then the block.
    input: Vec<u8>,
    dictionary: usize,
    output: Vec<u8>,
    last: bool,
    done: SyncSender<io::Result<Done>>,
}

struct Done {
    input: Vec<u8>,
    output: Vec<u8>,
    crc: Crc,
}

/// Memory: two blocks for each of twice the threads and two.
pub(crate) struct ParallelGzip<W: Write> {
    out: W,
    pool: Pool,
    /// In their order.
    pending: VecDeque<Receiver<io::Result<Done>>>,
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    input: Vec<u8>,
    dictionary: usize,
    crc: Crc,
}

impl<W: Write> ParallelGzip<W> {
    pub(crate) fn new(mut out: W, level: u32, threads: NonZero<usize>) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self {
            out,
            pool: Pool::new(Compression::new(level.min(9)), threads.get()),
            pending: VecDeque::new(),
            spare: Vec::new(),
            input: Vec::with_capacity(BLOCK + WINDOW),
            dictionary: 0,
            crc: Crc::new(),
        })
    }

    /// Ends the stream and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.send(true)?;
        while !self.pending.is_empty() {
            self.receive()?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Gives the present block to a thread; writes earlier ones when there are too many.
    fn send(&mut self, last: bool) -> io::Result<()> {
        while self.pending.len() >= 2 * self.pool.most + 2 {
            self.receive()?;
        }
        if self.pool.threads.len() <= self.pending.len() {
            self.pool.grow()?;
        }
        let (mut input, output) = self.spare.pop().unwrap_or_default();
        input.clear();
        input.extend_from_slice(&self.input[self.input.len().saturating_sub(WINDOW)..]);
        let dictionary = std::mem::replace(&mut self.dictionary, input.len());
        let (done, receiver) = sync_channel(1);
        let job = Job {
            input: std::mem::replace(&mut self.input, input),
            dictionary,
            output,
            last,
            done,
        };
        self.pool.send(job)?;
        self.pending.push_back(receiver);
        Ok(())
    }

    /// Waits for the oldest block and writes it.
    fn receive(&mut self) -> io::Result<()> {
        let Some(next) = self.pending.pop_front() else {
            return Ok(());
        };
        let done = next.recv().map_err(|_| lost())??;
        self.crc.combine(&done.crc);
        self.out.write_all(&done.output)?;
        self.spare.push((done.input, done.output));
        Ok(())
    }
}

/// The threads that compress, begun when there is work for one more.
struct Pool {
    level: Compression,
    most: usize,
    threads: Vec<JoinHandle<()>>,
    jobs: Option<Sender<Job>>,
    queue: Arc<Mutex<Receiver<Job>>>,
}

impl Pool {
    fn new(level: Compression, most: usize) -> Self {
        let (jobs, queue) = channel();
        Self {
            level,
            most,
            threads: Vec::new(),
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
        }
    }

    fn grow(&mut self) -> io::Result<()> {
        if self.threads.len() < self.most {
            let (queue, level) = (Arc::clone(&self.queue), self.level);
            let thread = Builder::new().name("gzip".to_owned());
            self.threads
                .push(thread.spawn(move || work(&queue, level))?);
        }
        Ok(())
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(lost()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked was reported by its block.
            let _ = thread.join();
        }
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = BLOCK + self.dictionary - self.input.len();
        let taken = space.min(bytes.len());
        self.input.extend_from_slice(&bytes[..taken]);
        if taken == space {
            self.send(false)?;
        }
        Ok(taken)
    }

    /// Writes what is ready; the present block stays until it is full or the end.
    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.receive()?;
        }
        self.out.flush()
    }
}

fn lost() -> io::Error {
    io::Error::other("a thread that compresses ended")
}

fn work(queue: &Mutex<Receiver<Job>>, level: Compression) {
    let mut compress = Compress::new(level, false);
    loop {
        // One thread waits in the receiver, the others for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut job) = job else {
            return;
        };
        let crc = deflate(&mut compress, &mut job);
        let Job { input, output, .. } = job;
        let done = crc.map(|crc| Done { input, output, crc });
        // Nobody waits when the export failed.
        let _ = job.done.send(done);
    }
}

fn deflate(compress: &mut Compress, job: &mut Job) -> io::Result<Crc> {
    let (dictionary, mut block) = job.input.split_at(job.dictionary);
    let mut crc = Crc::new();
    crc.update(block);
    compress.reset();
    if !dictionary.is_empty() {
        compress
            .set_dictionary(dictionary)
            .map_err(io::Error::other)?;
    }
    let flush = match job.last {
        true => FlushCompress::Finish,
        false => FlushCompress::Sync,
    };
    job.output.clear();
    // Room for what cannot be compressed.
    job.output.reserve(block.len() + block.len() / 1000 + 1024);
    loop {
        let before = compress.total_in();
        let status = compress
            .compress_vec(block, &mut job.output, flush)
            .map_err(io::Error::other)?;
        // It never takes more than it was given.
        block = &block[usize::try_from(compress.total_in() - before).unwrap_or(block.len())..];
        let room = job.output.len() < job.output.capacity();
        if status == Status::StreamEnd || (!job.last && block.is_empty() && room) {
            return Ok(crc);
        }
        job.output.reserve(64 << 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn bytes(length: usize) -> Vec<u8> {
        // A mixture of what can be compressed and what cannot.
        let mut state = 1_u32;
        let next = |n: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match n / 5000 % 2 {
                0 => (state >> 24).to_le_bytes()[0],
                _ => b'a' + (state >> 30).to_le_bytes()[0],
            }
        };
        (0..length).map(next).collect()
    }

    fn pack(bytes: &[u8], level: u32, threads: usize) -> Vec<u8> {
        let threads = NonZero::new(threads).unwrap();
        let mut gzip = ParallelGzip::new(Vec::new(), level, threads).unwrap();
        for piece in bytes.chunks(100_001) {
            gzip.write_all(piece).unwrap();
        }
        gzip.finish().unwrap()
    }

    #[test]
    fn one_member_comes_back_whatever_the_length() {
        for length in [0, 1, WINDOW, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7] {
            let bytes = bytes(length);
            for (level, threads) in [(0, 1), (1, 2), (6, 3), (9, 2)] {
                let packed = pack(&bytes, level, threads);
                let mut back = Vec::new();
                let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
                decoder.read_to_end(&mut back).unwrap();
                assert!(decoder.into_inner().is_empty(), "one member only");
                assert!(back == bytes, "{length} bytes at level {level}");
            }
        }
    }

    #[test]
    fn blocks_look_back_into_the_one_before() {
        // Random at the end of a block, and then the same again.
        const LENGTH: usize = WINDOW / 2;
        let mut state = 1_u64;
        let random: Vec<u8> = (0..LENGTH)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56).to_le_bytes()[0]
            })
            .collect();
        let zeros = vec![0; BLOCK - LENGTH];
        let all = [&zeros[..], &random, &random].concat();
        assert!(pack(&all, 6, 2).len() < LENGTH + LENGTH / 8);
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len() {
                10 => Ok(10),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_no_threads() {
        let mut gzip = ParallelGzip::new(Full, 1, NonZero::new(2).unwrap()).unwrap();
        let error = loop {
            if let Err(error) = gzip.write_all(&[0; 100_000]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let queue = Arc::downgrade(&gzip.pool.queue);
        drop(gzip);
        assert!(queue.upgrade().is_none());
    }
}
