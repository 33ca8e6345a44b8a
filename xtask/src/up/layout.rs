//! Where an installation keeps its things, and what `up` remembers of it.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const DATA_DIR: &str = "/var/lib/botstead";

/// Which installation is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// Folder of everything lasting: programs, configuration, database, images, workspaces
    #[arg(long, default_value = DATA_DIR, value_parser = absolute)]
    pub(crate) data_dir: PathBuf,
    /// Folder of sockets and the state of what runs; kept short, as socket paths are limited
    #[arg(long, default_value = "/run/botstead", value_parser = absolute)]
    pub(crate) run_dir: PathBuf,
    /// Port of the server on 127.0.0.1 for its configuration, where none is written yet [default: 8787]
    #[arg(long)]
    pub(crate) port: Option<u16>,
}

const PORT: u16 = 8787;

/// The server runs in another folder than this program.
fn absolute(path: &str) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

impl Place {
    pub(crate) fn programs(&self) -> PathBuf {
        self.data_dir.join("bin")
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.programs().join("botstead")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.data_dir.join("config.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.join("server.log")
    }

    pub(crate) fn image_folder(&self) -> PathBuf {
        self.data_dir.join("default-image")
    }

    /// Whether it is this machine's installation, and not one for trying things out.
    pub(crate) fn is_usual(&self) -> bool {
        self.data_dir == Path::new(DATA_DIR)
    }

    /// The systemd unit, where systemd runs this machine. Installations elsewhere than in the usual
    /// folder are for trying things out and get none.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        (self.is_usual() && Path::new("/run/systemd/system").is_dir()).then_some("botstead.service")
    }

    /// Writes the configuration unless there is one, which then stays as its owner left it.
    pub(crate) fn write_config(&self) -> Result<()> {
        let path = self.config();
        if path.exists() {
            return self.check_port();
        }
        let port = self.port.unwrap_or(PORT);
        let mut table = toml::Table::new();
        let text = |path: &Path| toml::Value::from(path.display().to_string());
        let listen = format!("127.0.0.1:{port}");
        table.insert("listen".to_owned(), listen.into());
        table.insert("data_dir".to_owned(), text(&self.data_dir));
        table.insert("run_dir".to_owned(), text(&self.run_dir));
        let check = SocketAddr::from(([127, 0, 0, 1], port.checked_add(1).unwrap_or(1024)));
        let content = format!(
            "# Written once by `cargo xtask up`, yours to change. Every key: docs/CONFIGURATION.md\n{table}\n\
             [registry]\n# Where `cargo xtask up --check` has its registry while it runs.\n\
             insecure = [\"{check}\"]\n"
        );
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Refuses a port that is given and not the configuration's, which alone counts once it is written.
    pub(crate) fn check_port(&self) -> Result<()> {
        let configured = self.read_config()?.listen;
        match self.port {
            Some(port) if port != configured.port() => bail!(
                "{} is written already and says listen = \"{configured}\"; change that line to \
                 \"{}:{port}\" and try again without --port",
                self.config().display(),
                configured.ip()
            ),
            _ => Ok(()),
        }
    }

    /// What the configuration says of address and folders.
    pub(crate) fn read_config(&self) -> Result<Configured> {
        let path = self.config();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let configured: Configured =
            toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        if configured.data_dir != self.data_dir {
            bail!(
                "{} says data_dir = {:?}; give that folder as --data-dir, or mend the file",
                path.display(),
                configured.data_dir
            );
        }
        Ok(configured)
    }
}

/// The keys of the configuration that set-up reads.
#[derive(Debug, Deserialize)]
pub(crate) struct Configured {
    pub(crate) listen: SocketAddr,
    data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    #[serde(default)]
    registry: Registry,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Registry {
    insecure: Vec<String>,
}

impl Configured {
    /// Where a registry on this machine may be that the server pulls from.
    pub(crate) fn registry(&self) -> Result<SocketAddr> {
        let listed = self.registry.insecure.iter();
        let mut addresses = listed.filter_map(|host| host.parse::<SocketAddr>().ok());
        addresses
            .find(|address| address.ip().is_loopback())
            .context(
                "the server reaches no registry on this machine, which the check needs: add\n\n    \
                 [registry]\n    insecure = [\"127.0.0.1:8788\"]\n\nto config.toml, with a port that \
                 nothing else uses, and run `cargo xtask up` again",
            )
    }

    /// The address for clients on this machine.
    pub(crate) fn url(&self) -> String {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("http://{address}")
    }
}

/// What `up` remembers, in `<data>/up.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The server that was started in the background, where systemd does not do it.
    pub(crate) server: Option<ProcessId>,
    /// The text of the systemd unit that the server was last started from.
    #[serde(default)]
    pub(crate) unit: Option<String>,
    /// Whether the first admin was made.
    pub(crate) admin: bool,
    /// File name of the default image that the server was given.
    pub(crate) image: Option<String>,
}

impl State {
    /// Nothing where there is no file yet.
    pub(crate) fn load(place: &Place) -> Result<Self> {
        let path = place.data_dir.join("up.json");
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("cannot parse {}; remove it", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn save(&self, place: &Place) -> Result<()> {
        let path = place.data_dir.join("up.json");
        let unfinished = place.data_dir.join("up.json.new");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A process for sure: its id may have gone to another meanwhile, which has another start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks after the machine's start: column 22 of proc(5).
    start_time: u64,
}

impl ProcessId {
    /// The running process of this id.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in column 2 may hold anything, and ends with the last parenthesis.
        let mut columns = stat.rsplit_once(") ")?.1.split(' ');
        let zombie = columns.next()? == "Z";
        let start_time = columns.nth(18)?.parse().ok()?;
        (!zombie).then_some(Self { pid, start_time })
    }

    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Whether its program's file was replaced since it started.
    pub(crate) fn is_outdated(self) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid))
            .is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path) -> Place {
        Place {
            data_dir: folder.to_owned(),
            run_dir: "/run/x".into(),
            port: Some(8790),
        }
    }

    #[test]
    fn the_configuration_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        place.write_config().unwrap();
        let configured = place.read_config().unwrap();
        assert_eq!(configured.url(), "http://127.0.0.1:8790");
        assert_eq!(configured.registry().unwrap().port(), 8791);
        let text = fs::read_to_string(place.config()).unwrap();
        fs::write(place.config(), text.replace("127.0.0.1:8790", "0.0.0.0:99")).unwrap();
        let refused = place.write_config().unwrap_err().to_string();
        assert!(refused.contains("\"0.0.0.0:8790\""), "{refused}");
        let place = Place {
            port: None,
            ..place
        };
        place.write_config().unwrap();
        assert_eq!(place.read_config().unwrap().url(), "http://127.0.0.1:99");
    }

    #[test]
    fn a_configuration_of_another_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        fs::write(
            place.config(),
            "listen = \"127.0.0.1:1\"\ndata_dir = \"/else\"\nrun_dir = \"/run/x\"\n",
        )
        .unwrap();
        let error = place.read_config().unwrap_err().to_string();
        assert!(error.contains("/else"), "{error}");
    }

    #[test]
    fn the_state_survives_and_a_process_is_known_by_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert!(State::load(&place).unwrap().server.is_none());
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let state = State {
            server: Some(own),
            ..State::default()
        };
        state.save(&place).unwrap();
        let server = State::load(&place).unwrap().server.unwrap();
        assert!(server.is_running());
        let another = ProcessId {
            start_time: server.start_time + 1,
            ..server
        };
        assert!(!another.is_running());
    }
}
