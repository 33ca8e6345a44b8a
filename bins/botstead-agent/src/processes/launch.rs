//! Starts a program: its user, folder, environment, descriptors and terminal.
//!
//! Everything that can be looked up is looked up before the fork; between fork and exec only system
//! calls are made. What goes on with the process is not known here.

use super::pty::{self, Size};
use crate::children::{Child, Children};
use crate::environment::DATA;
use crate::identity::Identity;
use botstead_bridge::{Failure, FailureKind};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchown, openat2};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, setrlimit};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use rustix::{process, thread};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use tokio::sync::oneshot;

/// What to start.
#[derive(Debug)]
pub(super) struct Launch {
    /// The program and its arguments; not empty.
    pub(super) args: Vec<OsString>,
    /// Absolute; empty is `/data`.
    pub(super) cwd: Vec<u8>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) identity: Identity,
    pub(super) terminal: Option<Size>,
    pub(super) no_stdin: bool,
    /// The limit of open files that the agent itself was started with.
    pub(super) open_files: Option<Rlimit>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Launched {
    Running(Running),
    /// There is nothing to execute, as a shell would report it: 127 not found, 126 not executable.
    Failed {
        code: u32,
        message: String,
    },
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) ended: oneshot::Receiver<u32>,
    pub(super) streams: Streams,
}

/// The agent's ends of a process's streams.
#[derive(Debug)]
pub(super) enum Streams {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        master: OwnedFd,
        /// Held open until the process ended: without it, a moment in which the process itself has
        /// no descriptor of its terminal open would look like the end of its output.
        slave: OwnedFd,
    },
}

/// Starts it. Blocks.
///
/// # Errors
/// `NOT_FOUND` and its kin for the folder; `LIMIT` when the workspace can have no more processes;
/// `INVALID` for arguments that no program can be given.
pub(super) fn start(children: &Children, mut launch: Launch) -> Result<Launched, Failure> {
    let started = start_once(children, &launch);
    if started.is_err() && launch.cwd.is_empty() && launch.terminal.is_some() {
        // Who opens a terminal may be about to bring `/data` back, and sees where they are.
        launch.cwd = b"/".to_vec();
        // What else was wrong still is.
        return start_once(children, &launch);
    }
    started
}

fn start_once(children: &Children, launch: &Launch) -> Result<Launched, Failure> {
    let cwd = open_folder(&launch.cwd)?;
    let Some((program, arguments)) = launch.args.split_first() else {
        return Err(Failure::new(FailureKind::Invalid, "there is no program"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)));
    let ends = match launch.terminal {
        Some(size) => Ends::terminal(size, &launch.identity)?,
        None => Ends::pipes(launch.no_stdin, &launch.identity).map_err(no_descriptors)?,
    };
    let streams = ends.give_to(&mut command).map_err(no_descriptors)?;
    let plan = Plan {
        cwd,
        terminal: matches!(streams, Streams::Terminal { .. }),
        uid: thread::Uid::from_raw(launch.identity.uid),
        gid: thread::Gid::from_raw(launch.identity.gid),
        groups: launch
            .identity
            .groups
            .iter()
            .map(|gid| thread::Gid::from_raw(*gid))
            .collect(),
        open_files: launch.open_files,
    };
    // SAFETY: the closure makes system calls only. It allocates nothing, takes no lock, and the
    // values that it reads were made before the fork.
    #[allow(
        unsafe_code,
        reason = "std has no safe way to act between fork and exec"
    )]
    unsafe {
        command.pre_exec(move || plan.carry_out());
    }
    match children.spawn(&mut command) {
        Ok(Child { pid, ended }) => Ok(Launched::Running(Running {
            pid,
            ended,
            streams,
        })),
        Err(error) => failed(&error, program, launch),
    }
}

/// The process's ends of its streams, and ours.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    ours: Streams,
}

impl Ends {
    fn pipes(no_stdin: bool, identity: &Identity) -> rustix::io::Result<Self> {
        let (stdin, our_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&stdin, &stdout, &stderr] {
            // `/dev/stdout` and the like are opened anew, which the pipe's owner alone may.
            own(end.as_fd(), identity)?;
        }
        Ok(Self {
            stdin,
            stdout,
            stderr,
            ours: Streams::Pipes {
                stdin: (!no_stdin).then_some(our_stdin),
                stdout: our_stdout,
                stderr: our_stderr,
            },
        })
    }

    fn terminal(size: Size, identity: &Identity) -> Result<Self, Failure> {
        let (master, slave) = pty::open(size).map_err(|errno| {
            let kind = match errno {
                Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::NOMEM => FailureKind::Limit,
                _ => FailureKind::Unsupported,
            };
            Failure::new(kind, format!("cannot open a terminal: {errno}"))
                .with_errno(errno.raw_os_error())
        })?;
        let ends = || {
            // Its group stays: devpts gives it one of its own, that of write(1).
            let uid = rustix::fs::Uid::from_raw(identity.uid);
            fchown(&slave, Some(uid), None)?;
            Ok((
                rustix::io::fcntl_dupfd_cloexec(&slave, 3)?,
                rustix::io::fcntl_dupfd_cloexec(&slave, 3)?,
                rustix::io::fcntl_dupfd_cloexec(&slave, 3)?,
            ))
        };
        let (stdin, stdout, stderr) = ends().map_err(no_descriptors)?;
        Ok(Self {
            stdin,
            stdout,
            stderr,
            ours: Streams::Terminal { master, slave },
        })
    }

    /// Hands the process's ends to the command, and makes ours non-blocking.
    fn give_to(self, command: &mut Command) -> rustix::io::Result<Streams> {
        command
            .stdin(Stdio::from(self.stdin))
            .stdout(Stdio::from(self.stdout))
            .stderr(Stdio::from(self.stderr));
        let non_blocking = |end: BorrowedFd<'_>| rustix::io::ioctl_fionbio(end, true);
        match &self.ours {
            Streams::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                for end in stdin.iter().chain([stdout, stderr]) {
                    non_blocking(end.as_fd())?;
                }
            }
            Streams::Terminal { master, .. } => non_blocking(master.as_fd())?,
        }
        Ok(self.ours)
    }
}

fn own(end: BorrowedFd<'_>, identity: &Identity) -> rustix::io::Result<()> {
    fchown(
        end,
        Some(rustix::fs::Uid::from_raw(identity.uid)),
        Some(rustix::fs::Gid::from_raw(identity.gid)),
    )
}

fn no_descriptors(errno: Errno) -> Failure {
    let kind = match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => FailureKind::Limit,
        _ => FailureKind::Internal,
    };
    Failure::new(kind, format!("cannot open pipes: {errno}")).with_errno(errno.raw_os_error())
}

/// Opens the folder to start in.
fn open_folder(path: &[u8]) -> Result<OwnedFd, Failure> {
    let path = if path.is_empty() {
        DATA.as_bytes()
    } else {
        path
    };
    let shown = OsStr::from_bytes(path);
    let failure = |kind, errno: Errno| {
        Failure::new(kind, format!("cannot start in {shown:?}: {errno}"))
            .at(path)
            .with_errno(errno.raw_os_error())
    };
    if !path.starts_with(b"/") {
        return Err(failure(FailureKind::Invalid, Errno::INVAL));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Links of /proc lead to what other processes have open, wherever that is.
    let resolve = ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, flags, Mode::empty(), resolve).map_err(|errno| {
        let kind = match errno {
            Errno::NOENT => FailureKind::NotFound,
            Errno::NOTDIR => FailureKind::NotADirectory,
            Errno::LOOP => FailureKind::Loop,
            Errno::NAMETOOLONG => FailureKind::NameTooLong,
            Errno::ACCESS | Errno::PERM => FailureKind::PermissionDenied,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => FailureKind::Limit,
            // A NUL in it.
            Errno::INVAL => FailureKind::Invalid,
            _ => FailureKind::Internal,
        };
        failure(kind, errno)
    })
}

/// What the child does between fork and exec. Every disposition but that of SIGPIPE is the default in
/// the agent itself.
struct Plan {
    cwd: OwnedFd,
    terminal: bool,
    uid: thread::Uid,
    gid: thread::Gid,
    groups: Vec<thread::Gid>,
    open_files: Option<Rlimit>,
}

/// A step of [`Plan::carry_out`], told from the errors of exec by its place above the error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Step {
    Session = 1,
    User = 2,
    Folder = 3,
    Protection = 4,
}

/// No error number is as large.
const STEP: i32 = 1 << 16;

impl Plan {
    fn carry_out(&self) -> io::Result<()> {
        let step = |step: Step| {
            move |errno: Errno| {
                io::Error::from_raw_os_error(step as i32 * STEP + errno.raw_os_error())
            }
        };
        // The agent holds the signals that end it, and a mask is inherited.
        SigSet::empty()
            .thread_set_mask()
            .map_err(|errno| step(Step::Session)(Errno::from_raw_os_error(errno as i32)))?;
        // Rust programs ignore it, others expect to be ended by it.
        // SAFETY: the default disposition runs no code.
        #[allow(unsafe_code, reason = "the default disposition has no safe wrapper")]
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        process::setsid().map_err(step(Step::Session))?;
        if self.terminal {
            process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(step(Step::Session))?;
        }
        reset_oom_score().map_err(step(Step::Protection))?;
        // Best effort from here to the user: no reason not to run the program.
        let _ = process::setpriority_process(None, 0);
        let _ = close_on_exec();
        if let Some(limit) = &self.open_files {
            let _ = setrlimit(Resource::Nofile, *limit);
        }
        process::umask(Mode::WGRP | Mode::WOTH);
        set_thread_groups(&self.groups).map_err(step(Step::User))?;
        set_thread_gid(self.gid).map_err(step(Step::User))?;
        set_thread_uid(self.uid).map_err(step(Step::User))?;
        // As the user: whether they may be in the folder is theirs.
        process::fchdir(&self.cwd).map_err(step(Step::Folder))?;
        Ok(())
    }
}

/// The agent has a low score, so that it outlives what it runs, and nothing that it runs may keep it.
/// Raising one needs no privilege; where it is refused, the agent's own is above that.
fn reset_oom_score() -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    match rustix::io::write(&file, b"0") {
        Err(Errno::ACCESS) => Ok(()),
        written => written.map(drop),
    }
}

/// Marks every descriptor above the three as one that exec closes, whatever forgot to do so.
fn close_on_exec() -> rustix::io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    // SAFETY: the call takes numbers and changes a flag of descriptors of this process, whose exec
    // is the next thing that happens to them. Before Linux 5.11 it fails and changes nothing.
    #[allow(unsafe_code, reason = "neither rustix nor nix wraps close_range")]
    let done = unsafe { nix::libc::close_range(3, u32::MAX, CLOSE_RANGE_CLOEXEC as i32) };
    if done == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

/// Why it did not start.
fn failed(error: &io::Error, program: &OsStr, launch: &Launch) -> Result<Launched, Failure> {
    let Some(raw) = error.raw_os_error() else {
        // `std` found a NUL.
        return Err(Failure::new(
            FailureKind::Invalid,
            format!("cannot be executed: {error}"),
        ));
    };
    let errno = Errno::from_raw_os_error(raw % STEP);
    let failure = |kind, words: String| Err(Failure::new(kind, words).with_errno(raw % STEP));
    match raw / STEP {
        0 => {}
        step if step == Step::Folder as i32 => {
            return open_folder(&launch.cwd).and_then(|_| {
                let shown = OsStr::from_bytes(&launch.cwd);
                Err(Failure::new(
                    FailureKind::PermissionDenied,
                    format!("the user may not be in {shown:?}"),
                )
                .at(launch.cwd.clone())
                .with_errno(raw % STEP))
            });
        }
        step if step == Step::User as i32 => {
            let Identity { uid, gid, .. } = launch.identity;
            return failure(
                FailureKind::PermissionDenied,
                format!("cannot become user {uid} of group {gid}: {errno}"),
            );
        }
        step if step == Step::Protection as i32 => {
            return failure(
                FailureKind::Internal,
                format!("cannot give up the agent's protection when memory runs out: {errno}"),
            );
        }
        _ => {
            return failure(
                FailureKind::Internal,
                format!("cannot make a session: {errno}"),
            );
        }
    }
    let shown: String = program.to_string_lossy().chars().take(200).collect();
    match errno {
        Errno::AGAIN | Errno::NOMEM => failure(
            FailureKind::Limit,
            "the workspace can have no more processes: a limit of processes or memory is reached; \
             list the processes, and end some"
                .to_owned(),
        ),
        Errno::MFILE | Errno::NFILE => failure(
            FailureKind::Limit,
            "the workspace can have no more open files".to_owned(),
        ),
        Errno::CANCELED => failure(FailureKind::Ended, "the workspace is stopping".to_owned()),
        Errno::NOENT | Errno::NOTDIR => Ok(Launched::Failed {
            code: 127,
            message: if program.as_bytes().contains(&b'/') {
                format!("{shown}: no such file, or what it is to be run with is missing")
            } else {
                format!("{shown}: not found in PATH")
            },
        }),
        _ => Ok(Launched::Failed {
            code: 126,
            message: format!("{shown}: cannot be executed: {errno}"),
        }),
    }
}
