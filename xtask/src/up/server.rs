//! Installs and starts the server, in the background or as a systemd unit, and ends it.

use super::layout::{Place, ProcessId, State};
use crate::api::Api;
use crate::{command, progress};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The first start makes a database and starts a containerd, which alone may take two minutes on a slow
/// machine. A server that ends is not waited for.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// A server finishes what runs before it ends.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Copies a program beside its place and renames it there: what runs keeps its file, and nobody
/// sees half of one. Tells whether it changed.
pub(super) fn install(program: &Path, folder: &Path) -> Result<bool> {
    let name = program.file_name().context("the program has no name")?;
    let target = folder.join(name);
    let content =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    if fs::read(&target).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let mut unfinished = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    std::io::Write::write_all(&mut unfinished, &content)?;
    unfinished
        .as_file()
        .set_permissions(fs::Permissions::from_mode(0o755))?;
    unfinished
        .persist(&target)
        .with_context(|| format!("cannot install {}", target.display()))?;
    Ok(true)
}

/// Makes sure that the server runs and is ready; starts it anew when `changed`.
pub(super) fn ensure(place: &Place, state: &mut State, url: &str, changed: bool) -> Result<()> {
    if let Some(unit) = place.unit() {
        return ensure_unit(place, state, unit, url, changed);
    }
    let running = match state.server.filter(|server| server.is_running()) {
        Some(server) => Some(server),
        None => serving(place)?,
    };
    if let Some(server) = running {
        if !changed && !server.is_outdated() {
            progress::note(format_args!("server runs (process {})", server.pid));
            state.server = Some(server);
            state.save(place)?;
            return wait_ready(place, server, url);
        }
        progress::note("the programs changed: starting the server anew, workspaces go on");
        end(server)?;
    }
    if Api::new(url).get("/healthz").is_ok() {
        bail!(
            "another program answers at {url}; end it, or change `listen` in {} and try again",
            place.config().display()
        );
    }
    let server = spawn(place)?;
    state.server = Some(server);
    state.save(place)?;
    progress::note(format_args!(
        "server started (process {}), log: {}",
        server.pid,
        place.log().display()
    ));
    wait_ready(place, server, url)
}

fn spawn(place: &Place) -> Result<ProcessId> {
    let path = place.log();
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // A session of its own, so that closing the terminal does not end it. setsid(1) does not fork
    // when it leads no process group, as here, so the id is the server's.
    let child = Command::new("setsid")
        .arg(place.server())
        .arg("--config")
        .arg(place.config())
        .arg("serve")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the server through setsid (apt-get install util-linux)")?;
    let pid = i32::try_from(child.id()).context("the process id is out of range")?;
    ProcessId::of(pid).with_context(|| format!("the server ended at once{}", tail(place)))
}

fn ensure_unit(
    place: &Place,
    state: &mut State,
    unit: &str,
    url: &str,
    changed: bool,
) -> Result<()> {
    let advice = format!("journalctl --unit {unit} --no-pager --lines 50");
    let path = Path::new("/etc/systemd/system").join(unit);
    let text = unit_file(place);
    let same = fs::read_to_string(&path).is_ok_and(|old| old == text);
    if !same {
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        command::run(Command::new("systemctl").arg("daemon-reload"), &advice)?;
    }
    let runs = command::capture(
        Command::new("systemctl").args(["show", "--property=MainPID", "--value", unit]),
        &advice,
    )?;
    let runs = runs.trim().parse().ok().and_then(ProcessId::of);
    if let Some(server) = serving(place)?.filter(|server| Some(*server) != runs) {
        progress::note("a server was started by hand: systemd takes over, workspaces go on");
        end(server)?;
    }
    // A unit that somebody changed by hand may be in effect.
    let outdated = changed || !same || runs.is_some_and(ProcessId::is_outdated);
    let verb = verb(state.unit.as_deref(), &text, outdated);
    command::run(
        Command::new("systemctl").args(["enable", "--quiet", unit]),
        &advice,
    )?;
    // It returns when the server is ready or has failed.
    command::run(Command::new("systemctl").args([verb, unit]), &advice)?;
    state.unit = Some(text);
    state.save(place)?;
    progress::note(format_args!("systemd runs {unit}"));
    let api = Api::new(url);
    poll(READY_LIMIT, || Ok(is_ready(&api)))
        .with_context(|| format!("the server is not ready; try: {advice}"))
}

/// What systemd must do for a server that should run from `text`. `running` is the unit's text of its
/// last start: a text that was only written, by an `up` that ended halfway, is not in effect.
fn verb(running: Option<&str>, text: &str, outdated: bool) -> &'static str {
    if outdated || running != Some(text) {
        "restart"
    } else {
        "start"
    }
}

/// Workspaces and containerd outlive the server: it alone is signalled, and control groups below its
/// own are its business. At a shutdown of the host it stops them; systemd ends in the reverse order of
/// the start, so what it mounted, which comes before local-fs.target, stays until then. A start takes as
/// long as the workspaces take; what may hang has limits of its own.
fn unit_file(place: &Place) -> String {
    format!(
        "[Unit]\nDescription=Botstead, computers for bots\n\
         After=network-online.target local-fs.target\nWants=network-online.target\n\
         RequiresMountsFor={data}\n\n[Service]\nType=notify\n\
         ExecStart={server} --config {config} serve\nKillMode=process\nDelegate=yes\n\
         Restart=on-failure\nRestartSec=1\nTimeoutStartSec=infinity\nTimeoutStopSec=90\n\
         LimitNOFILE=1048576\nTasksMax=infinity\n\n[Install]\nWantedBy=multi-user.target\n",
        data = place.data_dir.display(),
        server = place.server().display(),
        config = place.config().display(),
    )
}

fn wait_ready(place: &Place, server: ProcessId, url: &str) -> Result<()> {
    let api = Api::new(url);
    poll(READY_LIMIT, || {
        if !server.is_running() {
            bail!("the server ended");
        }
        Ok(is_ready(&api))
    })
    .with_context(|| {
        format!(
            "the server is not ready; try: {} --config {} doctor{}",
            place.server().display(),
            place.config().display(),
            tail(place)
        )
    })
}

fn is_ready(api: &Api) -> bool {
    api.get("/readyz").is_ok_and(|reply| reply.status == 200)
}

/// The end of the log, for an error.
fn tail(place: &Place) -> String {
    let log = fs::read(place.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().rev().take(15).collect();
    let lines: Vec<_> = lines.into_iter().rev().collect();
    format!(
        "\nend of {}:\n  {}\n",
        place.log().display(),
        lines.join("\n  ")
    )
}

fn poll(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done()? {
        if Instant::now() > deadline {
            bail!("waited {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The server that has the data directory, whoever started it.
pub(crate) fn serving(place: &Place) -> Result<Option<ProcessId>> {
    let path = place.data_dir.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot open {}", path.display()));
        }
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => {}
        // The id in it is of one that ended.
        Ok(_) => return Ok(None),
        Err((_, error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let process = text.trim().parse().ok().and_then(ProcessId::of);
    // Other commands of the program have it for a moment.
    Ok(process.filter(|process| {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"serve")
    }))
}

/// Asks a process to end and waits until it has.
pub(crate) fn end(process: ProcessId) -> Result<()> {
    let pid = Pid::from_raw(process.pid);
    if !process.is_running() {
        return Ok(());
    }
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot signal process {pid}"))?;
    poll(END_LIMIT, || Ok(!process.is_running()))
        .with_context(|| format!("process {pid} does not end; try: kill -KILL {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installs_only_what_changed() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let program = from.path().join("tool");
        fs::write(&program, "one").unwrap();
        assert!(install(&program, to.path()).unwrap());
        assert!(!install(&program, to.path()).unwrap());
        fs::write(&program, "two").unwrap();
        assert!(install(&program, to.path()).unwrap());
        let installed = to.path().join("tool");
        assert_eq!(fs::read_to_string(&installed).unwrap(), "two");
        let mode = fs::metadata(&installed).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn a_changed_unit_restarts_the_server_until_it_runs_from_it() {
        assert_eq!(verb(Some("text"), "text", false), "start");
        assert_eq!(verb(Some("text"), "text", true), "restart");
        assert_eq!(verb(Some("old"), "text", false), "restart");
        // Nobody knows what it was started with: from before this was recorded.
        assert_eq!(verb(None, "text", false), "restart");
    }

    #[test]
    fn systemd_understands_the_unit() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            data_dir: folder.path().to_owned(),
            run_dir: folder.path().join("run"),
            port: None,
        };
        // It looks for the program.
        fs::create_dir(place.programs()).unwrap();
        install(Path::new("/bin/true"), &place.programs()).unwrap();
        fs::rename(place.programs().join("true"), place.server()).unwrap();
        let text = unit_file(&place);
        for line in [
            "Type=notify",
            "KillMode=process",
            "TimeoutStartSec=infinity",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let unit = folder.path().join("botstead.service");
        fs::write(&unit, text).unwrap();
        let analyzed = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit)
            .output()
            .expect("systemd-analyze is missing: apt-get install systemd");
        let said = String::from_utf8_lossy(&analyzed.stderr);
        let about: Vec<_> = said
            .lines()
            .filter(|line| line.contains("botstead"))
            .collect();
        assert!(analyzed.status.success() && about.is_empty(), "{said}");
    }

    #[test]
    fn a_replaced_program_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleep");
        fs::copy(command::find("sleep").unwrap(), &program).unwrap();
        let mut child = Command::new(&program).arg("600").spawn().unwrap();
        let process = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.is_outdated());
        fs::remove_file(&program).unwrap();
        assert!(process.is_outdated());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn ends_a_process_and_no_stranger() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.is_outdated());
        end(process).unwrap();
        assert!(!child.wait().unwrap().success());
        // It is gone: nothing to signal any more.
        end(process).unwrap();
    }
}
