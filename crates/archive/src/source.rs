//! The file that holds an archive: its own failures are told apart from damage to what is in it.

use std::io::{self, ErrorKind, Read};

/// Reads from a file for a decoder. Decoders hand its errors on among their own.
#[derive(Debug)]
pub(crate) struct Source<R>(pub(crate) R);

/// A failure of the file itself.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failure(io::Error);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read.map_err(|error| io::Error::other(Failure(error))),
            }
        }
    }
}

/// The file's own failure, or else what a decoder says of the content.
pub(crate) fn failure(error: io::Error) -> Result<io::Error, io::Error> {
    error.downcast::<Failure>().map(|failure| failure.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from(ErrorKind::TimedOut))
        }
    }

    #[test]
    fn a_files_failure_comes_through_the_decoders() {
        let mut gzip = flate2::bufread::MultiGzDecoder::new(BufReader::new(Source(Broken)));
        let error = gzip.read(&mut [0]).unwrap_err();
        assert_eq!(failure(error).unwrap().kind(), ErrorKind::TimedOut);
        let mut zstd = zstd::Decoder::new(Source(Broken)).unwrap();
        let error = zstd.read(&mut [0]).unwrap_err();
        assert_eq!(failure(error).unwrap().kind(), ErrorKind::TimedOut);
        let mut damaged = zstd::Decoder::new(b"no archive".as_slice()).unwrap();
        assert!(failure(damaged.read(&mut [0]).unwrap_err()).is_err());
    }
}
