//! What systemd and the server tell each other: that it is ready and that it ends (sd_notify(3)), and
//! whether the host itself shuts down. Without systemd nobody is told, and the host never does.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// systemd answers at once or has an end of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager that started this process, where one wants to know.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// The one that `NOTIFY_SOCKET` names.
    pub(crate) fn from_environment() -> Self {
        let manager = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let opened = address(&name).and_then(|to| Ok((UnixDatagram::unbound()?, to)));
            opened
                .inspect_err(|error| tracing::warn!(?name, %error, "cannot use NOTIFY_SOCKET"))
                .ok()
        });
        Self { manager }
    }

    /// The server answers.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The server ends, within `limit`: the manager waits so long, whatever its unit says.
    pub(crate) fn stopping(&self, limit: Duration) {
        self.tell(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={}",
            limit.as_micros()
        ));
    }

    fn tell(&self, state: &str) {
        if let Some((socket, manager)) = &self.manager
            && let Err(error) = socket.send_to_addr(state.as_bytes(), manager)
        {
            tracing::warn!(state, %error, "cannot tell the service manager");
        }
    }
}

/// A path, or a name of the abstract namespace behind `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}

/// Whether systemd shuts the host down, or restarts it. It then ends services before it unmounts what
/// they use.
pub(crate) async fn host_shuts_down() -> bool {
    let asked = Command::new("systemctl")
        .arg("is-system-running")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, asked).await {
        // Its exit status says whether all is well; its word is what counts.
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => false,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot ask systemd whether the host shuts down");
            false
        }
        Err(_) => {
            tracing::warn!("systemd does not say whether the host shuts down");
            false
        }
    }
}
