//! A server of a test's own.

use crate::client::Client;
use botstead_image_fixtures::{Compression, Image, LayerBuilder, busybox, oci_archive};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The image that most workspaces are made from, imported by [`Server::start`].
pub(crate) const IMAGE: &str = "localhost/test/busybox:latest";

const PATIENCE: Duration = Duration::from_secs(60);

/// A server with its folders. Dropping it ends everything that it started.
pub(crate) struct Server {
    pub(crate) client: Client,
    url: String,
    password: String,
    config: PathBuf,
    pub(crate) data: PathBuf,
    run: TempDir,
    _folder: TempDir,
    process: Option<Child>,
}

pub(crate) fn busybox_image() -> Image {
    busybox(
        Path::new("/bin/busybox"),
        &[Compression::Gzip, Compression::Zstd],
    )
    .expect("/bin/busybox is missing: apt-get install busybox-static")
}

/// An image without any file: what runs in it is the agent.
pub(crate) fn bare_image() -> Image {
    let layer = LayerBuilder::new().dir("etc", 0o755);
    let layer = layer.build(Compression::Gzip).unwrap();
    Image::builder().layer(layer).build()
}

/// The archive of the default image, which `cargo xtask test` builds.
pub(crate) fn debian_archive() -> PathBuf {
    let archive = std::env::var_os("BOTSTEAD_TEST_IMAGE").expect(
        "BOTSTEAD_TEST_IMAGE names no archive of the default image: run `cargo xtask test`, which \
         builds it",
    );
    PathBuf::from(archive)
}

fn agent() -> PathBuf {
    let agent = std::env::var_os("BOTSTEAD_TEST_AGENT").expect(
        "BOTSTEAD_TEST_AGENT names no static agent: run `cargo xtask test`, which builds it",
    );
    PathBuf::from(agent)
}

/// A folder where a server's data would be: on a disk, not in memory.
pub(crate) fn folder(prefix: &str) -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).tempdir_in("/var/tmp").unwrap()
}

impl Server {
    /// A running server with an admin and the image.
    pub(crate) async fn start() -> Self {
        let folder = folder("botstead-e2e-");
        let data = folder.path().join("data");
        Self::start_in(folder, data, "").await
    }

    /// The same with more settings of workspaces.
    pub(crate) async fn start_with_workspace(folder: TempDir, data: PathBuf, more: &str) -> Self {
        Self::start_configured(folder, data, more, "").await
    }

    /// The same with its data in a folder of the test's choice, and more settings.
    pub(crate) async fn start_in(folder: TempDir, data: PathBuf, settings: &str) -> Self {
        Self::start_configured(folder, data, "", settings).await
    }

    async fn start_configured(
        folder: TempDir,
        data: PathBuf,
        workspace: &str,
        settings: &str,
    ) -> Self {
        let run = tempfile::Builder::new()
            .prefix("bse-")
            .tempdir_in("/run")
            .unwrap();
        let listen = TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let config = folder.path().join("config.toml");
        let text = format!(
            "listen = \"{listen}\"\ndata_dir = {:?}\nrun_dir = {:?}\n\
             [log]\nfilter = \"info,botstead_workspace=debug\"\n\
             [registry]\ninsecure = [\"127.0.0.1:*\"]\n\
             [workspace]\nagent_path = {:?}\nstop_grace_seconds = 3\n{workspace}\
             [limits]\nmin_free_percent = 0\n{settings}",
            data,
            run.path(),
            agent()
        );
        std::fs::write(&config, text).unwrap();
        let url = format!("http://{listen}");
        let mut server = Self {
            client: Client::new(&url),
            url,
            password: String::new(),
            config,
            data,
            run,
            _folder: folder,
            process: None,
        };
        let mut create = server.command("admin");
        create.args(["create-user", "--username", "admin", "--role", "admin"]);
        let made = create.output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let password = std::fs::read_to_string(made["password_file"].as_str().unwrap()).unwrap();
        server.password = password.trim_end().to_owned();
        server.run(&[]).await;
        let mut archive = Vec::new();
        oci_archive(&mut archive, &[(Some(IMAGE), &busybox_image())], None).unwrap();
        let imported = server.client.import(archive).await;
        assert_eq!(imported.status, 201, "{imported:?}");
        server
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_botstead"));
        command
            .arg("--config")
            .arg(&self.config)
            .arg(name)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program as an administrator would, beside the server.
    pub(crate) fn admin(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.command(arguments[0]);
        command.args(&arguments[1..]).output().unwrap()
    }

    /// A path in the test's folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.config.with_file_name(name)
    }

    fn log_file(&self) -> PathBuf {
        self.config.with_file_name("server.log")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts the program and waits until it is ready and signed in.
    pub(crate) async fn run(&mut self, environment: &[(&str, &str)]) {
        self.spawn(environment);
        self.ready().await;
        self.client = Client::login(&self.url, "admin", &self.password).await;
    }

    /// A client without a token, and without connections to an earlier program.
    pub(crate) fn stranger(&self) -> Client {
        Client::new(&self.url)
    }

    /// Waits until the program that was started is ready.
    pub(crate) async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.client.is_ready().await {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the server ended ({ended:?}):\n{}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "the server is not ready:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts the program without waiting.
    pub(crate) fn spawn(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file());
        let log = log.unwrap();
        let process = self
            .command("serve")
            .envs(environment.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap());
    }

    /// Starts the program, which must end by itself with a failure, and returns what it said.
    pub(crate) fn refused_start(&self, environment: &[(&str, &str)]) -> String {
        let mut command = self.command("serve");
        let ended = command.envs(environment.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success(), "{said}");
        said
    }

    /// SIGKILL, as a crash would end it.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM; returns how long it took to end.
    pub(crate) fn terminate(&mut self) -> Duration {
        let began = Instant::now();
        let mut process = self.process.take().unwrap();
        signal(process.id(), "TERM");
        let status = process.wait().unwrap();
        assert!(status.success(), "{status:?}:\n{}", self.log());
        began.elapsed()
    }

    /// How the program ended, if it did by itself.
    #[cfg(feature = "fault-points")]
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        let status = self.process.as_mut()?.try_wait().unwrap()?;
        self.process = None;
        Some(status)
    }

    /// Whether SIGKILL ended the program, as at an armed fault point. Another end is a failure.
    #[cfg(feature = "fault-points")]
    pub(crate) fn was_killed(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let ended = self.ended();
        let killed = ended.is_some_and(|status| status.signal() == Some(9));
        assert!(ended.is_none() || killed, "{ended:?}:\n{}", self.log());
        killed
    }

    /// The memory that the server's process holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident(self.process.as_ref().unwrap().id())
    }

    /// Watches the peak of that until it is stopped.
    pub(crate) fn watch_memory(&self) -> MemoryWatch {
        let pid = self.process.as_ref().unwrap().id();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(resident(pid));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        MemoryWatch { stop, thread }
    }

    pub(crate) fn installation(&self) -> Option<String> {
        let id = std::fs::read_to_string(self.data.join("installation-id")).ok()?;
        Some(id.trim().to_owned())
    }

    /// The containerd of this server: its namespace's name and the `ctr` arguments that reach it.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same without asking that it succeeds.
    pub(crate) fn try_ctr(&self, arguments: &[&str]) -> std::process::Output {
        let id = self.installation().unwrap();
        let socket = self.run.path().join(&id).join("containerd/containerd.sock");
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(socket)
            .args(["--namespace", &format!("botstead-{id}")]);
        command.args(arguments).output().unwrap()
    }

    /// Collects garbage and returns when it is done.
    pub(crate) fn collect_garbage(&self) {
        self.ctr(&["leases", "create", "--id", "collect"]);
        self.ctr(&["leases", "delete", "--sync", "collect"]);
    }

    /// Processes whose command line names this server's run folder: containerd and shims.
    fn processes(&self) -> Vec<(u32, String)> {
        let folder = self.run.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&folder) {
                found.push((pid, line));
            }
        }
        found
    }

    /// Whether neither containerd nor a shim runs.
    pub(crate) fn nothing_runs(&self) -> bool {
        self.processes().is_empty()
    }

    /// The targets of mounts of workspaces: their root filesystems and network namespaces.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let run = self.run.path().to_string_lossy().into_owned();
        targets
            .filter(|path| path.starts_with(&run) && !path.ends_with("/netns"))
            .map(str::to_owned)
            .collect()
    }

    /// The process id of the managed containerd.
    pub(crate) fn containerd(&self) -> u32 {
        let all = self.processes();
        let found = all
            .iter()
            .find(|(_, line)| line.contains("containerd/config.toml"));
        found
            .unwrap_or_else(|| panic!("no containerd in {all:?}"))
            .0
    }

    /// What exists on the host and in containerd for workspaces, for comparing before and after.
    pub(crate) fn leftovers(&self) -> Leftovers {
        let names = |text: String| -> Vec<String> {
            let lines = text.lines().skip(1);
            lines
                .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
                .collect()
        };
        let id = self.installation().unwrap();
        let namespaces = std::fs::read_dir(self.run.path().join(&id).join("netns"));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data.to_string_lossy().into_owned();
        Leftovers {
            containers: names(self.ctr(&["containers", "list"])),
            tasks: names(self.ctr(&["tasks", "list"])),
            snapshots: names(self.ctr(&["snapshots", "list"]))
                .into_iter()
                .filter(|name| !name.starts_with("sha256:"))
                .collect(),
            leases: names(self.ctr(&["leases", "list"])),
            namespaces: namespaces.map_or(0, |entries| entries.flatten().count()),
            mounts: mounts.lines().filter(|line| line.contains(&data)).count(),
        }
    }
}

impl Server {
    /// Waits until there is what there was: what an operation needed goes after its answer.
    pub(crate) async fn becomes(&self, before: &Leftovers) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.collect_garbage();
            let now = self.leftovers();
            if now == *before {
                return;
            }
            assert!(Instant::now() < deadline, "{now:?}, not {before:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until nothing is left, without asking for a collection: deletions see to it.
    pub(crate) async fn nothing_left(&self) {
        // In one look: each collection has a lease of its own.
        let mut left = self.leftovers();
        for _ in 0..100 {
            if left.snapshots.is_empty() && left.leases.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            left = self.leftovers();
        }
        left.assert_none();
    }
}

/// A running look at a process's memory.
pub(crate) struct MemoryWatch {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl MemoryWatch {
    /// The most that was seen.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// VmRSS of proc_pid_status(5), in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// What exists for workspaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftovers {
    pub(crate) containers: Vec<String>,
    pub(crate) tasks: Vec<String>,
    pub(crate) snapshots: Vec<String>,
    pub(crate) leases: Vec<String>,
    pub(crate) namespaces: usize,
    pub(crate) mounts: usize,
}

impl Leftovers {
    pub(crate) fn assert_none(&self) {
        let none = Self {
            containers: Vec::new(),
            tasks: Vec::new(),
            snapshots: Vec::new(),
            leases: Vec::new(),
            namespaces: 0,
            mounts: 0,
        };
        assert_eq!(*self, none);
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    // It may have ended meanwhile.
    let _ = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .output();
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the server's log:\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let shims = self.processes();
        // Workspaces are children of shims; containerd first, so that nobody watches.
        let containerd = shims
            .iter()
            .filter(|(_, line)| !line.contains("containerd-shim"));
        containerd.for_each(|(pid, _)| signal(*pid, "KILL"));
        for (shim, _) in shims
            .iter()
            .filter(|(_, line)| line.contains("containerd-shim"))
        {
            for child in children(*shim) {
                signal(child, "KILL");
            }
            signal(*shim, "KILL");
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let torn = self.command("teardown").output();
        if !torn.as_ref().is_ok_and(|torn| torn.status.success()) {
            eprintln!("the network was not removed: {torn:?}");
        }
        for folder in [self.run.path().to_owned(), self.data.clone()] {
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
            let mut targets: Vec<_> = targets
                .filter(|target| Path::new(target).starts_with(&folder))
                .collect();
            targets.sort_by_key(|target| std::cmp::Reverse(target.len()));
            for target in targets
                .into_iter()
                .filter(|target| Path::new(target) != self.data)
            {
                let _ = Command::new("umount").args(["--lazy", target]).output();
            }
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}
