//! Exports over HTTP, and tar with a compressor on the same tree.

use crate::api::Api;
use crate::paired::{Pair, WARM_UP};
use crate::server::IMAGE;
use crate::stats::{Samples, timed};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// What a directory of the tree holds: text of programs' kind, and what cannot be packed.
const TREE: &str = "\
set -e
mkdir -p /data/tree && cd /data/tree
dd if=/dev/urandom bs=1M count=RANDOM of=random 2>/dev/null
seq 1 40000 > numbers
n=0
while [ $n -lt FOLDERS ]; do
  mkdir $n; cd $n; f=0
  while [ $f -lt 50 ]; do
    { echo $n $f; tail -c +$((n * 37 + f * 11 + 1)) ../numbers | head -c 6000; } > $f
    f=$((f + 1))
  done
  n=$((n + 1)); cd ..
done
";

/// One format: the server's export and the pipe.
#[derive(Debug)]
pub(crate) struct Export {
    /// Whether the workspace runs, so that it is copied first; else it equals its version.
    pub(crate) running: bool,
    pub(crate) pipe: &'static str,
    /// Bytes of the unpacked archive.
    pub(crate) size: u64,
    /// Until the archive begins to come.
    pub(crate) before: Samples,
    /// From then on, against the pipe.
    pub(crate) stream: Pair,
    /// All of the call, against the same with the tools: `cp -a` first where the workspace runs.
    pub(crate) whole: Pair,
    /// Bytes of the archives.
    pub(crate) packed: u64,
    pub(crate) pipe_packed: u64,
}

/// Makes the tree, exports it, and packs the export's own content on the host.
pub(crate) async fn measure(api: &Api, quick: bool, rounds: usize) -> Result<Vec<Export>> {
    let bot = api.new_bot().await?;
    api.create(&bot, IMAGE).await?;
    let (random, folders) = if quick { ("8", "20") } else { ("100", "400") };
    let script = TREE.replace("RANDOM", random).replace("FOLDERS", folders);
    api.shell(&bot, &script).await?;
    let host = tempfile::Builder::new()
        .prefix("botstead-bench-")
        .tempdir_in("/var/tmp")?;
    let archive = host.path().join("export.tar.gz");
    let file = std::fs::File::create(&archive)?;
    api.export(&bot, "tar.gz", file).await?;
    shell(host.path(), "tar -xzf export.tar.gz").await?;
    let size = shell(host.path(), "tar -cf - data | wc -c").await?;
    let mut found = Vec::new();
    let formats = [("tar.gz", "pigz"), ("tar.zst", "zstd")];
    for (running, (format, program)) in [true, false]
        .into_iter()
        .flat_map(|running| formats.map(|format| (running, format)))
    {
        match running {
            true => api.start(&bot).await?,
            false => {
                api.stop(&bot).await?;
                api.snapshot_by(&bot, "stop").await?;
            }
        }
        let line = format!("tar -cf - data | {program} -c | wc -c");
        let mut export = Export {
            running,
            pipe: program,
            size,
            before: Samples::default(),
            stream: Pair::default(),
            whole: Pair::default(),
            packed: 0,
            pipe_packed: 0,
        };
        for round in 0..WARM_UP + rounds {
            // Neither side waits for what the other has left to be written.
            shell(host.path(), "sync").await?;
            let exported = timed(api.export(&bot, format, std::io::sink())).await?;
            let (server, (before, packed)) = exported;
            let mut tools = Duration::ZERO;
            if running {
                // Each stays for now: ext4 is slow where many files were deleted shortly before.
                let copy = format!("cp -a data copy-{round}");
                tools = timed(shell(host.path(), &copy)).await?.0;
            }
            let (pipe, pipe_packed) = timed(shell(host.path(), &line)).await?;
            if round >= WARM_UP {
                export.before.add(before);
            }
            export.stream.add(round, server - before, pipe);
            export.whole.add(round, server, tools + pipe);
            (export.packed, export.pipe_packed) = (packed, pipe_packed);
        }
        shell(host.path(), "rm -rf copy-*").await?;
        found.push(export);
    }
    api.delete_bot(&bot).await?;
    Ok(found)
}

/// Runs a line that prints a number, or nothing.
async fn shell(folder: &Path, line: &str) -> Result<u64> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(folder);
    let output = command.output().await.context("cannot start /bin/sh")?;
    if !output.status.success() {
        bail!("`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    match text.trim() {
        "" => Ok(0),
        number => {
            let number = number.parse()?;
            ensure!(number > 0, "`{line}` packed nothing");
            Ok(number)
        }
    }
}
