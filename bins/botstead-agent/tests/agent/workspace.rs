//! A workspace without a container runtime: namespaces by unshare(1), a root of bind mounts, the
//! agent as PID 1.

use botstead_bridge::proto::run_input::{Attach, Input, Start};
use botstead_bridge::proto::run_output::{Exit, Output};
use botstead_bridge::proto::{RunInput, RunOutput, TerminalSize, Variable};
use botstead_bridge::{AgentClient, AgentPool, Connector, Error, Failure, Stream};
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_botstead-agent");

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    bot:x:1000:1000:bot:/home/bot:/bin/sh\n\
    busy:x:1001:1001::/:/bin/busybox-sh\n\
    nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nbot:x:1000:\nwheel:x:10:root,bot\naudio:x:29:bot\n";

/// Builds the root and becomes the agent. `$1` is the root, `$2` what stands in it: `full` or `bare`, or
/// `unwatched` as `full` but where nothing can be watched, `$3` the agent.
const SCRIPT: &str = r#"
set -e
root=$1 kind=$2 agent=$3; shift 3
mount --make-rprivate /
mkdir -p $root/proc $root/dev $root/tmp $root/var $root/run
touch $root/agent
mount --bind "$agent" $root/agent
mount -t tmpfs dev $root/dev
mknod -m 666 $root/dev/null c 1 3
mknod -m 666 $root/dev/zero c 1 5
mknod -m 666 $root/dev/urandom c 1 9
mknod -m 666 $root/dev/tty c 5 0
mkdir $root/dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
mount -t proc proc $root/proc
if [ $kind != bare ]; then
    mkdir -p $root/usr
    mount --bind /usr $root/usr
    for folder in bin sbin lib lib64; do [ ! -e /$folder ] || ln -sfn usr/$folder $root/$folder; done
fi
# What a careless runtime hands down: a descriptor, and signals that are ignored.
exec 9</dev/null
trap '' HUP QUIT CHLD USR1
if [ $kind = unwatched ]; then
    # The limit of a namespace of users is its own.
    exec unshare --user --map-root-user sh -c \
        'echo 0 > /proc/sys/user/max_inotify_instances; exec chroot "$@"' sh $root /agent "$@"
fi
exec chroot $root /agent "$@"
"#;

/// An agent in new namespaces, killed with everything in it on drop.
pub(crate) struct Workspace {
    unshare: Child,
    pub(crate) agent: i32,
    pub(crate) folder: tempfile::TempDir,
    pool: AgentPool,
}

struct Socket(PathBuf);

#[tonic::async_trait]
impl Connector for Socket {
    async fn connect(&self, _: &botstead_types::ContainerId) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }
}

impl Workspace {
    /// An ordinary image.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::new("full", AGENT, arguments, |root| {
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::write(root.join("etc/passwd"), PASSWD).unwrap();
            fs::write(root.join("etc/group"), GROUP).unwrap();
        })
    }

    /// An image with nothing but the agent, and the libraries that the test's build of it needs.
    pub(crate) fn bare(arguments: &[&str]) -> Self {
        Self::new("bare", AGENT, arguments, |root| {
            let ldd = Command::new("ldd").arg(AGENT).output().unwrap();
            for word in String::from_utf8(ldd.stdout).unwrap().split_whitespace() {
                if let Some(inside) = word.strip_prefix('/') {
                    let target = root.join(inside);
                    fs::create_dir_all(target.parent().unwrap()).unwrap();
                    fs::copy(word, target).unwrap();
                }
            }
        })
    }

    pub(crate) fn new(
        kind: &str,
        agent: &str,
        arguments: &[&str],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("r");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        // Killed with the test's thread, however that ends.
        let unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--pid", "--fork", "--kill-child", "--mount"])
            .args(["sh", "-c", SCRIPT, "sh"])
            .arg(&root)
            .args([kind, agent, "--socket", "/run/host/agent.sock"])
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("FROM_IMAGE", "yes")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("this test needs util-linux: apt-get install util-linux");
        let socket = root.join("run/host/agent.sock");
        let parent = i32::try_from(unshare.id()).unwrap();
        let agent = wait_for("the agent (this test must run as root)", || {
            // Not by its being there: it may be one of an agent before.
            std::os::unix::net::UnixStream::connect(&socket).ok()?;
            children_of(parent).first().map(|(agent, _)| *agent)
        });
        Self {
            unshare,
            agent,
            folder,
            pool: AgentPool::new(Arc::new(Socket(socket))),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("r")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("run/host/agent.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn client(&self) -> AgentClient {
        self.pool.get(&"b-1".parse().unwrap())
    }

    /// Gives up the connection: the next client makes a new one.
    pub(crate) fn disconnect(&self) {
        self.pool.forget(&"b-1".parse().unwrap());
    }

    /// Runs a shell line inside, as the runtime's exec does: its parent stays outside.
    pub(crate) fn exec(&self, line: &str) -> Child {
        Command::new("nsenter")
            .args(["--target", &self.agent.to_string()])
            .args(["--pid", "--mount", "--root", "--wd=/", "sh", "-c", line])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub(crate) fn orphans(&self) -> Vec<(i32, char)> {
        children_of(self.agent)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent), signal).unwrap();
    }

    pub(crate) fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let status = self.unshare.wait().unwrap();
        (status, began.elapsed())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.unshare.try_wait().unwrap().is_none()
    }

    /// How many processes of the workspace have a word in their command lines.
    pub(crate) fn count(&self, word: &str) -> usize {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.agent)).unwrap();
        processes()
            .filter(|pid| {
                let here = fs::read_link(format!("/proc/{pid}/ns/pid"));
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                here.is_ok_and(|here| here == namespace)
                    && String::from_utf8_lossy(&line)
                        .replace('\0', " ")
                        .contains(word)
            })
            .count()
    }

    /// Begins a call.
    pub(crate) async fn call(&self, first: Input) -> Result<Call, Failure> {
        let (input, messages) = mpsc::channel(4);
        input.send(message(first)).await.unwrap();
        let output = self
            .client()
            .processes()
            .run(ReceiverStream::new(messages))
            .await
            .map_err(failure)?
            .into_inner();
        Ok(Call {
            input,
            output,
            seen: Seen::default(),
        })
    }

    pub(crate) async fn begin(&self, start: Start) -> Call {
        self.call(Input::Start(start)).await.unwrap()
    }

    pub(crate) async fn attach(&self, attach: Attach) -> Call {
        self.call(Input::Attach(attach)).await.unwrap()
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, start: Start) -> Seen {
        self.begin(start).await.finish().await
    }

    /// Runs a shell line to its end and gives its output, which must be all right.
    pub(crate) async fn shell(&self, line: &str) -> String {
        let seen = self.run(command(&["sh", "-c", line])).await;
        assert_eq!(seen.code(), 0, "{line}: {seen:?}");
        seen.text()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Fails only when it has ended already. `--kill-child` takes the agent along, and the
        // kernel what is in its namespace.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

pub(crate) fn failure(status: Status) -> Failure {
    match Error::from(status) {
        Error::Agent(failure) => failure,
        Error::Unreachable(status) => panic!("no answer: {status:?}"),
    }
}

fn message(input: Input) -> RunInput {
    RunInput { input: Some(input) }
}

/// A process to start, with an id that no other has.
pub(crate) fn command(args: &[&str]) -> Start {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Start {
        id: format!("c{number}"),
        args: args
            .iter()
            .map(|arg| Bytes::copy_from_slice(arg.as_bytes()))
            .collect(),
        ..Start::default()
    }
}

pub(crate) fn kept(args: &[&str]) -> Start {
    Start {
        keep: true,
        ..command(args)
    }
}

pub(crate) fn size(columns: u32, rows: u32) -> Option<TerminalSize> {
    Some(TerminalSize { columns, rows })
}

pub(crate) fn variable(name: &str, value: &str) -> Variable {
    Variable {
        name: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// A call that runs.
pub(crate) struct Call {
    pub(crate) input: mpsc::Sender<RunInput>,
    pub(crate) output: Streaming<RunOutput>,
    pub(crate) seen: Seen,
}

/// What a call has given.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) skipped: u64,
    /// Bytes of its own that were refused.
    pub(crate) refused: u64,
    pub(crate) exit: Option<Exit>,
    /// The size that the terminal was told to have.
    pub(crate) size: Option<(u32, u32)>,
}

impl Seen {
    pub(crate) fn code(&self) -> u32 {
        self.exit.as_ref().expect("the process ended").code
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Call {
    pub(crate) async fn send(&self, input: Input) {
        self.input.send(message(input)).await.unwrap();
    }

    pub(crate) async fn write(&self, text: &str) {
        self.send(Input::Stdin(Bytes::copy_from_slice(text.as_bytes())))
            .await;
    }

    /// Takes the next message; `false` at the end.
    pub(crate) async fn next(&mut self) -> bool {
        let Some(message) = self.output.message().await.map_err(failure).unwrap() else {
            return false;
        };
        match message.output.unwrap() {
            Output::Started(started) => self.seen.pid = started.pid,
            Output::Stdout(data) => self.seen.stdout.extend_from_slice(&data),
            Output::Stderr(data) => self.seen.stderr.extend_from_slice(&data),
            Output::Skipped(bytes) | Output::SkippedStderr(bytes) => self.seen.skipped += bytes,
            Output::Exit(exit) => self.seen.exit = Some(exit),
            Output::Refused(bytes) => self.seen.refused += bytes,
            Output::Resized(size) => self.seen.size = Some((size.columns, size.rows)),
        }
        true
    }

    pub(crate) async fn finish(mut self) -> Seen {
        let all = async { while self.next().await {} };
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .unwrap_or_else(|_| panic!("it did not end: {:?}", "60 s"));
        self.seen
    }

    /// Takes messages until something was seen.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a mut self,
        what: &'a str,
        seen: impl Fn(&Seen) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let wait = async {
                while !seen(&self.seen) {
                    assert!(self.next().await, "{caller}: the end came before {what}");
                }
            };
            let done = tokio::time::timeout(Duration::from_secs(20), wait).await;
            if done.is_err() {
                let text = self.seen.text();
                let end = text.get(text.len().saturating_sub(4000)..).unwrap_or(&text);
                panic!("{caller}: waited 20 s for {what}, saw {end:?}");
            }
        }
    }

    /// Takes messages until the output has a text.
    #[track_caller]
    pub(crate) fn until_text<'a>(&'a mut self, text: &'a str) -> impl Future<Output = ()> + 'a {
        let looked = std::cell::Cell::new(0);
        self.until(text, move |seen| {
            // What was looked at before is not looked at again: outputs are long.
            let from = looked.replace(seen.stdout.len().saturating_sub(text.len()));
            seen.stdout[from..]
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    }
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The children of a process with the state of each, from the parent column of `/proc/*/stat`.
pub(crate) fn children_of(parent: i32) -> Vec<(i32, char)> {
    processes()
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let state = fields.next()?.chars().next()?;
            (fields.next()?.parse::<i32>().ok()? == parent).then_some((pid, state))
        })
        .collect()
}

/// Ticks of processor time that a process took.
pub(crate) fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |column: usize| fields[column].parse::<u64>().unwrap();
    // utime and stime, columns 14 and 15 of proc(5).
    ticks(11) + ticks(12)
}

/// A line of `/proc/PID/status`.
pub(crate) fn status(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// Resident memory in KiB.
pub(crate) fn resident(pid: i32) -> u64 {
    let text = status(pid, "VmRSS");
    text.trim_end_matches(" kB").parse().unwrap()
}

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same, while the runtime goes on.
pub(crate) async fn wait_until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look().await {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
