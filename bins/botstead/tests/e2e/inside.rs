//! What the root of a workspace cannot do to the first process in it, and cannot see of others.

use crate::server::{IMAGE, Server, folder};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde_json::json;

/// The first process of a workspace, as the host numbers it.
fn first_process(server: &Server, bot: &str) -> u32 {
    let id = format!("workspace-{bot}");
    let tasks = server.ctr(&["tasks", "list"]);
    let task = tasks.lines().find(|line| line.starts_with(&id)).unwrap();
    task.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The children of a process, whichever of its threads started them.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let file = thread.unwrap().path().join("children");
        std::fs::read_to_string(file).unwrap_or_default()
    };
    let all: Vec<_> = threads.map(of_thread).collect();
    let pids = all.iter().flat_map(|of_one| of_one.split_whitespace());
    pids.map(|pid| pid.parse().unwrap()).collect()
}

/// Takes a descriptor out of a process with the user and the capabilities that the root of a workspace
/// has: what has to be allowed is the same as for tracing it (ptrace(2), pidfd_getfd(2)).
fn take_descriptor_as_the_root_inside(pid: u32) -> Result<OwnedFd, Errno> {
    std::thread::spawn(move || {
        let docker = CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::FSETID
            | CapabilitySet::FOWNER
            | CapabilitySet::MKNOD
            | CapabilitySet::NET_RAW
            | CapabilitySet::SETGID
            | CapabilitySet::SETUID
            | CapabilitySet::SETFCAP
            | CapabilitySet::SETPCAP
            | CapabilitySet::NET_BIND_SERVICE
            | CapabilitySet::SYS_CHROOT
            | CapabilitySet::KILL
            | CapabilitySet::AUDIT_WRITE;
        let sets = CapabilitySets {
            effective: docker,
            permitted: docker,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        pidfd_getfd(&process, 0, PidfdGetfdFlags::empty())
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn the_first_process_is_neither_traced_nor_read() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    // The same files of another process can be read, so that a refusal says something.
    let look = "for file in environ maps; do cat /proc/$p/$file >/dev/null 2>&1 && echo $file; done; \
        for link in exe cwd root fd/0 ns/mnt; do readlink /proc/$p/$link >/dev/null 2>&1 && echo $link; done; \
        ls /proc/$p/fd >/dev/null 2>&1 && echo fds; \
        dd if=/proc/$p/mem of=/dev/null bs=1 count=1 skip=$((0x$(cut -d- -f1 /proc/$p/maps 2>/dev/null | head -n 1))) \
        >/dev/null 2>&1 && echo mem; true";
    let all = "environ\nmaps\nexe\ncwd\nroot\nfd/0\nns/mnt\nfds";
    for user in ["0", "1000"] {
        let line = format!("sleep 60 & p=$!; {look}; kill $p; echo; p=1; {look}");
        let done = workspace
            .exec(json!({"command": line, "user": user}))
            .await
            .ok();
        let seen = done["stdout"].as_str().unwrap();
        let (own, first) = seen.split_once("\n\n").unwrap();
        assert!(own.starts_with(all), "{user}: {seen}");
        // The root may list the numbers of its descriptors, and open none.
        let refused = if user == "0" { "fds" } else { "" };
        assert_eq!(first.trim(), refused, "{user}: {seen}");
    }
    let sleeps = json!({"command": "echo $$; exec sleep 60", "user": "0", "detach": true});
    let detached = workspace.exec(sleeps).await.ok();
    let agent = first_process(&server, &workspace.bot);
    let mut child = None;
    for _ in 0..200 {
        child = children(agent).first().copied();
        if child.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let child = child.unwrap();
    assert!(take_descriptor_as_the_root_inside(child).is_ok());
    let refused = take_descriptor_as_the_root_inside(agent).unwrap_err();
    assert_eq!(refused, Errno::PERM);
    // The host itself still does all that it needs to.
    assert_eq!(workspace.snapshot().await, 1);
    assert_eq!(workspace.sh("echo well").await, "well");
    let id = detached["exec_id"].as_str().unwrap();
    let path = format!("{}/exec/{id}", workspace.path);
    workspace.client.delete(&path).await;
}

#[tokio::test]
async fn no_process_takes_the_protection_of_the_first() {
    let server = Server::start().await;
    let bot = server.client.bot().await;
    let workspace = server.client.workspace(&bot);
    let limits = json!({"memory_bytes": 64 << 20});
    let events = workspace
        .create(json!({"image": IMAGE, "limits": limits}))
        .await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    let agent = first_process(&server, &bot);
    let score = std::fs::read_to_string(format!("/proc/{agent}/oom_score_adj")).unwrap();
    // Not every host's root may give one.
    let capabilities = rustix::thread::capabilities(None).unwrap();
    if capabilities.effective.contains(CapabilitySet::SYS_RESOURCE) {
        assert_eq!(score.trim(), "-941");
    }
    let take = "for value in -998 -17 -1; do \
        (echo $value > /proc/self/oom_score_adj) 2>/dev/null && echo taken; \
        (echo $value > /proc/self/oom_adj) 2>/dev/null && echo taken; done; \
        cat /proc/self/oom_score_adj";
    for user in ["0", "1000"] {
        let done = workspace
            .exec(json!({"command": take, "user": user}))
            .await
            .ok();
        assert_eq!(done["stdout"], "0\n", "{user}: {done}");
    }
    // One whose parent ended, and is the first process now.
    let orphan = format!(
        "(setsid sh -c 'sleep 1; {take}' > /data/orphan 2>&1 &); \
         for i in $(seq 300); do [ -s /data/orphan ] && break; sleep 0.1; done; cat /data/orphan"
    );
    assert_eq!(workspace.sh(&orphan).await, "0");
    // What takes all memory is killed, again and again, and the first process goes on.
    for _ in 0..3 {
        let hog = "tail /dev/zero & tail /dev/zero & tail /dev/zero & wait; exit 0";
        workspace
            .exec(json!({"command": hog, "timeout_seconds": 60}))
            .await
            .ok();
    }
    assert_eq!(first_process(&server, &bot), agent);
    assert_eq!(workspace.info().await["reachable"], true);
}

#[tokio::test]
async fn files_of_etc_are_in_memory_and_stay_right() {
    let mut server = Server::start().await;
    let workspace = server.client.running().await;
    let read = "cat /etc/hosts /etc/hostname /etc/resolv.conf";
    let before = workspace.sh(read).await;
    assert!(before.starts_with("127.0.0.1 localhost"), "{before}");
    for name in ["hosts", "hostname", "resolv.conf"] {
        let mount = workspace
            .sh(&format!("grep ' /etc/{name} ' /proc/mounts"))
            .await;
        for option in ["tmpfs", "nosuid", "nodev", "noexec"] {
            assert!(mount.contains(option), "{mount}");
        }
        // Nothing of it is on the host's disk, however much is written.
        let fill = format!(
            "cat /dev/zero >> /etc/{name} 2>/dev/null; chmod 6777 /etc/{name}; wc -c < /etc/{name}"
        );
        let size: u64 = workspace.sh(&fill).await.parse().unwrap();
        assert!(size < 1 << 20, "{size}");
    }
    // A restart of the server changes nothing; a new task has them as they were.
    server.terminate();
    server.run(&[]).await;
    let workspace = server.client.workspace(&workspace.bot);
    workspace.reachable().await;
    workspace.post("/stop", json!({})).await.ok();
    workspace.post("/start", json!({})).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh(read).await, before);
    workspace.snapshot().await;
    workspace.rollback(1).await;
    workspace.reachable().await;
    assert_eq!(workspace.sh(read).await, before);
}

#[tokio::test]
async fn a_workspace_sees_no_other_ones_control_group() {
    let server = Server::start().await;
    let one = server.client.running().await;
    let other = server.client.running().await;
    let seen = one.sh("cat /proc/self/cgroup; find /sys/fs/cgroup").await;
    for bot in [&one.bot, &other.bot] {
        assert!(!seen.contains(bot.as_str()), "{seen}");
    }
    let limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true";
    assert_eq!(one.sh(limit).await, (2_u64 << 30).to_string());
}

#[tokio::test]
async fn times_are_right_in_images_without_zones_and_no_mount_is_in_the_way_of_a_package() {
    let folder = folder("botstead-e2e-");
    let data = folder.path().join("data");
    let zone = "timezone = \"Asia/Kolkata\"\n";
    let server = Server::start_with_workspace(folder, data, zone).await;
    let workspace = server.client.running().await;
    assert_eq!(workspace.sh("date +%z").await, "+0530");
    let replace =
        "echo x > /etc/new; mv /etc/new /etc/localtime; mv /etc/localtime /etc/old; rm /etc/old";
    workspace.sh(replace).await;
    let without = Server::start().await;
    let workspace = without.client.running().await;
    assert_eq!(workspace.sh("echo [$TZ]; date +%z").await, "[]\n+0000");
}
