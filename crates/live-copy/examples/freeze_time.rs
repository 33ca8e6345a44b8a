//! Prints how long processes stand still, by the size of the tree and by what they changed right before.
//!
//! `freeze_time [FILES ...]`, 1000 and 20000 if none are given. Needs root, a few GB in the temporary
//! folder, and BOTSTEAD_TEST_AGENT, the static agent. With ALONE=1 the frozen part takes the processors
//! from everybody else, for figures on a busy machine.
#![allow(clippy::print_stdout, reason = "it is what it is for")]

use botstead_live_copy::measure::{Dirty, Scene, quantile, writer};
use botstead_live_copy::{ChangeFeed, Guard, Options, Reason, SecondPass};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::time::Instant;

const DIRTY: [Dirty; 3] = [
    Dirty {
        files: 10,
        bytes: 6000,
    },
    Dirty {
        files: 1000,
        bytes: 6000,
    },
    Dirty {
        files: 50,
        bytes: 4 << 20,
    },
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    writer();
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .map(|size| size.parse())
        .collect::<Result<_, _>>()?;
    let sizes = if sizes.is_empty() {
        vec![1000, 20_000]
    } else {
        sizes
    };
    let times = std::env::var("TIMES").map_or(Ok(15), |times| times.parse())?;
    let guard = Guard::new(
        std::env::var_os("BOTSTEAD_TEST_AGENT").ok_or("BOTSTEAD_TEST_AGENT is not set")?,
    );
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    let group = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup"]
        .into_iter()
        .find(|root| Path::new(root).is_dir())
        .ok_or("no control groups")?;
    println!("files dirty second-pass: frozen median / 95 % / most, total median");
    for size in sizes {
        let folder = tempfile::tempdir()?;
        ChangeFeed::probe(folder.path()).map_err(|reason| reason.to_string())?;
        let group = Path::new(group).join(format!("botstead-freeze-time-{}", std::process::id()));
        let mut scene = Scene::new(folder.path(), &group, size)?;
        scene.alone(std::env::var_os("ALONE").is_some());
        for (number, dirty) in DIRTY.into_iter().enumerate() {
            // One case alone, such as to profile it.
            let only = std::env::var("DIRTY_ONLY");
            if only.is_ok_and(|only| only != number.to_string()) {
                continue;
            }
            scene.start_writer(dirty)?;
            for second_pass in [
                SecondPass::Feed,
                SecondPass::Walk {
                    reason: Reason::Asked,
                },
            ] {
                let options = Options {
                    second_pass,
                    ..Options::default()
                };
                let began = Instant::now();
                let reports = scene.copies(&options, &guard, times);
                let reports = match reports {
                    Ok(reports) => reports,
                    Err(error) => {
                        println!(
                            "{size} {}x{} {:?}: {error}",
                            dirty.files, dirty.bytes, options.second_pass
                        );
                        continue;
                    }
                };
                let sorted = |value: fn(&botstead_live_copy::Report) -> std::time::Duration| {
                    let mut values: Vec<_> = reports.iter().map(value).collect();
                    values.sort();
                    values
                };
                let (frozen, total) = (
                    sorted(|report| report.freeze),
                    sorted(|report| report.total),
                );
                println!(
                    "{size} {}x{} {:?}: {:.2?} / {:.2?} / {:.2?}, {:.0?}; {} files and {} bytes frozen, {} rounds, {} attempts, {:.0?} in all",
                    dirty.files,
                    dirty.bytes,
                    reports[0].second_pass,
                    quantile(&frozen, 0.5),
                    quantile(&frozen, 0.95),
                    quantile(&frozen, 1.0),
                    quantile(&total, 0.5),
                    reports[0].frozen_files,
                    reports[0].frozen_bytes,
                    reports[0].rounds,
                    reports
                        .iter()
                        .map(|report| report.attempts)
                        .max()
                        .unwrap_or(0),
                    began.elapsed(),
                );
            }
        }
    }
    Ok(())
}
