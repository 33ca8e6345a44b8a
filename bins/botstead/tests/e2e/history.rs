//! Versions stay, whatever containerd collects.

use super::harness::{Server, Settings, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_later_version_outlives_garbage_collection_and_a_killed_containerd() {
    let server = Server::start(&Settings::default());
    let client = &server.client;
    let bot = client.running_bot();
    for version in 1..=3 {
        client.sh(&bot, &format!("echo {version} > n; echo {version} > only-{version}"));
        assert_eq!(client.snapshot(&bot, "v"), version);
    }
    client.rollback(&bot, 1);
    assert_eq!(client.sh(&bot, "cat n; ls"), "1\nn\nonly-1");
    server.collect_garbage();

    let before = server.containerd_pid();
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    eventually("containerd is started again", || {
        let answer = client.get("/readyz");
        (answer.status == 200 && server.containerd_pid_if_any() != Some(before)).then_some(())
    });
    server.collect_garbage();

    client.rollback(&bot, 3);
    assert_eq!(client.sh(&bot, "cat n; ls"), "3\nn\nonly-1\nonly-2\nonly-3");
    client.rollback(&bot, 2);
    assert_eq!(client.sh(&bot, "cat n; ls"), "2\nn\nonly-1\nonly-2");
    assert_eq!(client.versions(&bot), client.tree(&bot));
}
