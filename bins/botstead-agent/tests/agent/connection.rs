//! The socket: who may connect, and that it stays reachable.

use super::workspace::{Workspace, command, wait_until};
use botstead_bridge::proto::HealthRequest;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

/// Speaks to the socket that is named, and tells whether there was an answer.
const CONNECT: &str = r#"
use IO::Socket::UNIX;
my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "cannot connect: $!";
$SIG{PIPE} = "IGNORE";
syswrite $socket, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
print sysread($socket, my $answer, 100) ? "served" : "dropped";
"#;

#[tokio::test]
async fn serves_outside_and_refuses_inside() {
    let workspace = Workspace::start(&[]);
    let health = workspace.client().agent().health(HealthRequest {}).await;
    let health = health.unwrap().into_inner();
    assert_eq!(health.version, botstead_bridge::VERSION);
    assert_eq!(health.running, 0);
    let mode = fs::symlink_metadata(workspace.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);

    let inside = command(&["perl", "-e", CONNECT, "/run/host/agent.sock"]);
    assert_eq!(workspace.run(inside).await.text(), "dropped");
    let socket = workspace.socket();
    let connect = |by: &[&str]| {
        let output = std::process::Command::new(by[0])
            .args(&by[1..])
            .args(["perl", "-e", CONNECT])
            .arg(&socket)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(connect(&["env"]), "served");
    // One that only joined the process namespace counts as inside.
    let agent = workspace.agent.to_string();
    assert_eq!(
        connect(&["nsenter", "--target", &agent, "--pid"]),
        "dropped"
    );
    wait_until("a line of the log", async || {
        workspace.log().contains("refused 1 connection(s)")
    })
    .await;
}

#[tokio::test]
async fn uptime_goes_on() {
    let workspace = Workspace::start(&[]);
    let uptime = async || {
        let health = workspace.client().agent().health(HealthRequest {}).await;
        health.unwrap().into_inner().uptime_ms
    };
    let first = uptime().await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let second = uptime().await;
    assert!(
        first < 20_000 && (50..10_000).contains(&(second - first)),
        "{first} {second}"
    );
}

#[tokio::test]
async fn a_socket_that_was_removed_or_replaced_inside_is_made_anew() {
    let workspace = Workspace::start(&[]);
    let inode = || fs::symlink_metadata(workspace.socket()).map(|found| found.ino());
    let mut last = inode().unwrap();
    for line in [
        "rm /run/host/agent.sock",
        "cd /run/host; echo x > other; mv other agent.sock",
        "cd /run/host; ln -s /etc/passwd other; mv -T other agent.sock",
        "cd /run/host; mkdir -p other/full; until mv -T other agent.sock; do rm agent.sock; done",
        "cd /run/host; mv agent.sock elsewhere",
    ] {
        // The connection that is there goes on meanwhile.
        workspace.shell(line).await;
        wait_until(line, async || {
            let found = fs::symlink_metadata(workspace.socket());
            found.is_ok_and(|found| found.file_type().is_socket() && found.ino() != last)
        })
        .await;
        last = inode().unwrap();
        workspace.disconnect();
        assert_eq!(
            workspace.shell("echo again").await,
            "again\n",
            "after {line}"
        );
    }
    // What a link led to was not touched.
    let passwd = fs::read_to_string(workspace.root().join("etc/passwd")).unwrap();
    assert!(passwd.starts_with("root:"));
}

#[tokio::test]
async fn where_nothing_can_be_watched_the_socket_is_served_and_made_anew_all_the_same() {
    let workspace = Workspace::new("unwatched", super::workspace::AGENT, &[], |_| {});
    let answers = async || {
        workspace.disconnect();
        let health = workspace.client().agent().health(HealthRequest {}).await;
        health.is_ok()
    };
    assert!(answers().await);
    let log = workspace.log();
    assert!(log.contains("cannot watch the folder"), "{log}");
    for _ in 0..2 {
        fs::remove_file(workspace.socket()).unwrap();
        wait_until("the socket", answers).await;
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let workspace = Workspace::new("full", super::workspace::AGENT, &[], |root| {
        fs::create_dir_all(root.join("run/host")).unwrap();
        // The file of a listener that is gone.
        drop(std::os::unix::net::UnixListener::bind(root.join("run/host/agent.sock")).unwrap());
    });
    wait_until("the agent", async || {
        workspace.disconnect();
        workspace
            .client()
            .agent()
            .health(HealthRequest {})
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn works_in_an_image_with_nothing_but_the_agent() {
    use botstead_bridge::FailureKind;
    use botstead_bridge::proto::FindShellRequest;
    let workspace = Workspace::bare(&["--user", "1000:1000"]);
    let client = workspace.client();
    assert!(client.agent().health(HealthRequest {}).await.is_ok());
    let shell = client
        .processes()
        .find_shell(FindShellRequest::default())
        .await;
    assert_eq!(shell.unwrap().into_inner().path, "");
    let terminal = botstead_bridge::proto::run_input::Start {
        terminal: super::workspace::size(80, 24),
        ..command(&[])
    };
    let refused = workspace
        .call(botstead_bridge::proto::run_input::Input::Start(terminal))
        .await;
    assert_eq!(refused.err().unwrap().kind, FailureKind::NoShell);
    assert_eq!(workspace.run(command(&["true"])).await.code(), 127);
    let version = workspace.run(command(&["/agent", "--version"])).await;
    assert!(version.text().starts_with("botstead-agent "), "{version:?}");
    // A user of whom the image knows nothing.
    let data = fs::metadata(workspace.root().join("data")).unwrap();
    assert_eq!(
        (data.uid(), data.gid(), data.mode() & 0o7777),
        (1000, 1000, 0o755)
    );
}

#[test]
fn the_template_fills_data_at_the_first_start_only() {
    let workspace = Workspace::new(
        "full",
        super::workspace::AGENT,
        &["--user", "1000:1000", "--template", "/template"],
        |root| {
            fs::create_dir_all(root.join("template/notes")).unwrap();
            fs::write(root.join("template/notes/hello"), "hello").unwrap();
            fs::create_dir_all(root.join("run/host")).unwrap();
        },
    );
    let note = workspace.root().join("data/notes/hello");
    assert_eq!(fs::read_to_string(&note).unwrap(), "hello");
    assert_eq!(fs::metadata(&note).unwrap().uid(), 1000);
    assert!(workspace.root().join("var/lib/botstead/seeded").exists());
}
