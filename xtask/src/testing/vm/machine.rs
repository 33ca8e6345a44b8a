//! One machine from its first boot to its end: started, watched through the lines of its checks, and
//! its results fetched.

use super::image::Image;
use super::report::{Line, Outcome};
use crate::command;
use crate::progress::note;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No check takes this long, and no boot.
const SILENCE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs the machine until it powers itself off. What it leaves is in the folder `results`: the
/// console, the lines of the checks, and what the checks kept.
pub(super) fn run(image: &Image, payload: &Path, results: &Path) -> Result<Outcome> {
    match fs::remove_dir_all(results) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", results.display()));
        }
        _ => fs::create_dir_all(results)?,
    }
    let console = results.join("console.log");
    let lines = results.join("checks.jsonl");
    note(format_args!("console: {}", console.display()));
    let mut machine = Machine(
        qemu(image, payload, &console, &lines)
            // Where it keeps what the machine writes to its disk, until its end.
            .env("TMPDIR", results)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start qemu-system-x86_64")?,
    );
    let outcome = watch(&mut machine, &lines)?;
    drop(machine);
    command::capture(
        Command::new("debugfs")
            .arg("-R")
            .arg(format!("rdump /results {}", results.display()))
            .arg(payload),
        "debugfs by hand",
    )?;
    Ok(outcome)
}

/// A machine without hardware help and without a network: beyond the NAT there is one address, which
/// greets.
fn qemu(image: &Image, payload: &Path, console: &Path, lines: &Path) -> Command {
    let with = |before: &str, path: &Path, after: &str| -> OsString {
        let mut word = OsString::from(before);
        word.push(path);
        word.push(after);
        word
    };
    let drive = ",format=raw,if=virtio,cache=unsafe";
    let mut command = Command::new("setpriv");
    command
        // Whatever ends this program, it switches the machine off.
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=multi,tb-size=1024"])
        // One with AVX is slower: every vector instruction is emulated.
        .args([
            "-machine", "q35", "-cpu", "Nehalem", "-smp", "2", "-m", "4096",
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-monitor", "none"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args([
            "-append",
            "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off",
        ])
        .arg("-drive")
        .arg(with("file=", &image.disk, &format!("{drive},snapshot=on")))
        .arg("-drive")
        .arg(with("file=", payload, drive))
        .args([
            "-netdev",
            "user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:1234-cmd:echo beyond",
        ])
        .args(["-device", "virtio-net-pci,netdev=net,romfile="])
        .args(["-device", "virtio-rng-pci"])
        .arg("-serial")
        .arg(with("file:", console, ""))
        .arg("-serial")
        .arg(with("file:", lines, ""));
    command
}

/// A running machine, which is switched off when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Shows each check as it ends, until the machine does.
fn watch(machine: &mut Machine, lines: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut unfinished = String::new();
    let mut read = 0;
    let mut heard = Instant::now();
    loop {
        let ended = machine.0.try_wait()?.is_some();
        // QEMU makes the file when it starts.
        if let Ok(mut file) = File::open(lines) {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(read))?;
            read += file.read_to_end(&mut bytes)? as u64;
            unfinished.push_str(&String::from_utf8_lossy(&bytes));
        }
        while let Some((line, rest)) = unfinished.split_once('\n') {
            heard = Instant::now();
            // Firmware and kernel may say something there too.
            if let Some(line) = Line::parse(line) {
                println!("    {line}");
                outcome.add(line);
            }
            unfinished = rest.to_owned();
        }
        if ended || outcome.finished && heard.elapsed() > Duration::from_secs(120) {
            return Ok(outcome);
        }
        if heard.elapsed() > SILENCE_LIMIT {
            note("switched off: nothing was heard of it for half an hour");
            return Ok(outcome);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
