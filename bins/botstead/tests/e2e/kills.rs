//! The server and its containerd are killed; workspaces go on.

use super::harness::{Server, Settings, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn workspaces_outlive_the_server_and_containerd() {
    let mut server = Server::start(&Settings::default());
    let bots: Vec<String> = (0..3).map(|_| server.client.running_bot()).collect();
    let stopped = server.client.running_bot();
    server.client.power(&stopped, "stop");
    server.client.sh(&bots[0], "echo here > /tmp/state");
    let pids = |server: &Server| -> Vec<i32> {
        bots.iter().map(|bot| server.workspace_pid(bot)).collect()
    };
    let all_well = |server: &Server| {
        for bot in &bots {
            let info = server.client.container(bot);
            assert_eq!((&info["status"], &info["reachable"]), (&json!("running"), &json!(true)));
            assert_eq!(server.client.sh(bot, "echo works"), "works");
        }
        assert_eq!(server.client.sh(&bots[0], "cat /tmp/state"), "here");
        assert_eq!(server.client.container(&stopped)["status"], "stopped");
    };
    let before = pids(&server);

    server.kill();
    assert_eq!(pids(&server), before, "they go on without the server");
    server.launch(&[]);
    assert_eq!(pids(&server), before);
    all_well(&server);

    let daemon = server.containerd_pid();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    eventually("containerd is started again", || {
        let new = server.containerd_pid_if_any()?;
        (new != daemon && server.client.get("/readyz").status == 200).then_some(())
    });
    assert_eq!(pids(&server), before, "they go on without containerd");
    all_well(&server);

    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    assert_eq!(pids(&server), before, "an orderly end leaves them running too");
    server.launch(&[]);
    assert_eq!(pids(&server), before);
    all_well(&server);
    server.client.power(&stopped, "start");
    assert_eq!(server.client.sh(&stopped, "echo works"), "works");
}
