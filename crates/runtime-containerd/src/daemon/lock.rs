//! One server per data directory.

use super::DaemonError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A server that was told to end may still hold the lock while its successor starts.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lock on a data directory; the kernel frees it with the last reference, also when the
/// server is killed. containerd does not inherit it: the descriptor is closed on exec.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) async fn acquire(path: &Path) -> Result<Self, DaemonError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(DaemonError::file("open", path))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    // Who holds it is told as far as it can be learnt.
                    let _ = file.read_to_string(&mut text);
                    return Err(DaemonError::Locked {
                        path: path.to_owned(),
                        holder: text.trim().parse().ok(),
                    });
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(DaemonError::file("lock", path)(error.into())),
            }
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(DaemonError::file("write", path))?;
        Ok(Self { _file: file })
    }
}
