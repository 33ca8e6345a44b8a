//! A server of the bench's own, with its own containerd, in temporary folders.

use crate::api::Api;
use crate::bare::{Bare, Daemon};
use anyhow::{Context, Result, bail};
use botstead_image_fixtures::{Compression, busybox, oci_archive};
use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The name of the image that everything is made from.
pub(crate) const IMAGE: &str = "localhost/bench/busybox:latest";
/// What the image has in it, and where it comes from.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
const READY: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);

/// The server's programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) agent: PathBuf,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) api: Api,
    process: Child,
    id: String,
    data: TempDir,
    run: TempDir,
}

impl Server {
    /// Starts it, with an admin and the image.
    pub(crate) async fn start(programs: &Programs) -> Result<Self> {
        // On the disk, where a server's data would be, and sockets where paths are short.
        let data = tempfile::Builder::new()
            .prefix("botstead-bench-")
            .tempdir_in("/var/tmp")?;
        let run = tempfile::Builder::new()
            .prefix("bsbench-")
            .tempdir_in("/run")?;
        let listen = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let config = data.path().join("config.toml");
        let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
        fs::write(
            &config,
            format!(
                "listen = \"{listen}\"\ndata_dir = {}\nrun_dir = {}\n[workspace]\nagent_path = {}\n",
                quoted(&data.path().join("data")),
                quoted(run.path()),
                quoted(&programs.agent),
            ),
        )?;
        let command = || {
            let mut command = Command::new(&programs.server);
            command.arg("--config").arg(&config).stdin(Stdio::null());
            command
        };
        let created = command()
            .args([
                "admin",
                "create-user",
                "--username",
                "bench",
                "--role",
                "admin",
            ])
            .output()
            .context("cannot run the server's program")?;
        let created: Value = serde_json::from_slice(&created.stdout)
            .with_context(|| String::from_utf8_lossy(&created.stderr).into_owned())
            .context("`botstead admin create-user` failed")?;
        // Programs before 2026-12 print it themselves.
        let password = match created["password_file"].as_str() {
            Some(file) => fs::read_to_string(file)?.trim_end().to_owned(),
            None => created["password"]
                .as_str()
                .context("no password was made")?
                .to_owned(),
        };
        let log = fs::File::create(data.path().join("server.log"))?;
        let mut process = command()
            .arg("serve")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the server")?;
        let url = format!("http://{listen}");
        let ready = wait_ready(&url, &mut process).await;
        let id = fs::read_to_string(data.path().join("data/installation-id"))?
            .trim()
            .to_owned();
        let signed_in = match ready {
            Ok(()) => Api::login(&url, "bench", &password).await,
            Err(error) => Err(error),
        };
        match signed_in {
            Ok(api) => Ok(Self {
                api,
                process,
                id,
                data,
                run,
            }),
            Err(error) => {
                let log = fs::read_to_string(data.path().join("server.log")).unwrap_or_default();
                let _ = process.kill();
                let _ = process.wait();
                end_containerd(&run.path().join(&id).join("containerd/containerd.sock")).await?;
                Err(error.context(format!("the server's log:\n{log}")))
            }
        }
    }

    /// Gives it the image.
    pub(crate) async fn import_image(&self) -> Result<()> {
        let image = busybox(Path::new(BUSYBOX), &[Compression::Gzip])
            .with_context(|| format!("no {BUSYBOX}; apt-get install busybox-static"))?;
        let mut archive = Vec::new();
        oci_archive(&mut archive, &[(Some(IMAGE), &image)], None)?;
        self.api.import_image(archive).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run
            .path()
            .join(&self.id)
            .join("containerd/containerd.sock")
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.run.path()
    }

    pub(crate) fn containerd_namespace(&self) -> String {
        format!("botstead-{}", self.id)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What is resident of it, in KiB.
    pub(crate) fn resident(&self) -> Result<u64> {
        Ok(memory(self.pid())?.0)
    }

    pub(crate) async fn containerd_pid(&self) -> Result<u32> {
        Ok(u32::try_from(listener(&self.socket()).await?)?)
    }

    /// The shims' process ids.
    pub(crate) fn shims(&self) -> Result<Vec<u32>> {
        let socket = self.socket().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse() else {
                continue;
            };
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if line.starts_with("/usr/bin/containerd-shim") && line.contains(&socket) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// The end of its log, for a failure.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.data.path().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends server, workspaces and containerd, and removes everything.
    pub(crate) async fn end(mut self, bare: Option<&Bare>) -> Result<()> {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM);
        let deadline = Instant::now() + END;
        while self.process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.process.kill()?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Where there is no containerd any more, there is nobody who could end them.
        let namespace = self.containerd_namespace();
        if let Ok(daemon) = Daemon::connect(&self.socket(), &namespace).await {
            let ended = daemon.end_all().await;
            ended.context("cannot end the containers")?;
        }
        if let Some(bare) = bare {
            bare.clear().await.context("cannot remove their network")?;
        }
        let namespaces = self.run.path().join(&self.id).join("netns");
        let network = BridgeNetwork::new(BridgeConfig::for_installation(&self.id, &namespaces))?;
        for id in botstead_runtime::Network::list(&network).await? {
            botstead_runtime::Network::remove(&network, &id).await?;
        }
        network.teardown_host().await?;
        end_containerd(&self.socket()).await?;
        for folder in [self.run.path(), self.data.path()] {
            unmount_below(folder)?;
        }
        remove_control_groups(&self.containerd_namespace());
        self.run.close()?;
        Ok(self.data.close()?)
    }
}

async fn wait_ready(url: &str, process: &mut Child) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + READY;
    loop {
        let reply = client.get(format!("{url}/readyz")).send().await;
        if reply.is_ok_and(|reply| reply.status().is_success()) {
            return Ok(());
        }
        if let Some(status) = process.try_wait()? {
            bail!("the server ended ({status})");
        }
        if Instant::now() > deadline {
            bail!("the server is not ready after {} s", READY.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The process that listens on a socket: its owner told by the kernel (unix(7), SO_PEERCRED).
async fn listener(socket: &Path) -> Result<i32> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream
        .peer_cred()?
        .pid()
        .context("the kernel does not tell")
}

async fn end_containerd(socket: &Path) -> Result<()> {
    let Ok(pid) = listener(socket).await else {
        return Ok(());
    };
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    let deadline = Instant::now() + END;
    while Path::new(&format!("/proc/{pid}/cwd")).exists() {
        if Instant::now() > deadline {
            bail!("containerd (process {pid}) does not end");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Lazily, the deepest first: what a failed run left mounted must not keep its folder.
fn unmount_below(folder: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut targets: Vec<&Path> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(Path::new))
        .filter(|target| target.starts_with(folder))
        .collect();
    targets.sort_by_key(|target| std::cmp::Reverse(target.components().count()));
    for target in targets {
        umount2(target, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    Ok(())
}

/// The installation's control group in every hierarchy. Best effort: an empty folder does no harm.
fn remove_control_groups(name: &str) {
    let roots = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    let roots = roots
        .map(|entry| entry.path())
        .chain(["/sys/fs/cgroup".into()]);
    for group in roots
        .map(|root| root.join(name))
        .filter(|group| group.is_dir())
    {
        for child in fs::read_dir(&group).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(child.path());
        }
        let _ = fs::remove_dir(group);
    }
}

/// Ticks of /proc in a second: USER_HZ of x86-64 and arm64.
const TICKS: u64 = 100;

/// How long a process and its threads have run on a processor, with the children that it waited for
/// (proc_pid_stat(5)), and who its parent is.
pub(crate) fn processor_time(pid: u32) -> Result<(Duration, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("cannot read what process {pid} has used"))?;
    // The name is in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(')').context("no such field")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |number: usize| -> Result<u64> {
        // The fields are counted from 1, and the first two are behind.
        let field = fields.get(number - 3).context("no such field")?;
        Ok(field.parse()?)
    };
    let ticks: u64 = [14, 15, 16, 17].into_iter().map(field).sum::<Result<_>>()?;
    let used = Duration::from_millis(ticks * 1000 / TICKS);
    Ok((used, u32::try_from(field(4)?)?))
}

/// Memory of a process in KiB: resident, and its proportional share (proc_pid_smaps_rollup).
pub(crate) fn memory(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("cannot read the memory of process {pid}"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|number| number.parse().ok())
            .context("no such field")
    };
    Ok((field("Rss:")?, field("Pss:")?))
}
