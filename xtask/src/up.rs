//! `cargo xtask up`: from a fresh machine to a running server, step by step, each step repeatable.

pub(crate) mod admin;
pub(crate) mod layout;
pub(crate) mod server;
pub(crate) mod sysctl;

use crate::api::{Api, escaped};
use crate::apt::{self, Need, need};
use crate::progress::{note, step};
use crate::{build, command, image};
use anyhow::{Context, Result, bail, ensure};
use layout::{Place, State};
use std::fs::{self, DirBuilder, File};
use std::io::IsTerminal as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What running the server takes.
const RUN_NEEDS: &[Need] = &[
    need("containerd", "containerd"),
    need("runc", "runc"),
    need("nftables", "nft"),
    need("util-linux", "setsid"),
];

/// What building it and the default image takes.
const BUILD_NEEDS: &[Need] = &[
    need("protobuf-compiler", "protoc"),
    need("gcc", "cc"),
    need("libc6-dev", "ldd"),
    need("mmdebstrap", "mmdebstrap"),
];

/// Brings the server up, with the parts in `prebuilt` or those built here.
pub(crate) fn run(place: &Place, prebuilt: Option<&Path>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`cargo xtask up` starts containers and must run as root");
    }
    step("packages", || {
        apt::ensure(RUN_NEEDS)?;
        check_containerd()
    })?;
    step("kernel", || sysctl::ensure(place.is_usual()))?;
    make_folder(&place.data_dir)?;
    let parts = match prebuilt {
        Some(folder) => step("find the parts", || Parts::find(folder))?,
        None => Parts::build(place)?,
    };
    let mut state = State::load(place)?;

    let changed = step("install", || {
        make_folder(&place.programs())?;
        let server = server::install(&parts.server, &place.programs())?;
        let agent = server::install(&parts.agent, &place.programs())?;
        place.write_config()?;
        note(format_args!("configuration: {}", place.config().display()));
        Ok(server || agent)
    })?;
    let url = place.read_config()?.url();
    let password = first_admin(place, &mut state)?;
    step("server", || {
        server::ensure(place, &mut state, &url, changed)
    })?;
    step("import the default image", || {
        import(place, &mut state, &url, &parts.image)
    })?;
    summary(place, &url, password.as_ref());
    Ok(())
}

/// What gets installed.
struct Parts {
    server: PathBuf,
    agent: PathBuf,
    /// The archive of the default image.
    image: PathBuf,
}

impl Parts {
    fn build(place: &Place) -> Result<Self> {
        step("packages to build with", || apt::ensure(BUILD_NEEDS))?;
        Ok(Self {
            server: step("build the server", build::server)?,
            agent: step("build the agent", build::agent)?,
            image: step("default image", || {
                image::ensure(&place.image_folder(), false)
            })?,
        })
    }

    /// Those that another machine built.
    fn find(folder: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = folder.join(name);
            ensure!(path.is_file(), "there is no {}", path.display());
            Ok(path)
        };
        let names = folder
            .read_dir()
            .with_context(|| format!("cannot list {}", folder.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        let mut images = names
            .into_iter()
            .filter(|path| path.to_string_lossy().ends_with(image::EXTENSION));
        match (images.next(), images.next()) {
            (Some(image), None) => Ok(Self {
                server: program("botstead")?,
                agent: program("botstead-agent")?,
                image,
            }),
            (None, _) => bail!("no {} in {}", image::EXTENSION, folder.display()),
            (Some(_), Some(_)) => bail!(
                "more than one {} in {}: which?",
                image::EXTENSION,
                folder.display()
            ),
        }
    }
}

fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// A containerd that is there is used, but not one that is too old.
fn check_containerd() -> Result<()> {
    let text = command::capture(
        Command::new("containerd").arg("--version"),
        "containerd --version by hand",
    )?;
    let version = version(&text)
        .with_context(|| format!("cannot tell containerd's version from {:?}", text.trim()))?;
    note(format_args!("containerd {}.{}", version.0, version.1));
    if version < (1, 6) {
        bail!(
            "containerd {}.{} is too old, 1.6 is needed; try: install a newer containerd",
            version.0,
            version.1
        );
    }
    Ok(())
}

/// The first two numbers of the first word that begins like a version: Debian, Docker and
/// containerd's own builds print different things around it.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let (major, rest) = word.trim_start_matches('v').split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Where the first admin's password is.
enum FirstPassword {
    /// Shown, on a terminal.
    Shown(String),
    /// In a file that only this user can read: what is printed may end up in a log.
    InFile(PathBuf),
}

/// Makes the first admin, once, and says at once where the password is: a later failure must not
/// swallow it.
fn first_admin(place: &Place, state: &mut State) -> Result<Option<FirstPassword>> {
    if state.admin {
        return Ok(None);
    }
    step("first admin", || {
        let created = admin::create(place, admin::FIRST)?;
        state.admin = true;
        state.save(place)?;
        note(format_args!("user: {}", admin::FIRST));
        let password = match std::io::stdout().is_terminal() {
            true => FirstPassword::Shown(created.take_password()?),
            false => FirstPassword::InFile(created.password_file),
        };
        match &password {
            FirstPassword::Shown(password) => note(format_args!("password: {password}")),
            FirstPassword::InFile(path) => {
                note(format_args!("password file: {}", path.display()));
            }
        }
        Ok(Some(password))
    })
}

/// Gives the server the default image, unless it has this very one.
fn import(place: &Place, state: &mut State, url: &str, archive: &Path) -> Result<()> {
    let file_name = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let temporary = admin::Temporary::create(place, url)?;
    let images = temporary.api.get("/images")?.expect(200)?;
    if state.image == file_name && images.to_string().contains(image::NAME) {
        note("the server has it");
        return Ok(());
    }
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    let path = format!("/images/import?name={}", escaped(image::NAME));
    temporary
        .api
        .upload(&path, "application/x-tar", file)?
        .expect_any(&[200, 201])
        .context("the server refused the default image")?;
    state.image = file_name;
    state.save(place)
}

fn summary(place: &Place, url: &str, password: Option<&FirstPassword>) {
    println!("\nBotstead runs: {url}  (API: {url}/docs)");
    println!("user: {}", admin::FIRST);
    let in_command = match password {
        Some(FirstPassword::Shown(password)) => {
            println!("password: {password}   (shown this once)");
            password.clone()
        }
        Some(FirstPassword::InFile(path)) => {
            println!("password file: {}", path.display());
            in_shell(path)
        }
        None => {
            let line = admin::reset_line(place);
            match kept_password(place) {
                Some(path) => {
                    println!(
                        "password: as it was first, unless changed since, in {}",
                        path.display()
                    );
                    println!("a new one: {line}");
                    in_shell(&path)
                }
                None => {
                    println!("password: as it was; a new one: {line}");
                    "...".to_owned()
                }
            }
        }
    };
    println!("\nFirst call:");
    println!(
        "  curl -s {url}/auth/login -H 'Content-Type: application/json' \\\n    -d '{{\"username\":\"{}\",\"password\":\"{in_command}\"}}'",
        admin::FIRST,
    );
    println!("\nAfter a reboot:");
    match place.unit() {
        Some(unit) => println!("  systemd starts {unit}, which starts what ran."),
        None => println!(
            "  nothing by itself, as no systemd runs it here; `cargo xtask up` starts it, or:\n  {} --config {} serve",
            place.server().display(),
            place.config().display()
        ),
    }
}

/// A password in a file, inside a text in single quotes.
fn in_shell(file: &Path) -> String {
    format!("'\"$(cat {})\"'", file.display())
}

/// The file of the first admin's password, where it was not shown and is there still.
fn kept_password(place: &Place) -> Option<PathBuf> {
    let name = format!("secrets/{}.password", admin::FIRST);
    let path = place.data_dir.join(name);
    path.is_file().then_some(path)
}

/// Whether `up` was run for this place.
pub(crate) fn is_installed(place: &Place) -> bool {
    place.config().is_file() && fs::metadata(place.server()).is_ok()
}

/// The server's address, when it answers.
pub(crate) fn running_url(place: &Place) -> Result<String> {
    place.check_port()?;
    let url = place.read_config()?.url();
    Api::new(&url)
        .get("/readyz")
        .with_context(|| format!("no server answers at {url}; try: cargo xtask up"))?
        .expect(200)
        .context("the server is not ready; try: cargo xtask up")?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = || Parts::find(folder.path()).err().unwrap().to_string();
        let put = |name: &str| fs::write(folder.path().join(name), "x").unwrap();
        assert!(refusal().contains("no .oci.tar"));
        put("workspace-1.oci.tar");
        put("botstead");
        assert!(refusal().contains("botstead-agent"));
        put("botstead-agent");
        assert!(Parts::find(folder.path()).is_ok());
        put("workspace-2.oci.tar");
        assert!(refusal().contains("more than one"));
    }

    #[test]
    fn a_server_that_is_down_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        // A port that nothing has: it was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let place = Place {
            data_dir: folder.path().to_owned(),
            run_dir: folder.path().join("run"),
            port: Some(port),
        };
        place.write_config().unwrap();
        let error = running_url(&place).unwrap_err().to_string();
        assert!(error.contains("cargo xtask up"), "{error}");
        assert_eq!(kept_password(&place), None);
        fs::create_dir(folder.path().join("secrets")).unwrap();
        let file = folder.path().join("secrets/admin.password");
        fs::write(&file, "secret\n").unwrap();
        assert_eq!(kept_password(&place), Some(file));
    }

    #[test]
    fn reads_the_versions_of_every_vendor() {
        for (text, expected) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1",
                (1, 6),
            ),
            ("containerd containerd.io v2.1.3 c787fb98", (2, 1)),
            (
                "containerd github.com/containerd/containerd/v2 2.1.9~ds1 2.1.9",
                (2, 1),
            ),
        ] {
            assert_eq!(version(text), Some(expected), "{text}");
        }
        assert_eq!(version("no version here"), None);
    }
}
