//! One installation on this host: its directories, its lock and its id.
//!
//! The id is in the names of everything that several installations on one host would otherwise
//! share: control groups, bridges, namespaces, runc's state.

use crate::config::Config;
use anyhow::{Context, bail, ensure};
use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The directories of an installation, made where they were missing.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Eight lower-case hexadecimal digits, made once and kept in the data directory.
    pub id: String,
    /// Where everything lasting is.
    pub data_dir: PathBuf,
    /// Where sockets and state are: `<run_dir>/<id>`, so that installations may share `run_dir`.
    pub run_dir: PathBuf,
}

impl Installation {
    /// Makes the directories, with mode 0700 also where they were there already, and reads or makes the
    /// id.
    ///
    /// # Errors
    /// Names the path that cannot be made or read, or that is open to others and not ours to close.
    pub fn prepare(config: &Config) -> anyhow::Result<Self> {
        make_dir(&config.data_dir)?;
        make_private(&config.data_dir)?;
        let id = read_or_make_id(&id_path(&config.data_dir))?;
        let run_dir = config.run_dir.join(&id);
        make_dir(&run_dir)?;
        set_private(&run_dir)?;
        Ok(Self {
            id,
            data_dir: config.data_dir.clone(),
            run_dir,
        })
    }

    /// The database's file.
    pub fn database_path(&self, config: &Config) -> PathBuf {
        database_path(config, &self.data_dir)
    }

    /// The database of an installation, where there is one. Makes nothing, not even folders.
    pub fn existing_database(config: &Config) -> Option<PathBuf> {
        let database = database_path(config, &config.data_dir);
        (database.is_file() && id_path(&config.data_dir).is_file()).then_some(database)
    }

    /// The folder of a managed containerd's state.
    pub fn managed_state(&self) -> PathBuf {
        self.run_dir.join("containerd")
    }

    /// The socket of a managed containerd.
    pub fn managed_socket(&self) -> PathBuf {
        self.managed_state().join("containerd.sock")
    }

    /// The file of the key that signs access tokens.
    pub fn token_key_path(&self) -> PathBuf {
        self.secrets_dir().join("jwt")
    }

    /// The file of what admins set for registries.
    pub fn set_registries_path(&self) -> PathBuf {
        self.secrets_dir().join("registries.json")
    }

    /// The folder of secrets: what is in it is readable by the server's user only.
    pub fn secrets_dir(&self) -> PathBuf {
        self.data_dir.join("secrets")
    }

    /// The containerd namespace.
    pub fn containerd_namespace(&self, config: &Config) -> String {
        let configured = config.runtime.containerd.namespace.clone();
        configured.unwrap_or_else(|| format!("botstead-{}", self.id))
    }

    /// The control group under which workspaces get theirs.
    pub fn cgroup_parent(&self, config: &Config) -> String {
        let configured = config.runtime.cgroup_parent.clone();
        configured.unwrap_or_else(|| format!("/botstead-{}", self.id))
    }

    /// Takes the lock of the data directory. It is held until the value is dropped or the process
    /// ends, however it ends.
    ///
    /// # Errors
    /// When another process holds it, with that process's id where it is known.
    pub fn lock(&self) -> anyhow::Result<DataDirLock> {
        let path = self.data_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = (&mut file).take(32).read_to_string(&mut holder);
                bail!(
                    "the data directory {} is in use by another server (process {})",
                    self.data_dir.display(),
                    holder.trim()
                );
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // For people only: what counts is the lock.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(DataDirLock { _file: file })
    }
}

/// The file of the installation's id.
pub(crate) fn id_path(data_dir: &Path) -> PathBuf {
    data_dir.join("installation-id")
}

fn database_path(config: &Config, data_dir: &Path) -> PathBuf {
    let configured = config.database.path.clone();
    configured.unwrap_or_else(|| data_dir.join("botstead.db"))
}

/// The lock of a data directory.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

pub(crate) fn make_dir(path: &Path) -> anyhow::Result<()> {
    ensure!(
        path.is_dir() || !path.exists(),
        "{} is no directory: move it away, or set another path in the configuration",
        path.display()
    );
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// What may be in a data directory before its first server ran: what `cargo xtask up` makes, and what a
/// new filesystem has.
const BEFORE_THE_FIRST: [&str; 6] = [
    "bin",
    "config.toml",
    "default-image",
    "lost+found",
    "server.log",
    "up.json",
];

/// The permission bits of a directory that others have, or `None`.
pub(crate) fn open_to_others(path: &Path) -> io::Result<Option<u32>> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

/// Closes the data directory to others: in it are the files of workspaces, whose root may have made any
/// of them set-uid, beside the database and its keys. One that is not a server's alone is refused.
fn make_private(path: &Path) -> anyhow::Result<()> {
    let looked = || format!("cannot look at {}", path.display());
    let Some(mode) = open_to_others(path).with_context(looked)? else {
        return Ok(());
    };
    if !id_path(path).exists() {
        for entry in fs::read_dir(path).with_context(looked)? {
            let name = entry.with_context(looked)?.file_name();
            if !BEFORE_THE_FIRST.iter().any(|ours| name == *ours) {
                bail!(
                    "the data directory {} is open to others (mode {mode:04o}) and holds {name:?}, \
                     which is not this server's: set data_dir to a directory of its own, or run: \
                     chmod 700 {}",
                    path.display(),
                    path.display()
                );
            }
        }
    }
    tracing::warn!(path = %path.display(), mode = format!("{mode:04o}"),
        "the data directory was open to others; it is set to 0700");
    set_private(path)
}

fn set_private(path: &Path) -> anyhow::Result<()> {
    if open_to_others(path).is_ok_and(|mode| mode.is_none()) {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(|| {
        format!(
            "cannot set the mode of {} to 0700; run: chmod 700 {}",
            path.display(),
            path.display()
        )
    })
}

fn read_or_make_id(path: &Path) -> anyhow::Result<String> {
    let make = || -> io::Result<()> {
        let mut bytes = [0; 4];
        OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(file, "{}", hex::encode(bytes))?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => File::open(directory)?.sync_all(),
            // Another process was first; its id is read below.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.error),
        }
    };
    if !path.exists() {
        make().with_context(|| format!("cannot make {}", path.display()))?;
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let id = text.trim();
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if id.len() != 8 || !id.bytes().all(hexadecimal) {
        bail!(
            "{} does not hold an installation id (eight hexadecimal digits)",
            path.display()
        );
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(root: &Path) -> Config {
        Config {
            data_dir: root.join("data"),
            run_dir: root.join("run"),
            ..Config::default()
        }
    }

    #[test]
    fn directories_are_private_and_the_id_stays() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let first = Installation::prepare(&config).unwrap();
        let again = Installation::prepare(&config).unwrap();
        assert_eq!(first.id, again.id);
        assert_eq!(first.run_dir, config.run_dir.join(&first.id));
        for path in [&first.data_dir, &first.run_dir] {
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", path.display());
        }
        let other = Installation::prepare(&self::config(&root.path().join("b"))).unwrap();
        assert_ne!(first.id, other.id);
    }

    #[test]
    fn directories_that_others_could_enter_are_closed_unless_they_are_others_too() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let open = |path: &Path| {
            fs::create_dir_all(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(&config.data_dir);
        fs::create_dir(config.data_dir.join("bin")).unwrap();
        let first = Installation::prepare(&config).unwrap();
        assert_eq!(open_to_others(&config.data_dir).unwrap(), None);
        // Of an installation that is there, whatever is in it.
        fs::write(config.data_dir.join("more"), "").unwrap();
        open(&config.data_dir);
        open(&first.run_dir);
        Installation::prepare(&config).unwrap();
        assert_eq!(open_to_others(&config.data_dir).unwrap(), None);
        assert_eq!(open_to_others(&first.run_dir).unwrap(), None);
        // A directory that others use.
        let other = self::config(&root.path().join("b"));
        open(&other.data_dir);
        fs::write(other.data_dir.join("letter"), "").unwrap();
        let error = Installation::prepare(&other).unwrap_err().to_string();
        assert!(
            error.contains("letter") && error.contains("chmod 700"),
            "{error}"
        );
        assert_eq!(open_to_others(&other.data_dir).unwrap(), Some(0o755));
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_called_that() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        fs::write(&config.data_dir, "").unwrap();
        let error = Installation::prepare(&config).unwrap_err().to_string();
        assert!(error.contains("is no directory"), "{error}");
    }

    #[test]
    fn names_come_from_the_id_unless_configured() {
        let root = tempfile::tempdir().unwrap();
        let mut config = config(root.path());
        let installation = Installation::prepare(&config).unwrap();
        let id = &installation.id;
        assert_eq!(
            installation.containerd_namespace(&config),
            format!("botstead-{id}")
        );
        assert_eq!(
            installation.cgroup_parent(&config),
            format!("/botstead-{id}")
        );
        config.runtime.containerd.namespace = Some("mine".into());
        config.runtime.cgroup_parent = Some("/mine".into());
        assert_eq!(installation.containerd_namespace(&config), "mine");
        assert_eq!(installation.cgroup_parent(&config), "/mine");
    }

    #[test]
    fn a_spoilt_id_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let installation = Installation::prepare(&config).unwrap();
        fs::write(installation.data_dir.join("installation-id"), "../../x\n").unwrap();
        let error = Installation::prepare(&config).unwrap_err();
        assert!(error.to_string().contains("installation-id"), "{error}");
    }

    #[test]
    fn only_one_holds_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let installation = Installation::prepare(&config(root.path())).unwrap();
        let lock = installation.lock().unwrap();
        let error = installation.lock().unwrap_err().to_string();
        let holder = format!("process {}", std::process::id());
        assert!(error.contains(&holder), "{error}");
        drop(lock);
        installation.lock().unwrap();
    }
}
