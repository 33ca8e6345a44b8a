//! containerd: the program of a managed one, the socket of an external one.

use super::programs::version_output;
use super::{Check, version_numbers};
use crate::config::{Config, ContainerdMode};
use containerd_client::services::v1::version_client::VersionClient;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn check(config: &Config) -> Check {
    let containerd = &config.runtime.containerd;
    match containerd.mode {
        ContainerdMode::Managed => match version_output(&containerd.binary) {
            Ok(output) => judge(version_of(&output), "managed"),
            Err(error) => Check::fail(
                "containerd",
                error,
                "install it (apt install containerd, or Docker's containerd.io) or set \
                 runtime.containerd.binary",
            ),
        },
        ContainerdMode::External => match ask(&containerd.socket).await {
            Ok(version) => judge(&version, "external"),
            Err(error) => Check::fail(
                "containerd",
                format!("{}: {error}", containerd.socket.display()),
                "start containerd, set runtime.containerd.socket, or use \
                 runtime.containerd.mode = \"managed\"",
            ),
        },
    }
}

async fn ask(socket: &Path) -> anyhow::Result<String> {
    let answer = timeout(PATIENCE, async {
        let channel = containerd_client::connect(socket).await?;
        anyhow::Ok(VersionClient::new(channel).version(()).await?)
    });
    let answer = answer
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()))??;
    Ok(answer.into_inner().version)
}

/// The version in `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1`.
fn version_of(output: &str) -> &str {
    output.split_whitespace().nth(2).unwrap_or_default()
}

fn judge(version: &str, mode: &str) -> Check {
    let detail = format!("{version} ({mode})");
    match version_numbers(version).as_slice() {
        [] => Check::warn(
            "containerd",
            format!("unknown version {detail}"),
            "1.6 or newer is needed",
        ),
        numbers if numbers < [1, 6].as_slice() => {
            Check::fail("containerd", detail, "install containerd 1.6 or newer")
        }
        _ => Check::ok("containerd", detail),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn containerd_is_judged_by_its_version() {
        for (output, status) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n",
                Status::Ok,
            ),
            ("containerd containerd.io v2.1.9 abcdef\n", Status::Ok),
            (
                "containerd github.com/containerd/containerd/v2 2.0.0-rc.1 x\n",
                Status::Ok,
            ),
            (
                "containerd github.com/containerd/containerd v1.5.11 abc\n",
                Status::Fail,
            ),
            ("something else\n", Status::Warn),
        ] {
            assert_eq!(
                judge(version_of(output), "managed").status,
                status,
                "{output}"
            );
        }
    }

    #[tokio::test]
    async fn a_socket_without_containerd_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.runtime.containerd.mode = ContainerdMode::External;
        config.runtime.containerd.socket = directory.path().join("none.sock");
        let check = check(&config).await;
        assert_eq!(check.status, Status::Fail);
        assert!(check.detail.contains("none.sock"), "{}", check.detail);
    }
}
