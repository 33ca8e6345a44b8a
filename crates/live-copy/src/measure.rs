//! How long a freeze takes: trees of a size, a process that changes a part of one right before the
//! freeze, repeated copies. For benches; with the feature `measure` only.
//!
//! Needs root.

use crate::freezer::{CgroupFreezer, Guard};
use crate::options::{Observer, Options};
use crate::report::{Phase, Progress, Report};
use crate::{Error, capture};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicBool;

/// Files of a tree in one directory.
const PER_FOLDER: usize = 25;
/// Bytes of a file of a tree.
const FILE_SIZE: usize = 1500;
/// What makes a program that calls [`writer`] one.
const WRITER: &str = "BOTSTEAD_MEASURE_WRITER";

/// What is changed right before each freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirty {
    /// How many files.
    pub files: usize,
    /// How many bytes each has, all of which are written anew.
    pub bytes: usize,
}

/// An overlay mount with a tree in its upper directory, and a process in a control group that changes a
/// part of it. All of it ends with the value.
pub struct Scene {
    folder: PathBuf,
    group: PathBuf,
    writer: Option<Writer>,
    targets: usize,
}

struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Scene {
    /// Makes `files` files below `folder`, which is new and stays, and mounts them. `group` is the path
    /// of a new control group with a freezer.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn new(folder: &Path, group: &Path, files: usize) -> io::Result<Self> {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let content = vec![7; FILE_SIZE];
        for number in 0..files {
            let path = folder.join("upper/tree").join(tree_path(number));
            if number % PER_FOLDER == 0
                && let Some(parent) = path.parent()
            {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, &content)?;
        }
        let at = |name: &str| folder.join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            at("lower"),
            at("upper"),
            at("work")
        );
        let options = std::ffi::CString::new(options)?;
        let merged = folder.join("merged");
        mount(
            "overlay",
            &merged,
            "overlay",
            MountFlags::empty(),
            &*options,
        )?;
        fs::create_dir(group)?;
        Ok(Self {
            folder: folder.to_owned(),
            group: group.to_owned(),
            writer: None,
            targets: 0,
        })
    }

    /// Starts the process that makes files dirty, instead of the one before. The calling program must
    /// call [`writer`] first thing in its `main`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn start_writer(&mut self, dirty: Dirty) -> io::Result<()> {
        self.stop_writer()?;
        let mut child = Command::new(std::env::current_exe()?)
            .env(WRITER, format!("{} {}", dirty.files, dirty.bytes))
            .current_dir(self.folder.join("merged"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        fs::write(self.group.join("cgroup.procs"), child.id().to_string())?;
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let mut writer = Writer {
            child,
            input,
            output: BufReader::new(output),
        };
        // Once to make the files.
        writer.write()?;
        self.writer = Some(writer);
        Ok(())
    }

    fn stop_writer(&mut self) -> io::Result<()> {
        if let Some(mut writer) = self.writer.take() {
            writer.child.kill()?;
            writer.child.wait()?;
        }
        Ok(())
    }

    /// Copies so many times, each time with all of the dirty files changed right before the freeze, until
    /// `stop` is set. The copies stay: ext4 is slow to make files after as many were deleted.
    ///
    /// # Errors
    /// [`Error`]; `Cancelled` after `stop`.
    pub fn copies(
        &mut self,
        options: &Options,
        guard: &Guard,
        times: usize,
        stop: &AtomicBool,
    ) -> Result<Vec<Report>, Error> {
        let freezer = CgroupFreezer::new(&self.group, guard.clone())?;
        let mut reports = Vec::with_capacity(times);
        for _ in 0..times {
            self.targets += 1;
            let target = self.folder.join(format!("target{}", self.targets));
            let failed = |source| Error::Io {
                operation: "make",
                path: target.display().to_string(),
                source,
            };
            fs::create_dir(&target).map_err(failed)?;
            let upper = self.folder.join("upper");
            let mut observer = BeforeFreeze {
                writer: self.writer.as_mut(),
            };
            let report = capture(&upper, &target, &freezer, options, &mut observer, stop)?;
            reports.push(report);
        }
        Ok(reports)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What cannot be ended here shows by its name.
        let _ = self.stop_writer();
        let _ = unmount(self.folder.join("merged"), UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.group);
    }
}

impl Writer {
    /// Has it change its files, and waits until it has.
    fn write(&mut self) -> io::Result<()> {
        self.input.write_all(b"\n")?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Has the files changed when everything is ready to freeze.
struct BeforeFreeze<'a> {
    writer: Option<&'a mut Writer>,
}

impl Observer for BeforeFreeze<'_> {
    fn progress(&mut self, progress: Progress) {
        if progress.phase == Phase::Freezing
            && let Some(writer) = &mut self.writer
        {
            // If it has ended, the figures show that nothing was dirty.
            let _ = writer.write();
        }
    }
}

fn tree_path(number: usize) -> String {
    let folder = number / PER_FOLDER;
    format!(
        "d{:02}/d{:02}/dir{folder:05}/file_{:03}.py",
        folder % 20,
        folder / 20 % 20,
        number % PER_FOLDER
    )
}

/// Returns at once in a program that is no writer; in one that is, changes files each time that it is
/// told to, and never returns.
pub fn writer() {
    let Ok(what) = std::env::var(WRITER) else {
        return;
    };
    let code = match write_forever(&what) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    std::process::exit(code);
}

fn write_forever(what: &str) -> io::Result<()> {
    let mut numbers = what.split(' ').map(str::parse);
    let (Some(Ok(files)), Some(Ok(bytes))) = (numbers.next(), numbers.next()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut content = vec![0; bytes];
    fs::create_dir_all("dirty")?;
    for line in io::stdin().lock().lines() {
        line?;
        let before = content.first().copied().unwrap_or_default();
        content.fill(u8::wrapping_add(before, 1));
        for number in 0..files {
            // As many to a folder as in the tree.
            let folder = format!("dirty/{}", number / PER_FOLDER);
            if number % PER_FOLDER == 0 {
                fs::create_dir_all(&folder)?;
            }
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(format!("{folder}/{number}"))?
                .write_all_at(&content, 0)?;
        }
        io::stdout().write_all(b"\n")?;
        io::stdout().flush()?;
    }
    Ok(())
}
