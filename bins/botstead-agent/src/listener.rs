//! Where the server connects, and who may.
//!
//! The only transport today is a unix socket in a folder that the host shares with the workspace.
//! Both sides see it, so whoever connects from inside is turned away: the kernel tells the process
//! number of a peer as the agent sees it, and that is 0 for one outside of the agent's process
//! namespace (`SO_PEERCRED`, unix(7)).
//!
//! The workspace's root can remove the socket. The folder is watched, and the socket made anew. Watches
//! are few, and all workspaces of a host share them: without one the socket is looked at now and then.

use crate::descriptor;
use crate::log::report;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Mode, chmod, renameat, statat, unlinkat};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tonic::transport::server::Connected;

/// A socket that is removed again and again is made anew at most this often.
const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait when it cannot be made, or a connection not be accepted.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often a socket is looked at whose folder cannot be watched.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Peers that are turned away are reported at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Where connections come from. Another transport is another variant, here and in [`Connection`].
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixSocket),
}

impl Listener {
    /// The next connection of a peer that may have one.
    pub(crate) async fn accept(&mut self) -> Connection {
        match self {
            Self::Unix(socket) => Connection::Unix(socket.accept().await),
        }
    }
}

/// A connection of the server.
#[derive(Debug)]
pub(crate) enum Connection {
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self::Unix(stream) = self.get_mut();
        Pin::new(stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self::Unix(stream) = self.get_mut();
        Pin::new(stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self::Unix(stream) = self.get_mut();
        Pin::new(stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        let Self::Unix(stream) = self;
        stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Unix(stream) = self.get_mut();
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Unix(stream) = self.get_mut();
        Pin::new(stream).poll_shutdown(context)
    }
}

/// A unix socket that stays reachable under its path.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the file that was made.
    file: (u64, u64),
    watch: Watch,
    refused: Refused,
}

impl UnixSocket {
    /// Listens at the path, instead of whatever was there. Must be called on the runtime.
    ///
    /// # Errors
    /// The folder or the socket cannot be made.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let Made {
            watch,
            listener,
            file,
        } = make(path)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            file,
            watch,
            refused: Refused::default(),
        })
    }

    async fn accept(&mut self) -> UnixStream {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if self.may_connect(&stream) => return stream,
                    Ok(_) => {}
                    Err(error) => {
                        report!("cannot accept a connection: {error}");
                        sleep(AFTER_FAILURE).await;
                    }
                },
                () = self.watch.changed() => self.restore().await,
            }
        }
    }

    fn may_connect(&mut self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.pid() == Some(0) => true,
            Ok(peer) => {
                self.refused.report(peer.pid());
                false
            }
            Err(_) => false,
        }
    }

    /// Makes the socket anew where it is not the one that was made. Something may have happened in its
    /// folder.
    async fn restore(&mut self) {
        loop {
            let gone = self.watch.drain();
            if !gone && identify(&self.path).is_ok_and(|file| file == self.file) {
                return;
            }
            match make(&self.path) {
                Ok(made) => {
                    (self.listener, self.file, self.watch) = (made.listener, made.file, made.watch);
                    report!(
                        "{} was changed inside and is made anew",
                        self.path.display()
                    );
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    report!("cannot make {} anew: {error}", self.path.display());
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
    }
}

/// Peers that were turned away, reported together when there are many.
#[derive(Debug, Default)]
struct Refused {
    unreported: u64,
    last: Option<Instant>,
}

impl Refused {
    fn report(&mut self, pid: Option<i32>) {
        self.unreported += 1;
        if self.last.is_some_and(|last| last.elapsed() < REPORT_EVERY) {
            return;
        }
        let pid = pid.unwrap_or(0);
        report!(
            "refused {} connection(s) from inside the workspace, the last of process {pid}",
            self.unreported
        );
        (self.unreported, self.last) = (0, Some(Instant::now()));
    }
}

/// A socket that was made.
struct Made {
    watch: Watch,
    listener: UnixListener,
    file: (u64, u64),
}

/// Makes the socket and its folder.
fn make(path: &Path) -> io::Result<Made> {
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    // Before the socket, so that nothing that happens to it is missed.
    let watch = Watch::new(path);
    let (listener, file) = bind(path)?;
    Ok(Made {
        watch,
        listener,
        file,
    })
}

/// Makes the socket under another name and moves it to its path, so that whoever connects finds it
/// with its mode, or the one before it.
fn bind(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".new");
    let new = folder.join(new);
    make_way(&new)?;
    let listener = StdListener::bind(&new)?;
    chmod(&new, Mode::RUSR | Mode::WUSR)?;
    if renameat(CWD, &new, CWD, path).is_err() {
        make_way(path)?;
        renameat(CWD, &new, CWD, path)?;
    }
    listener.set_nonblocking(true)?;
    Ok((UnixListener::from_std(listener)?, identify(path)?))
}

/// Removes what is at a path, also an empty folder that somebody put there.
fn make_way(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(_) => std::fs::remove_dir_all(path),
    }
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let found = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((found.st_dev, found.st_ino))
}

/// What tells that something may have happened in the socket's folder.
#[derive(Debug)]
enum Watch {
    Events(AsyncFd<OwnedFd>),
    Clock(Interval),
}

impl Watch {
    /// By the clock where there are no more watches: the workspaces of others may hold them all, and a
    /// workspace is no use without its socket.
    fn new(path: &Path) -> Self {
        watch(path).map(Self::Events).unwrap_or_else(|error| {
            report!(
                "cannot watch the folder of {}, looking every {} s: {error}",
                path.display(),
                LOOK_EVERY.as_secs()
            );
            let mut clock = interval(LOOK_EVERY);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Self::Clock(clock)
        })
    }

    /// Whoever stops waiting misses nothing.
    async fn changed(&mut self) {
        match self {
            Self::Events(watch) => {
                if let Ok(mut guard) = watch.readable().await {
                    guard.clear_ready();
                }
            }
            Self::Clock(clock) => {
                clock.tick().await;
            }
        }
    }

    /// Takes all events, and tells whether the folder itself is watched no more.
    fn drain(&self) -> bool {
        match self {
            Self::Events(watch) => drain(watch.get_ref()),
            Self::Clock(_) => false,
        }
    }
}

/// Watches the socket's folder.
fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let events = WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, path.parent().unwrap_or(Path::new("/")), events)?;
    descriptor::register(watch)
}

/// Takes all events, and tells whether the folder itself is watched no more.
fn drain(watch: &OwnedFd) -> bool {
    let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
    let mut reader = inotify::Reader::new(watch.as_fd(), &mut buffer);
    let mut gone = false;
    // The descriptor is non-blocking: it ends with `EAGAIN`.
    while let Ok(event) = reader.next() {
        gone |= event.events().intersects(
            ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT,
        );
    }
    gone
}
