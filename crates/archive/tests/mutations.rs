//! Random damage to good archives: no panic, nothing outside is ever reached, and the destination is
//! touched only by what was accepted.

// Clippy knows tests by their attribute only, not their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use botstead_archive::*;
use botstead_overlay::remove;
use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::raw::{Raw, archive, gzip, zstd};
use support::trees::{self, Step};
use support::{Dir, Picture, pack, run};

/// How long damage is done.
const TIME: Duration = Duration::from_secs(6);

/// Numbers that the seed decides (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// Archives of every format with something of everything.
fn seeds(dir: &Dir) -> Vec<Vec<u8>> {
    let from = dir.make("from");
    let mut steps = vec![
        Step::Directory("d/e".into()),
        Step::File("d/f".into(), 3000, 3),
        Step::Link("d/f".into(), "d/same".into()),
        Step::Symlink(b"../outside".to_vec(), "out".into()),
        Step::Symlink(b"d".to_vec(), "in".into()),
        Step::Fifo("pipe".into()),
        Step::Sparse("holes".into(), vec![1, 3, 9], 20),
        Step::File("l".repeat(120).into(), 10, 1),
        Step::Owner("d/f".into(), 1000, 5),
    ];
    steps.extend((0..6).map(|number| Step::Attribute("d".into(), number)));
    trees::make(&from, &steps);
    let mut seeds = vec![pack(&from, "data", Compression::None).0];
    for options in [
        "--format=gnu --sparse",
        "--format=posix --sparse --sparse-version=0.0",
        "--format=ustar",
    ] {
        let file = dir.join("archive");
        let mut tar = Command::new("tar");
        tar.args(options.split(' '))
            .arg("-cf")
            .arg(&file)
            .arg("-C")
            .arg(&from);
        // The oldest formats have no long names.
        run(tar.args(["--exclude", "l*", "."]));
        seeds.push(fs::read(file).unwrap());
    }
    seeds.push(archive(&[
        Raw::file("a"),
        Raw::link("out", b'2', "../outside"),
        Raw::directory("dir"),
        Raw::file("dir/b"),
        Raw::link("hard", b'1', "a"),
    ]));
    seeds
}

/// Damage of one of many kinds.
fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const TEXTS: [&[u8]; 12] = [
        b"../",
        b"/",
        b"out/x",
        b"..",
        b"\0",
        b"a/../..",
        b"path=",
        b"99999999999999999999 ",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\0\0\0\x7f\xff\xff\xff",
        b"SCHILY.xattr.",
        b"77777777777\0",
    ];
    let at = random.below(bytes.len());
    let block = at / 512 * 512;
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next().to_le_bytes()[0],
        2 => bytes.truncate(at),
        3 => {
            let text = TEXTS[random.below(TEXTS.len())];
            let end = (at + text.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&text[..end - at]);
        }
        // A field of a header: the flag, the size, the name, the target.
        4 => {
            let (field, length) = [(156, 1), (124, 12), (0, 20), (157, 20)][random.below(4)];
            let flags = b"0123456SxgLKDM7V\0";
            for offset in field..field + length {
                if let Some(byte) = bytes.get_mut(block + offset) {
                    match field {
                        156 => *byte = flags[random.below(flags.len())],
                        124 => *byte = b'0' + random.next().to_le_bytes()[0] % 8,
                        _ => *byte = b"./ao\0"[random.below(5)],
                    }
                }
            }
        }
        5 => drop(bytes.drain(block..(block + 512 * random.below(4)).min(bytes.len()))),
        6 => {
            let copy = bytes[block..(block + 1024).min(bytes.len())].to_vec();
            bytes.splice(block..block, copy);
        }
        // A piece of another archive.
        7 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len()) / 512 * 512;
            let piece = other[from..(from + 2048).min(other.len())].to_vec();
            bytes.splice(block..block, piece);
        }
        _ => bytes.extend_from_slice(&vec![0; random.below(2000)]),
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// Makes the sums of all headers right again, so that damage comes further than that.
fn repair(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

fn import(bytes: &[u8], to: &Path, accepted: &mut u64) -> Result<(), Error> {
    let mut options = support::options();
    // Damaged sizes may be large, and holes are made as large as they say.
    options.limits.file_bytes = 1 << 30;
    let mut checked = check(Cursor::new(bytes), &options, &Progress::new())?;
    *accepted += 1;
    let target = File::open(to).unwrap();
    let mode = [ApplyMode::Merge, ApplyMode::Replace][bytes.len() % 2];
    match checked.apply(target, mode, Ownership::ARCHIVE, &Progress::new()) {
        // What the filesystem does not take; it was touched, and the caller throws it away.
        Err(Error::Apply { .. }) => Ok(()),
        applied => applied,
    }
}

#[test]
fn damage_is_refused_or_harmless() {
    let dir = Dir::in_memory();
    let seeds = seeds(&dir);
    let (outside, to) = (dir.make("outside"), dir.make("to"));
    fs::write(outside.join("canary"), "alive").unwrap();
    let kept = Picture::of(&outside);
    fs::write(to.join("old"), "old").unwrap();
    let mut before = Picture::of(&to);
    let seed = std::process::id().into();
    let mut random = Random(seed);
    let (mut rounds, mut accepted) = (0_u64, 0_u64);
    let start = Instant::now();
    while start.elapsed() < TIME {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            damage(&mut bytes, &seeds, &mut random);
        }
        if random.below(4) > 0 {
            repair(&mut bytes);
        }
        match random.below(6) {
            0 => bytes = gzip(&bytes),
            1 => bytes = zstd(&bytes),
            // Also damage to what is compressed.
            2 => {
                bytes = gzip(&bytes);
                damage(&mut bytes, &seeds, &mut random);
            }
            3 => {
                bytes = zstd(&bytes);
                damage(&mut bytes, &seeds, &mut random);
            }
            _ => {}
        }
        let was = accepted;
        match import(&bytes, &to, &mut accepted) {
            Ok(()) => {}
            // It was accepted, and met a link that an earlier round left.
            Err(Error::Refused {
                reason: Refusal::BeneathLink,
                ..
            }) if accepted > was => {}
            Err(Error::Refused { .. }) => assert_eq!(accepted, was, "seed {seed}"),
            Err(other) => panic!("seed {seed}, round {rounds}: {other:?}"),
        }
        if accepted == was {
            assert!(Picture::of(&to) == before, "seed {seed}, round {rounds}");
        } else {
            remove::empty(File::open(&to).unwrap()).unwrap();
            fs::write(to.join("old"), "old").unwrap();
            before = Picture::of(&to);
        }
        assert!(Picture::of(&outside) == kept, "seed {seed}, round {rounds}");
        rounds += 1;
    }
    // Both happened, or this tested nothing.
    assert!(
        accepted > 20 && rounds > accepted + 20,
        "{accepted} of {rounds} accepted"
    );
}
