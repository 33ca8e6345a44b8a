//! Exports and imports of one tree, ours and `tar`'s with `pigz` or `zstd`, in turns, in one run.
//!
//! Made to be taken over by `bench` with `#[path]`: nothing here prints.

use botstead_archive::{
    ApplyMode, CheckOptions, Compression, ExportOptions, Ownership, Progress, check, export,
};
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A tree to measure with.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub files: u64,
    /// Bytes of each on the average.
    pub size: u64,
}

/// About 500 MiB each.
pub const SHAPES: [Shape; 2] = [
    Shape {
        name: "20,000 small files",
        files: 20_000,
        size: 26 << 10,
    },
    Shape {
        name: "5 large files",
        files: 5,
        size: 100 << 20,
    },
];

/// Makes a tree in an empty directory: text of words, as logs and sources are, and for each fourth
/// file what cannot be compressed.
pub fn make(root: &Path, shape: Shape) -> Result<u64> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let words: Vec<Vec<u8>> = (0..4000)
        .map(|_| {
            let length = 2 + next() % 9;
            (0..length)
                .map(|_| b'a' + (next() % 26).to_le_bytes()[0])
                .collect()
        })
        .collect();
    let mut bytes = 0;
    for number in 0..shape.files {
        let folder = root.join(format!("d{}/e{}", number % 20, number % 400));
        fs::create_dir_all(&folder)?;
        let mut file =
            BufWriter::with_capacity(1 << 20, File::create(folder.join(number.to_string()))?);
        // Small files differ in size.
        let size = if shape.files > 100 {
            1 + next() % (2 * shape.size)
        } else {
            shape.size
        };
        let mut written = 0;
        while written < size {
            let piece = match number % 4 {
                3 => next().to_le_bytes().to_vec(),
                _ => {
                    // Some words are much more frequent than others.
                    let most = 1 << (4 + next() % 8);
                    let word = &words[usize::try_from(next() % most)?];
                    let end = if next() % 12 == 0 { b'\n' } else { b' ' };
                    [word, &[end][..]].concat()
                }
            };
            file.write_all(&piece)?;
            written += piece.len() as u64;
        }
        file.flush()?;
        bytes += written;
    }
    rustix::fs::sync();
    Ok(bytes)
}

/// How long each took, and how much of the processors, in the order of the rounds; and how large the
/// archives are.
#[derive(Debug, Default)]
pub struct Measured {
    pub ours: Vec<Cost>,
    pub theirs: Vec<Cost>,
    pub our_bytes: u64,
    pub their_bytes: u64,
}

impl Measured {
    /// Their median time divided by ours: above 1, ours is faster.
    pub fn ratio(&self) -> f64 {
        median(&self.theirs).elapsed.as_secs_f64() / median(&self.ours).elapsed.as_secs_f64()
    }

    /// The same of the processors' time, which says more on a machine with other work.
    pub fn cpu_ratio(&self) -> f64 {
        median(&self.theirs).cpu.as_secs_f64() / median(&self.ours).cpu.as_secs_f64()
    }
}

/// What a run took.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cost {
    pub elapsed: Duration,
    /// Of all threads and child processes, in the kernel as well.
    pub cpu: Duration,
}

/// The median of each.
pub fn median(costs: &[Cost]) -> Cost {
    let middle = |of: fn(&Cost) -> Duration| {
        let mut times: Vec<_> = costs.iter().map(of).collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    Cost {
        elapsed: middle(|cost| cost.elapsed),
        cpu: middle(|cost| cost.cpu),
    }
}

struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Result<Self> {
        Ok(Self(Instant::now(), cpu()?))
    }

    fn stop(&self) -> Result<Cost> {
        Ok(Cost {
            elapsed: self.0.elapsed(),
            cpu: cpu()? - self.1,
        })
    }
}

/// The processors' time that this process and its ended children used (proc_pid_stat(5)).
fn cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks = ticks
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()?;
    Ok(Duration::from_millis(
        ticks * 1000 / rustix::param::clock_ticks_per_second(),
    ))
}

/// The program that compresses, as `tar` starts it, and that it is undone with.
fn programs(compression: Compression) -> (&'static str, &'static str) {
    match compression {
        Compression::Zstd { .. } => ("zstd -T0 -q", "zstd -dcq"),
        _ => ("pigz", "pigz -dc"),
    }
}

/// Exports to files in `scratch`, which are left there for [`imports`].
pub fn exports(
    tree: &Path,
    scratch: &Path,
    compression: Compression,
    rounds: u32,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let (ours, theirs) = archives(scratch);
    let mut options = ExportOptions::new("data");
    options.compression = compression;
    for round in 0..rounds {
        // Neither is always the first.
        for turn in [round % 2, (round + 1) % 2] {
            let clock = Clock::start()?;
            if turn == 0 {
                export(
                    File::open(tree)?,
                    File::create(&ours)?,
                    &options,
                    &Progress::new(),
                )?;
                measured.ours.push(clock.stop()?);
            } else {
                let (pack, _) = programs(compression);
                shell(&format!(
                    "tar -C {} -c . | {pack} > {}",
                    tree.display(),
                    theirs.display()
                ))?;
                measured.theirs.push(clock.stop()?);
            }
        }
    }
    measured.our_bytes = fs::metadata(ours)?.len();
    measured.their_bytes = fs::metadata(theirs)?.len();
    Ok(measured)
}

/// Imports of our archive into an empty directory: checked and applied, against unpacked by `tar`.
/// Removing what was there before is not counted, nor is any syncing.
pub fn imports(scratch: &Path, compression: Compression, rounds: u32) -> Result<Measured> {
    let mut measured = Measured::default();
    let (archive, _) = archives(scratch);
    let to = scratch.join("to");
    for round in 0..rounds {
        for turn in [round % 2, (round + 1) % 2] {
            if to.exists() {
                fs::remove_dir_all(&to)?;
            }
            fs::create_dir(&to)?;
            rustix::fs::sync();
            let clock = Clock::start()?;
            if turn == 0 {
                let progress = Progress::new();
                let mut checked = check(File::open(&archive)?, &CheckOptions::new(), &progress)?;
                checked.apply(
                    File::open(&to)?,
                    ApplyMode::Merge,
                    Ownership::ARCHIVE,
                    &progress,
                )?;
                measured.ours.push(clock.stop()?);
            } else {
                let (_, unpack) = programs(compression);
                shell(&format!(
                    "{unpack} {} | tar -C {} -xp",
                    archive.display(),
                    to.display()
                ))?;
                measured.theirs.push(clock.stop()?);
            }
        }
    }
    measured.our_bytes = fs::metadata(&archive)?.len();
    measured.their_bytes = measured.our_bytes;
    Ok(measured)
}

fn archives(scratch: &Path) -> (PathBuf, PathBuf) {
    (scratch.join("ours"), scratch.join("theirs"))
}

fn shell(line: &str) -> Result<()> {
    let status = Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .status()?;
    if !status.success() {
        return Err(format!("`{line}` failed; it needs tar, pigz and zstd").into());
    }
    Ok(())
}
