//! How long a live copy stands everybody still, by the size of the tree and by what is dirty, with the
//! change feed and with the walk.

use crate::stats::Samples;
use anyhow::{Context, Result, bail};
use botstead_live_copy::measure::{Dirty, Scene};
use botstead_live_copy::{ChangeFeed, Guard, Options, Reason, SecondPass};
use std::path::{Path, PathBuf};

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

/// Measures trees of these many files, each so many times, in a folder of its own.
pub(crate) fn measure(agent: PathBuf, sizes: &[(usize, usize)]) -> Result<Vec<Freeze>> {
    let guard = Guard::new(agent);
    let root = FREEZERS.into_iter().find(|root| Path::new(root).is_dir());
    let root = root.context("there are no control groups")?;
    let mut found = Vec::new();
    for (files, times) in sizes {
        let folder = tempfile::Builder::new()
            .prefix("botstead-bench-")
            .tempdir_in("/var/tmp")?;
        if let Err(reason) = ChangeFeed::probe(folder.path()) {
            bail!("the change feed cannot be used here: {reason}");
        }
        let group = Path::new(root).join(format!("botstead-bench-{}", std::process::id()));
        let mut scene = Scene::new(folder.path(), &group, *files)?;
        for case in CASES {
            scene.start_writer(case.dirty)?;
            let walk = SecondPass::Walk {
                reason: Reason::Asked,
            };
            let freeze = Freeze {
                files: *files,
                dirty: case.name,
                feed: Pass {
                    most: case.feed_most,
                    ..pass(&mut scene, SecondPass::Feed, &guard, *times)
                },
                walk: Pass {
                    most: case.walk_most.filter(|_| *files <= WALK_FILES),
                    ..pass(&mut scene, walk, &guard, *times)
                },
            };
            print!("    {}", freeze.render());
            found.push(freeze);
        }
    }
    Ok(found)
}

fn pass(scene: &mut Scene, second_pass: SecondPass, guard: &Guard, times: usize) -> Pass {
    let options = Options {
        second_pass,
        ..Options::default()
    };
    match scene.copies(&options, guard, times) {
        Ok(reports) => Pass {
            freeze: reports.iter().map(|report| report.freeze).collect(),
            total: reports.iter().map(|report| report.total).collect(),
            ..Pass::default()
        },
        Err(error) => Pass {
            failed: Some(error.to_string()),
            ..Pass::default()
        },
    }
}
