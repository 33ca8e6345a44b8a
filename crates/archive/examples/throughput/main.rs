//! Prints how fast a tree is exported and imported, next to `tar` with `pigz` or `zstd` in the same
//! run: `cargo run --release -p botstead-archive --example throughput [rounds] [folder on the disk]`.
//! Needs root, and the Debian packages pigz and zstd.
#![allow(clippy::print_stdout)]
// They are public for the benchmarks.
#![allow(missing_docs, unreachable_pub)]

mod measure;

use botstead_archive::Compression;
use measure::{Cost, Measured, SHAPES, exports, imports, make, median};

/// How often everything is measured, unless a number is given.
const ROUNDS: u32 = 5;

fn main() -> measure::Result<()> {
    let mut builder = tempfile::Builder::new();
    let scratch = builder.prefix("throughput");
    let rounds = match std::env::args().nth(1) {
        Some(rounds) => rounds.parse()?,
        None => ROUNDS,
    };
    let scratch = match std::env::args_os().nth(2) {
        Some(folder) => scratch.tempdir_in(folder)?,
        None => scratch.tempdir()?,
    };
    println!("medians of {rounds}; a ratio above 1 means that ours is faster");
    for shape in SHAPES {
        let tree = scratch.path().join("tree");
        std::fs::create_dir(&tree)?;
        let bytes = make(&tree, shape)?;
        println!("{}, {} MiB", shape.name, bytes >> 20);
        let gzip = (
            "tar | pigz",
            "check+apply, against pigz -dc | tar -x",
            Compression::GZIP,
        );
        let zstd = (
            "tar | zstd -T0",
            "check+apply, against zstd -dc | tar -x",
            Compression::ZSTD,
        );
        for (packing, unpacking, compression) in [gzip, zstd] {
            let exported = exports(&tree, scratch.path(), compression, rounds)?;
            print(&format!("export, against {packing}"), bytes, &exported);
            let imported = imports(scratch.path(), compression, rounds)?;
            print(unpacking, bytes, &imported);
        }
        std::fs::remove_dir_all(tree)?;
    }
    Ok(())
}

fn print(what: &str, bytes: u64, measured: &Measured) {
    let speed = |costs: &[Cost]| {
        let cost = median(costs);
        let (seconds, cpu) = (cost.elapsed.as_secs_f64(), cost.cpu.as_secs_f64());
        // Whole MiB are enough to be exact here.
        let mebibytes = u32::try_from(bytes >> 20).map_or(0.0, f64::from);
        format!(
            "{:.0} MiB/s ({seconds:.2} s, CPU {cpu:.2} s)",
            mebibytes / seconds
        )
    };
    println!(
        "  {what}: ours {}, theirs {}, ratio {:.2}, of CPU {:.2}; archives {} and {} MiB",
        speed(&measured.ours),
        speed(&measured.theirs),
        measured.ratio(),
        measured.cpu_ratio(),
        measured.our_bytes >> 20,
        measured.their_bytes >> 20,
    );
}
