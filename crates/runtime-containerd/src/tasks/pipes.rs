//! The named pipes through which the shim passes a command's input and outputs.

use bytes::Bytes;
use std::io::Result;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

/// A folder with the pipes of one command, removed when dropped.
#[derive(Debug)]
pub(super) struct Pipes {
    folder: PathBuf,
    input: Option<Sender>,
    /// The outputs' readable sides once more.
    outputs: Vec<OwnedFd>,
}

impl Pipes {
    /// Makes the pipes and opens this side of them, which must happen before the command starts.
    /// Without `input` the command reads from `/dev/null`.
    pub(super) fn make(folder: PathBuf, input: bool) -> Result<(Self, Receiver, Receiver)> {
        std::fs::create_dir_all(&folder)?;
        let mut pipes = Self {
            folder,
            input: None,
            outputs: Vec::new(),
        };
        let make = |name: &str| -> Result<PathBuf> {
            let path = pipes.folder.join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
            Ok(path)
        };
        let out = OpenOptions::new().open_receiver(make("out")?)?;
        let err = OpenOptions::new().open_receiver(make("err")?)?;
        for output in [&out, &err] {
            pipes.outputs.push(output.as_fd().try_clone_to_owned()?);
        }
        if input {
            // Read and write: it opens although the shim did not open its side yet.
            let sender = OpenOptions::new()
                .read_write(true)
                .open_sender(make("in")?)?;
            pipes.input = Some(sender);
        }
        Ok((pipes, out, err))
    }

    /// A pipe's path as containerd wants it; empty for an input that there is not.
    pub(super) fn path(&self, name: &str) -> String {
        if name == "in" && self.input.is_none() {
            return String::new();
        }
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// Holds the outputs open no longer. Until the shim opened its sides somebody must: its start of
    /// a command without readers hangs for half a minute, fails, and leaves a process that it does not
    /// know.
    pub(super) fn started(&mut self) {
        self.outputs.clear();
    }

    /// This side of the input.
    pub(super) fn take_input(&mut self) -> Option<Sender> {
        self.input.take()
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Writes everything, and closes once the shim took it: before that nobody else may hold the pipe
/// open, and what is in it would be lost.
pub(super) async fn write(mut pipe: Sender, input: &Bytes) -> Result<()> {
    pipe.write_all(input).await?;
    let mut pause = Duration::from_micros(200);
    while rustix::io::ioctl_fionread(&pipe)? > 0 {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// What was read of an output.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) kept: Vec<u8>,
    pub(super) truncated: bool,
}

/// Reads to the end and keeps at most `limit` bytes.
pub(super) async fn read(mut pipe: Receiver, limit: usize, output: &mut Output) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = limit.saturating_sub(output.kept.len()).min(count);
        output.kept.extend_from_slice(&buffer[..room]);
        output.truncated |= room < count;
    }
}

/// Where a command's pipes are.
pub(super) fn folder(state_root: &Path, exec: &str) -> PathBuf {
    state_root.join("exec").join(exec)
}
