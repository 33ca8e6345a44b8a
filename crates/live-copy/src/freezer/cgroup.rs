//! The freezer of a control group, of version 1 (the `freezer` controller) and 2
//! (kernel documentation: admin-guide/cgroup-v1/freezer-subsystem, admin-guide/cgroup-v2).

use super::guard::Watching;
use super::{FreezeError, Freezer, Frozen, Guard, Thaw};
use crate::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks; most processes stand still after two or three.
const LOOK_AGAIN: Duration = Duration::from_micros(50);
/// So many looks without a pause in between.
const EAGER: u32 = 4;

/// The two ways that a control group is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// One file is written and read back, until it says that all stand still.
    One,
    /// One file is written, another says when all stand still.
    Two,
}

impl Version {
    fn written(self) -> &'static str {
        match self {
            Self::One => "freezer.state",
            Self::Two => "cgroup.freeze",
        }
    }

    fn read(self) -> &'static str {
        match self {
            Self::One => "freezer.state",
            Self::Two => "cgroup.events",
        }
    }

    fn freeze(self) -> &'static str {
        match self {
            Self::One => "FROZEN",
            Self::Two => "1",
        }
    }

    fn thaw(self) -> &'static str {
        match self {
            Self::One => "THAWED",
            Self::Two => "0",
        }
    }

    /// Whether all stand still, from what the file that is read holds.
    fn says_frozen(self, text: &str) -> bool {
        match self {
            Self::One => text.trim_end() == "FROZEN",
            Self::Two => text.lines().any(|line| line == "frozen 1"),
        }
    }
}

/// Freezes a control group with all groups below it.
#[derive(Debug)]
pub struct CgroupFreezer {
    guard: Guard,
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    version: Version,
}

impl CgroupFreezer {
    /// The group at `path`, of either version: on a host that has both, the folder below the `freezer`
    /// controller's mount, or that of version 2 if the processes are in such a group.
    ///
    /// # Errors
    /// [`Error::Group`] when there is no group or it has no freezer, as the root has none.
    pub fn new(path: impl Into<PathBuf>, guard: Guard) -> Result<Self, Error> {
        let path = path.into();
        let version = [Version::One, Version::Two]
            .into_iter()
            .find(|version| path.join(version.written()).exists());
        let Some(version) = version else {
            return Err(Error::Group {
                operation: "find the freezer of",
                group: path,
                source: io::ErrorKind::NotFound.into(),
            });
        };
        Ok(Self {
            guard,
            group: Arc::new(Group { path, version }),
        })
    }
}

impl Freezer for CgroupFreezer {
    fn freeze(&self, deadline: Duration) -> Result<Box<dyn Frozen>, FreezeError> {
        let group = &self.group;
        let state = group.open_state()?;
        if group.is_asked_for()? {
            // Someone paused it. It may not be complete yet.
            group.wait(&state, Instant::now(), deadline)?;
            return Ok(Box::new(FrozenGroup {
                group: Arc::clone(group),
                state,
                ours: None,
            }));
        }
        let file = group.path.join(group.version.written());
        let watching = self.guard.start(&file, group.version.thaw());
        let watching = watching.map_err(|source| Error::Guard {
            program: self.guard.program().to_owned(),
            source,
        })?;
        let since = Instant::now();
        // From here on dropping it thaws.
        let frozen = FrozenGroup {
            group: Arc::clone(group),
            state,
            ours: Some((since, watching)),
        };
        group.write(group.version.freeze())?;
        group.wait(&frozen.state, since, deadline)?;
        Ok(Box::new(frozen))
    }

    fn processes(&self) -> Result<Vec<u32>, Error> {
        self.group.processes()
    }
}

impl Group {
    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Group {
            operation,
            group: self.path.clone(),
            source,
        }
    }

    fn open_state(&self) -> Result<File, Error> {
        File::open(self.path.join(self.version.read())).map_err(self.failed("read the state of"))
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let path = self.path.join(self.version.written());
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(self.failed("change the state of"))
    }

    /// Whether it, or a group above it, was told to freeze.
    fn is_asked_for(&self) -> Result<bool, Error> {
        let read = |name: &str| {
            fs::read_to_string(self.path.join(name)).map_err(self.failed("read the state of"))
        };
        match self.version {
            Version::One => Ok(read("freezer.state")?.trim_end() != "THAWED"),
            Version::Two => {
                let own = read("cgroup.freeze")?.trim_end() == "1";
                Ok(own || self.version.says_frozen(&read("cgroup.events")?))
            }
        }
    }

    fn is_frozen(&self, state: &File) -> Result<bool, Error> {
        let mut text = [0; 256];
        let length = state
            .read_at(&mut text, 0)
            .map_err(self.failed("read the state of"))?;
        let text = String::from_utf8_lossy(&text[..length]);
        Ok(self.version.says_frozen(&text))
    }

    /// Waits until all stand still, for `limit` after `since`.
    fn wait(&self, state: &File, since: Instant, limit: Duration) -> Result<(), FreezeError> {
        let mut looks = 0;
        while !self.is_frozen(state)? {
            let waited = since.elapsed();
            if waited >= limit {
                return Err(FreezeError::Slow { waited });
            }
            looks += 1;
            if looks > EAGER {
                thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    fn processes(&self) -> Result<Vec<u32>, Error> {
        let failed = || self.failed("list the processes of");
        let mut all = Vec::new();
        let mut groups = vec![self.path.clone()];
        while let Some(group) = groups.pop() {
            match members(&group, &mut groups) {
                Ok(members) => all.extend(members),
                // A group below that was removed meanwhile.
                Err(error) if group != self.path && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed()(error)),
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

/// The processes of one group; adds the groups right below it to `groups`.
fn members(group: &Path, groups: &mut Vec<PathBuf>) -> io::Result<Vec<u32>> {
    let list = match fs::read_to_string(group.join("cgroup.procs")) {
        // A group of threads (version 2): its processes are those of a group above.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
            String::new()
        }
        list => list?,
    };
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            groups.push(entry.path());
        }
    }
    Ok(list.lines().filter_map(|line| line.parse().ok()).collect())
}

struct FrozenGroup {
    group: Arc<Group>,
    state: File,
    /// When we froze it, and who sees to it that it is thawed; absent when someone else had.
    ours: Option<(Instant, Watching)>,
}

impl Frozen for FrozenGroup {
    fn processes(&self) -> Result<Vec<u32>, Error> {
        self.group.processes()
    }

    fn since(&self) -> Option<(Instant, Duration)> {
        let (since, watching) = self.ours.as_ref()?;
        Some((*since, watching.until.saturating_duration_since(*since)))
    }

    fn thaw(mut self: Box<Self>) -> Result<Thaw, Error> {
        let still = self.group.is_frozen(&self.state)?;
        let Some((since, watching)) = self.ours.take() else {
            return Ok(if still {
                Thaw::InTime {
                    frozen: Duration::ZERO,
                }
            } else {
                Thaw::Interfered
            });
        };
        if let Err(error) = self.group.write(self.group.version.thaw()) {
            // The guard tries.
            drop(watching);
            return Err(error);
        }
        let now = Instant::now();
        let in_time = now < watching.until;
        Ok(if !watching.call_off() || !in_time {
            Thaw::TooLate
        } else if still {
            Thaw::InTime {
                frozen: now - since,
            }
        } else {
            Thaw::Interfered
        })
    }
}

impl Drop for FrozenGroup {
    fn drop(&mut self) {
        let Some((_, watching)) = self.ours.take() else {
            return;
        };
        match self.group.write(self.group.version.thaw()) {
            // Then it must not do so later, when someone may have paused the group.
            Ok(()) => {
                watching.call_off();
            }
            Err(error) => {
                tracing::error!(group = %self.group.path.display(), %error, "cannot thaw");
                drop(watching);
            }
        }
    }
}

#[cfg(test)]
mod tests;
