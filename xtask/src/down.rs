//! `cargo xtask down`: ends what `up` started. Workspaces outlive the server by design, so they and
//! their containerd are ended here, one by one, found by the installation's own folders.

use crate::progress::{note, step};
use crate::up::layout::{Place, ProcessId, State};
use crate::up::sysctl;
use crate::{command, up};
use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long processes may take to end before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// Ends the server, its workspaces and its containerd; `purge` removes the data as well.
pub(crate) fn run(place: &Place, purge: bool, yes: bool) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`cargo xtask down` ends root's processes and must run as root");
    }
    if !up::is_installed(place) && !place.data_dir.exists() {
        note(format_args!("nothing at {}", place.data_dir.display()));
        return Ok(());
    }
    if purge && !yes {
        bail!(
            "--purge removes {} with every workspace, version and account; say so with --yes",
            place.data_dir.display()
        );
    }
    let mut state = State::load(place)?;
    step("end the server", || end_server(place, &mut state))?;
    let Some(run_dir) = run_dir(place)? else {
        note("the server never ran: no workspaces");
        return if purge { remove(place, None) } else { Ok(()) };
    };
    step("end workspaces and containerd", || end_processes(&run_dir))?;
    step("remove the network", || {
        let mut teardown = Command::new(place.server());
        teardown.arg("--config").arg(place.config()).arg("teardown");
        command::run(&mut teardown, "run it by hand: what it names is in the way")
    })?;
    // Not below the data folder: what is mounted there is the owner's own choice of disks.
    step("unmount", || unmount_below(&run_dir))?;
    if purge {
        step("remove the data", || remove(place, Some(&run_dir)))?;
    } else {
        note("data and versions stay; `cargo xtask up` starts again");
    }
    Ok(())
}

fn end_server(place: &Place, state: &mut State) -> Result<()> {
    if let Some(unit) = place.unit() {
        let path = Path::new("/etc/systemd/system").join(unit);
        if path.exists() {
            command::run(
                Command::new("systemctl").args(["disable", "--now", "--quiet", unit]),
                &format!("systemctl status {unit}"),
            )?;
        }
    }
    if let Some(server) = state.server.take() {
        up::server::end(server)?;
        state.save(place)?;
    }
    // One that somebody started by hand.
    if let Some(server) = up::server::serving(place)? {
        up::server::end(server)?;
    }
    Ok(())
}

/// The folder of this installation's sockets: its id is in every path and command line that belongs
/// to it.
fn run_dir(place: &Place) -> Result<Option<PathBuf>> {
    let path = place.data_dir.join("installation-id");
    let id = match fs::read_to_string(&path) {
        Ok(id) => id.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    if id.len() < 4 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        bail!("{} holds no id: {id:?}", path.display());
    }
    Ok(Some(place.read_config()?.run_dir.join(id)))
}

/// Ends the workspaces (children of shims) first, then containerd, then the shims.
fn end_processes(run_dir: &Path) -> Result<()> {
    let ours = processes_naming(run_dir)?;
    let (shims, others): (Vec<_>, Vec<_>) = ours
        .into_iter()
        .partition(|(_, program)| program.starts_with("containerd-shim"));
    let pids = |found: Vec<(ProcessId, String)>| -> Vec<ProcessId> {
        found.into_iter().map(|(process, _)| process).collect()
    };
    let (shims, daemons) = (pids(shims), pids(others));
    let workspaces = children_of(&shims)?;
    note(format_args!(
        "{} workspaces, {} shims, {} daemons",
        workspaces.len(),
        shims.len(),
        daemons.len()
    ));
    for group in [workspaces, daemons, shims] {
        end_all(&group)?;
    }
    Ok(())
}

fn end_all(processes: &[ProcessId]) -> Result<()> {
    for (signal, limit) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, GRACE)] {
        let alive = || processes.iter().filter(|process| process.is_running());
        for process in alive() {
            // It may end in this moment, which is what is wanted.
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        let deadline = Instant::now() + limit;
        while alive().next().is_some() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if let Some(process) = processes.iter().find(|process| process.is_running()) {
        bail!(
            "process {} does not even end by SIGKILL; look at its state in /proc",
            process.pid
        );
    }
    Ok(())
}

fn all_processes() -> Result<impl Iterator<Item = i32>> {
    Ok(fs::read_dir("/proc")
        .context("cannot list /proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The processes with an argument inside `folder`, with the name of their program. This process
/// and what started it may name the folder as well, and are no daemons.
fn processes_naming(folder: &Path) -> Result<Vec<(ProcessId, String)>> {
    let inside = format!("{}/", folder.display());
    let mut found = Vec::new();
    for pid in all_processes()? {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let mut words = arguments.split('\0');
        let program = words.next().and_then(|path| path.rsplit('/').next());
        let Some(program) = program.filter(|name| name.starts_with("containerd")) else {
            continue;
        };
        let names_it = words.any(|word| word.contains(&inside));
        if let Some(process) = ProcessId::of(pid).filter(|_| names_it) {
            found.push((process, program.to_owned()));
        }
    }
    Ok(found)
}

fn children_of(parents: &[ProcessId]) -> Result<Vec<ProcessId>> {
    Ok(all_processes()?
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(") ")
                .and_then(|(_, columns)| columns.split(' ').nth(1)?.parse::<i32>().ok());
            parents.iter().any(|shim| Some(shim.pid) == parent)
        })
        .filter_map(ProcessId::of)
        .collect())
}

/// Unmounts what is mounted below a folder, the deepest first. Lazily: a file that is still open
/// somewhere must not keep the rest.
fn unmount_below(folder: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let mut targets = mounts_below(&table, folder);
    targets.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for target in targets {
        umount2(&target, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    Ok(())
}

/// Mount points are column 5 of mountinfo (proc(5)), with blanks and the like as octal numbers.
fn mounts_below(table: &str, folder: &Path) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| {
            let path = path.replace("\\040", " ").replace("\\011", "\t");
            PathBuf::from(path.replace("\\012", "\n").replace("\\134", "\\"))
        })
        .filter(|path| path.starts_with(folder) && path != folder)
        .collect()
}

fn remove(place: &Place, run_dir: Option<&Path>) -> Result<()> {
    if let Some(unit) = place.unit() {
        let path = Path::new("/etc/systemd/system").join(unit);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            command::run(
                Command::new("systemctl").arg("daemon-reload"),
                "systemctl status",
            )?;
        }
    }
    if place.is_usual()
        && let Err(error) = fs::remove_file(sysctl::FILE)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", sysctl::FILE));
    }
    for folder in run_dir.into_iter().chain([place.data_dir.as_path()]) {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => note(format_args!("removed {}", folder.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_count() {
        let table = "25 1 8:1 / / rw - ext4 /dev/vda rw\n\
                     90 25 0:50 / /run/b/1f/task/rootfs rw - overlay overlay rw\n\
                     91 25 0:51 / /run/b/1f2/other rw - overlay overlay rw\n\
                     92 25 0:52 / /run/b/1f/a\\040b rw - overlay overlay rw\n";
        let found = mounts_below(table, Path::new("/run/b/1f"));
        assert_eq!(
            found,
            [
                Path::new("/run/b/1f/task/rootfs"),
                Path::new("/run/b/1f/a b")
            ]
        );
    }

    #[test]
    fn purge_wants_to_be_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            data_dir: folder.path().to_owned(),
            run_dir: folder.path().join("run"),
            port: None,
        };
        // As root it asks for the confirmation, as anybody else for root: in no case it removes.
        assert!(run(&place, true, false).is_err());
        assert!(folder.path().exists());
    }

    #[test]
    fn ends_a_server_that_was_started_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            data_dir: folder.path().to_owned(),
            run_dir: folder.path().join("run"),
            port: None,
        };
        assert_eq!(up::server::serving(&place).unwrap(), None);
        let lock = folder.path().join("lock");
        let start = |word: &str| {
            let script = "exec 9>>\"$1\"; flock 9; echo $$ >\"$1\"; read line";
            let started = Command::new("sh")
                .args(["-c", script, word])
                .arg(&lock)
                .stdin(std::process::Stdio::piped())
                .spawn();
            let pid = format!("{}\n", started.as_ref().unwrap().id());
            let deadline = Instant::now() + Duration::from_secs(10);
            while fs::read_to_string(&lock).unwrap_or_default() != pid {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(10));
            }
            started.unwrap()
        };
        let mut server = start("serve");
        let found = up::server::serving(&place).unwrap().unwrap();
        assert_eq!(u32::try_from(found.pid).unwrap(), server.id());
        let waiter = std::thread::spawn(move || server.wait());
        end_server(&place, &mut State::default()).unwrap();
        assert!(!waiter.join().unwrap().unwrap().success());
        // Its id is still in the file.
        assert_eq!(up::server::serving(&place).unwrap(), None);
        // A command of the program that has the data directory for a moment.
        let mut other = start("doctor");
        assert_eq!(up::server::serving(&place).unwrap(), None);
        drop(other.stdin.take());
        other.wait().unwrap();
    }

    #[test]
    fn finds_daemons_by_their_folder_and_ends_them_with_their_children() {
        let folder = tempfile::tempdir().unwrap();
        let shell = command::find("sh").unwrap();
        let shim = folder.path().join("containerd-shim-test");
        std::os::unix::fs::symlink(shell, &shim).unwrap();
        let run_dir = folder.path().join("run");
        let start = |socket: PathBuf| {
            Command::new(&shim)
                .args(["-c", "sleep 600; true", "-address"])
                .arg(socket)
                .spawn()
                .unwrap()
        };
        let mut ours = start(run_dir.join("containerd.sock"));
        let mut stranger = start(folder.path().join("run2/containerd.sock"));
        let pid = i32::try_from(ours.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let child = loop {
            let found = processes_naming(&run_dir).unwrap();
            if let [(process, _)] = found[..] {
                assert_eq!(process.pid, pid);
                if let [child] = children_of(&[process]).unwrap()[..] {
                    break child;
                }
            }
            assert!(Instant::now() < deadline, "{found:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        // Waiting beside it, as the shim's parent would: a zombie is no running process.
        let waiter = std::thread::spawn(move || ours.wait());
        end_processes(&run_dir).unwrap();
        waiter.join().unwrap().unwrap();
        assert!(!child.is_running());
        assert!(stranger.try_wait().unwrap().is_none());
        let stranger_id = ProcessId::of(i32::try_from(stranger.id()).unwrap()).unwrap();
        end_all(&children_of(&[stranger_id]).unwrap()).unwrap();
        stranger.wait().unwrap();
    }
}
