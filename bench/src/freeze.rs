//! How long a live copy stands everybody still, by the size of the tree and by what is dirty, with the
//! change feed and with the walk.

use crate::stats::Samples;
use anyhow::{Context, Result, bail, ensure};
use botstead_live_copy::measure::{Dirty, Scene};
use botstead_live_copy::{
    ChangeFeed, Error as CopyError, Guard, Options, Reason, Report, SecondPass,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// Where control groups with a freezer are: v1, v2.
const FREEZERS: [&str; 2] = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup"];

/// What is dirty, and the most, in ms, that the feed and the walk may take for it.
struct Case {
    name: &'static str,
    dirty: Dirty,
    feed_most: Option<f64>,
    walk_most: Option<f64>,
}

/// The walk has its target up to so many files.
const WALK_FILES: usize = 20_000;

const CASES: [Case; 3] = [
    Case {
        name: "10 files",
        dirty: Dirty {
            files: 10,
            bytes: 6000,
        },
        feed_most: Some(10.0),
        walk_most: Some(60.0),
    },
    Case {
        name: "1,000 files",
        dirty: Dirty {
            files: 1000,
            bytes: 6000,
        },
        feed_most: Some(40.0),
        walk_most: None,
    },
    Case {
        name: "200 MB",
        dirty: Dirty {
            files: 50,
            bytes: 4_000_000,
        },
        feed_most: None,
        walk_most: None,
    },
];

/// One case.
#[derive(Debug)]
pub(crate) struct Freeze {
    pub(crate) files: usize,
    pub(crate) dirty: &'static str,
    pub(crate) feed: Pass,
    pub(crate) walk: Pass,
}

/// One way to find the last changes.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    pub(crate) freeze: Samples,
    pub(crate) total: Samples,
    /// The most, in ms, that 95 % of the freezes may take; where there is a target.
    pub(crate) most: Option<f64>,
    /// Why there are no figures.
    pub(crate) failed: Option<String>,
}

/// Measures trees of these many files, each so many times, on filesystems of their own, until `stop` is
/// set.
pub(crate) fn measure(
    agent: PathBuf,
    sizes: &[(usize, usize)],
    stop: &AtomicBool,
) -> Result<Vec<Freeze>> {
    let guard = Guard::new(agent);
    let root = FREEZERS.into_iter().find(|root| Path::new(root).is_dir());
    let root = root.context("there are no control groups")?;
    let group = Path::new(root).join(format!("botstead-bench-{}", std::process::id()));
    let mut found = Vec::new();
    for (files, times) in sizes {
        for case in CASES {
            let pass = |second_pass| -> Result<Pass> {
                let disk = Disk::mount()?;
                if let Err(reason) = ChangeFeed::probe(&disk.target()) {
                    bail!("the change feed cannot be used here: {reason}");
                }
                let mut scene = Scene::new(&disk.target(), &group, *files)?;
                scene.start_writer(case.dirty)?;
                let options = Options {
                    second_pass,
                    ..Options::default()
                };
                let copies = scene.copies(&options, &guard, *times, stop);
                Ok(Pass::of(copies))
            };
            let walk = SecondPass::Walk {
                reason: Reason::Asked,
            };
            let freeze = Freeze {
                files: *files,
                dirty: case.name,
                feed: Pass {
                    most: case.feed_most,
                    ..pass(SecondPass::Feed)?
                },
                walk: Pass {
                    most: case.walk_most.filter(|_| *files <= WALK_FILES),
                    ..pass(walk)?
                },
            };
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            print!("    {}", freeze.render());
            found.push(freeze);
        }
    }
    Ok(found)
}

impl Pass {
    fn of(copies: Result<Vec<Report>, CopyError>) -> Self {
        match copies {
            Ok(reports) => Self {
                freeze: reports.iter().map(|report| report.freeze).collect(),
                total: reports.iter().map(|report| report.total).collect(),
                ..Self::default()
            },
            Err(error) => Self {
                failed: Some(error.to_string()),
                ..Self::default()
            },
        }
    }
}

/// A new ext4 in a file: what is left of other trees would cost the next.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Takes of the disk what is written to it.
    const SIZE: &str = "48G";

    fn mount() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("botstead-bench-")
            .tempdir_in("/var/tmp")?;
        let disk = Self { folder };
        let target = disk.target();
        std::fs::create_dir(&target)?;
        let image = disk.folder.path().join("disk").display().to_string();
        run("truncate", &["--size", Self::SIZE, &image])?;
        run("mkfs.ext4", &["-q", "-F", &image])?;
        let options = "loop,noinit_itable";
        run(
            "mount",
            &["-o", options, &image, &target.display().to_string()],
        )?;
        Ok(disk)
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be unmounted shows by its name.
        let _ = run("umount", &[&self.target().display().to_string()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let done = Command::new(program).args(arguments).output();
    let done = done.with_context(|| format!("cannot start {program}"))?;
    let words = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {arguments:?}: {words}");
    Ok(())
}
