//! A server with folders of its own, and everything that it leaves on the host removed again.

use super::client::Client;
use super::fixtures::busybox_image;
use super::host::{
    end_processes_below, eventually, mounts_below, processes_below, remove_control_groups,
};
use botstead_image_fixtures::oci_archive;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tempfile::TempDir;

/// The default image, which every server has.
pub(crate) const IMAGE: &str = "localhost/e2e/busybox:latest";

/// How a server differs from the usual one.
#[derive(Default)]
pub(crate) struct Settings {
    /// Where its data goes, when not in a temporary folder.
    pub(crate) data: Option<PathBuf>,
    /// Lines of `[limits]`.
    pub(crate) limits: &'static str,
}

pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) base: String,
    pub(crate) data: PathBuf,
    pub(crate) id: String,
    run: PathBuf,
    folder: TempDir,
    run_folder: TempDir,
    process: Option<Child>,
    starts: u32,
}

/// A server for tests that neither kill it nor count what it has. It ends with the last test
/// that holds it.
pub(crate) fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(Server::start(&Settings::default()));
    *shared = Arc::downgrade(&server);
    server
}

fn agent() -> PathBuf {
    std::env::var_os("BOTSTEAD_TEST_AGENT")
        .map(PathBuf::from)
        .expect("BOTSTEAD_TEST_AGENT names the static agent; `cargo xtask test` builds it and sets this")
}

impl Server {
    /// A running server with an admin and the default image.
    pub(crate) fn start(settings: &Settings) -> Self {
        // Data on a disk with room; sockets where paths are short.
        let mut names = tempfile::Builder::new();
        names.prefix("bst-");
        let folder = names.tempdir_in("/var/tmp").unwrap();
        let run_folder = names.tempdir_in("/run").unwrap();
        let own_data = folder.path().join("data");
        let data = settings.data.clone().unwrap_or(own_data);
        let config = format!(
            "listen = \"127.0.0.1:0\"\ndata_dir = {data:?}\nrun_dir = {:?}\n\
             [log]\nformat = \"json\"\nfilter = \"info,botstead_workspace=debug\"\n\
             [workspace]\ndefault_image = {IMAGE:?}\nagent_path = {:?}\nstop_grace_seconds = 2\n\
             [shutdown]\ngrace_seconds = 4\n\
             [limits]\n{}\n",
            run_folder.path(),
            agent(),
            settings.limits,
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let mut server = Self {
            client: Client::anonymous(""),
            base: String::new(),
            id: String::new(),
            run: PathBuf::new(),
            data,
            folder,
            run_folder,
            process: None,
            starts: 0,
        };
        let made = server
            .program()
            .args(["admin", "create-user", "--username", "admin", "--role", "admin"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let id = fs::read_to_string(server.data.join("installation-id")).unwrap();
        server.id = id.trim().to_owned();
        server.run = server.run_folder.path().join(&server.id);
        server.launch(&[]);
        let password = made["password"].as_str().unwrap();
        server.client = Client::signed_in(&server.base, "admin", password);
        let mut archive = Vec::new();
        oci_archive(&mut archive, &[(Some(IMAGE), &busybox_image())], None).unwrap();
        server.client.import(archive).expect(201);
        server
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_botstead"));
        command
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Starts the program and waits until it listens.
    pub(crate) fn launch(&mut self, environment: &[(&str, &str)]) {
        assert!(self.process.is_none(), "it runs");
        self.starts += 1;
        let log = File::create(self.log()).unwrap();
        let child = self
            .program()
            .arg("serve")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        let log = self.log();
        self.base = eventually("the server listens", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            let text = fs::read_to_string(&log).unwrap();
            assert!(ended.is_none(), "the server ended: {text}");
            text.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == "listening")
                    .then(|| format!("http://{}", line["address"].as_str().unwrap()))
            })
        });
        self.client = self.client.at(&self.base);
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join(format!("server-{}.log", self.starts))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.as_ref().unwrap().id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the end of the program.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.process.take().unwrap();
        eventually("the server ends", || child.try_wait().unwrap())
    }

    /// Whether the program ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    pub(crate) fn containerd_pid(&self) -> i32 {
        self.containerd_pid_if_any().expect("containerd runs")
    }

    pub(crate) fn containerd_pid_if_any(&self) -> Option<i32> {
        let found = processes_below(&self.run);
        let mut daemons = found.iter().filter(|(_, program)| program == "containerd");
        let (pid, _) = daemons.next()?;
        assert!(daemons.next().is_none(), "two daemons: {found:?}");
        Some(*pid)
    }

    /// What `ctr` prints about this server's containerd.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let socket = find(&self.run, "containerd.sock").unwrap();
        let done = Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(["--namespace", &format!("botstead-{}", self.id)])
            .args(arguments)
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// The first column of what `ctr` lists.
    pub(crate) fn ctr_list(&self, arguments: &[&str]) -> BTreeSet<String> {
        let text = self.ctr(arguments);
        text.lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    /// Has containerd collect garbage, and waits for it.
    pub(crate) fn collect_garbage(&self) {
        self.ctr(&["leases", "create", "--id", "collect"]);
        self.ctr(&["leases", "delete", "--sync", "collect"]);
    }

    /// The process id of a workspace's agent.
    pub(crate) fn workspace_pid(&self, bot: &str) -> i32 {
        let tasks = self.ctr(&["tasks", "ls"]);
        let name = format!("workspace-{bot}");
        let line = tasks.lines().find(|line| line.starts_with(&name));
        let line = line.unwrap_or_else(|| panic!("no task of {bot}: {tasks}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Everything on the host that belongs to workspaces of this server, to be compared.
    pub(crate) fn belongings(&self) -> Belongings {
        let snapshots = self.ctr(&["snapshots", "ls"]);
        let lists = |kind: &str| -> BTreeSet<String> {
            let rows = snapshots.lines().skip(1);
            rows.filter(|row| row.split_whitespace().last() == Some(kind))
                .filter_map(|row| row.split_whitespace().next().map(str::to_owned))
                .collect()
        };
        let links = Command::new("ip")
            .args(["-o", "link", "show", "master", &self.bridge()])
            .output()
            .unwrap();
        Belongings {
            containers: self.ctr_list(&["containers", "ls"]),
            tasks: self.ctr_list(&["tasks", "ls"]),
            active: lists("Active"),
            committed: lists("Committed"),
            leases: self.ctr_list(&["leases", "ls"]),
            mounts: mounts_below(self.run_folder.path()).into_iter().collect(),
            links: String::from_utf8(links.stdout).unwrap().lines().count(),
        }
    }

    fn bridge(&self) -> String {
        let config = botstead_network_bridge::BridgeConfig::for_installation(&self.id, "/nowhere");
        config.bridge_name
    }

    fn clean(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            for _ in 0..1000 {
                if !matches!(child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        end_processes_below(self.run_folder.path());
        if let Ok(done) = self.program().arg("teardown").output()
            && !done.status.success()
        {
            eprintln!("teardown: {}", String::from_utf8_lossy(&done.stderr));
        }
        for mount in mounts_below(self.run_folder.path())
            .into_iter()
            .chain(mounts_below(&self.data))
        {
            let _ = umount2(&mount, MntFlags::MNT_DETACH);
        }
        remove_control_groups(&format!("botstead-{}", self.id));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.len().saturating_sub(60);
            eprintln!("the server's log:\n{}", lines[last..].join("\n"));
        }
        self.clean();
    }
}

/// What exists, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Belongings {
    pub(crate) containers: BTreeSet<String>,
    pub(crate) tasks: BTreeSet<String>,
    pub(crate) active: BTreeSet<String>,
    pub(crate) committed: BTreeSet<String>,
    pub(crate) leases: BTreeSet<String>,
    pub(crate) mounts: BTreeSet<PathBuf>,
    pub(crate) links: usize,
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        if path.file_name()? == name {
            return Some(path);
        }
        // State folders are deep and hold no socket of the daemon.
        let deeper = path.is_dir() && path.file_name()? == "containerd";
        deeper.then(|| find(&path, name)).flatten()
    })
}
