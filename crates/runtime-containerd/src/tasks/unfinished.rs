//! What is left where the creation of a task was cut off while containerd started its shim, as by the end
//! of the server that asked for it. containerd forgets the shim, which may wait for ever for somebody to
//! read its log, and keeps its folder, beside which it makes no other for the same container.

use botstead_runtime::Error;
use botstead_types::ContainerId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// containerd takes less than a second to remove it where it does that itself.
pub(super) const REMOVED_AFTER: Duration = Duration::from_secs(5);
/// How long a creation is waited for before a shim is looked for that does not answer.
pub(super) const UNANSWERED: Duration = Duration::from_secs(5);
/// How often is looked whether it has.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// How long a shim that was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folder that is in the way of a creation, by containerd's own words: nothing else tells where it is.
pub(super) fn folder(failed: &Error, namespace: &str, id: &ContainerId) -> Option<PathBuf> {
    let said = failed.chain();
    let (_, rest) = said.split_once("mkdir ")?;
    let (path, _) = rest.split_once(": file exists")?;
    let own = format!("/io.containerd.runtime.v2.task/{namespace}/{id}");
    path.ends_with(&own).then(|| PathBuf::from(path))
}

/// Whether a shim found its folder removed while it or runc started, or containerd one that was ending: that
/// was one of an earlier creation.
pub(super) fn is_removed_meanwhile(failed: &Error) -> bool {
    let said = failed.chain();
    let ends = ["no such file or directory", "connection refused"];
    let is_shims = said.contains("failed to start shim");
    let is_runcs = said.contains("/log.json: no such file or directory");
    is_runcs || (is_shims && ends.iter().any(|end| said.contains(end)))
}

/// Ends the shims whose folder it is, and removes it. Not where the shim came so far as to have a
/// container: containerd knows of that.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    if folder.join("init.pid").try_exists()? {
        return Err(io::Error::other("it has a container"));
    }
    end(&shims(|cwd| cwd == folder)?, folder)?;
    // A root that is mounted is a workspace's files.
    match std::fs::remove_dir(folder.join("rootfs")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::remove_dir_all(folder),
    }
}

/// Ends the shims of a container whose folder containerd has removed, and tells whether there were any. Such
/// a one is forgotten, and still listens where the container's next shim would: containerd takes it for
/// that, and waits for its answers in vain.
pub(super) fn end_forgotten(namespace: &str, id: &ContainerId) -> io::Result<bool> {
    let tasks = format!("/io.containerd.runtime.v2.task/{namespace}");
    // It has a name with a dot while it is removed.
    let forgotten = ["", "."].map(|dot| format!("{tasks}/{dot}{id} (deleted)"));
    let found = shims(|cwd| {
        let cwd = cwd.to_string_lossy();
        forgotten.iter().any(|end| cwd.ends_with(end))
    })?;
    end(&found, Path::new(&forgotten[1]))?;
    Ok(!found.is_empty())
}

fn end(shims: &[OwnedFd], folder: &Path) -> io::Result<()> {
    for shim in shims {
        tracing::warn!(folder = %folder.display(), "ending a shim that was not finished");
        match pidfd_send_signal(shim, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        wait_for(shim)?;
    }
    Ok(())
}

/// The processes with such a working directory.
fn shims(is_theirs: impl Fn(&Path) -> bool) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        // Opened first: what is read then is this process's, or it has ended and takes no signal.
        let process = id.and_then(Pid::from_raw);
        let Some(Ok(process)) = process.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            continue;
        };
        if std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| is_theirs(&cwd)) {
            found.push(process);
        }
    }
    Ok(found)
}

fn wait_for(process: &OwnedFd) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_runtime::ErrorKind;
    use botstead_types::BotId;

    #[test]
    fn only_the_containers_own_folder_is_taken_from_what_containerd_says() {
        let id = ContainerId::for_bot(BotId::generate());
        let own = format!("/run/c/io.containerd.runtime.v2.task/ns/{id}");
        let told = |text: String| {
            let failed = Error::new(ErrorKind::Internal, "create task", &id);
            folder(&failed.because("x").with_source(text), "ns", &id)
        };
        let wanted = told(format!("failed to start shim: mkdir {own}: file exists"));
        assert_eq!(wanted, Some(PathBuf::from(&own)));
        for other in [
            format!("mkdir {own}x: file exists"),
            format!("mkdir {own}: permission denied"),
            "mkdir /etc: file exists".to_owned(),
        ] {
            assert_eq!(told(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn whoever_is_in_a_folder_that_was_removed_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let id = ContainerId::for_bot(BotId::generate());
        let tasks = folder.path().join("io.containerd.runtime.v2.task/ns");
        let waiting = |name: String| {
            let own = tasks.join(name);
            std::fs::create_dir_all(&own).unwrap();
            let mut waiting = std::process::Command::new("sleep");
            (waiting.arg("600").current_dir(&own).spawn().unwrap(), own)
        };
        let (mut forgotten, removed) = waiting(format!(".{id}"));
        let (mut other, kept) = waiting(id.to_string());
        assert!(!end_forgotten("ns", &id).unwrap());
        std::fs::remove_dir(removed).unwrap();
        assert!(!end_forgotten("other", &id).unwrap());
        assert!(end_forgotten("ns", &id).unwrap());
        assert!(!forgotten.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        std::fs::remove_dir(kept).unwrap();
        assert!(end_forgotten("ns", &id).unwrap());
        other.wait().unwrap();
    }

    #[test]
    fn what_has_a_container_or_a_mounted_root_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        std::fs::create_dir_all(own.join("rootfs")).unwrap();
        std::fs::write(own.join("init.pid"), "1").unwrap();
        assert!(clear(&own).is_err());
        std::fs::remove_file(own.join("init.pid")).unwrap();
        std::fs::write(own.join("rootfs/file"), "").unwrap();
        assert!(clear(&own).is_err());
        std::fs::remove_file(own.join("rootfs/file")).unwrap();
        let mut waiting = std::process::Command::new("sleep");
        let mut waiting = waiting.arg("600").current_dir(&own).spawn().unwrap();
        clear(&own).unwrap();
        assert!(!own.exists());
        assert!(!waiting.wait().unwrap().success());
    }
}
