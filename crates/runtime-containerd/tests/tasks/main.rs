//! Running containers on a real containerd: what is seen from inside, what is told, what is left.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod commands;
mod halfway;
#[path = "../support/mod.rs"]
mod support;

use botstead_runtime::{
    ContainerSpec, Dns, ErrorKind, Exec, ExecOutput, ExecUser, Signal, TaskEvent,
};
use botstead_runtime_containerd::images::RegistryConfig;
use botstead_runtime_containerd::{Containerd, ContainerdConfig};
use botstead_runtime_testing::InMemoryRuntime;
use botstead_runtime_testing::conformance::{Context, Program, run};
use bytes::Bytes;
use futures_util::StreamExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::Real;

/// Longer than anything takes, also on an emulated machine.
const LONG: Duration = Duration::from_secs(120);

fn sh(script: &str) -> Exec {
    Exec {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        user: ExecUser::default(),
        stdin: Bytes::new(),
        timeout: Some(LONG),
        output_limit: 1 << 20,
    }
}

async fn exec(cx: &Context, spec: &ContainerSpec, exec: Exec) -> ExecOutput {
    let done = cx.tasks.exec(&spec.id, exec).await;
    done.unwrap_or_else(|error| panic!("{}", error.chain()))
}

async fn output(cx: &Context, spec: &ContainerSpec, script: &str) -> String {
    let output = exec(cx, spec, sh(script)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.exit_code, 0, "{script}: {error}");
    String::from_utf8(output.stdout.to_vec()).unwrap()
}

/// Waits until the command's answer is this.
async fn until(cx: &Context, spec: &ContainerSpec, script: &str, expected: &str) {
    let began = Instant::now();
    loop {
        let told = output(cx, spec, script).await;
        if told.trim() == expected {
            return;
        }
        if began.elapsed() > LONG {
            let all = output(cx, spec, "busybox ps -o pid,ppid,pgid,args").await;
            panic!("{script}: {told}{all}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many processes have this word in their command line, in a way that does not count itself.
fn count(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    format!("busybox ps -o args | busybox grep -c '[{first}]{rest}' || true")
}

async fn start(cx: &Context, spec: &ContainerSpec) {
    cx.containers.create(&cx.lease, spec).await.unwrap();
    cx.tasks.create(&spec.id).await.unwrap();
    cx.tasks.start(&spec.id).await.unwrap();
}

#[tokio::test]
async fn a_pipe_in_place_of_the_users_is_refused_at_once() {
    run(Real::new, async |cx: Context| {
        let spec = cx.running(Program::Forever).await;
        for file in ["passwd", "group"] {
            let make = format!("cd /etc; busybox mv {file} kept; busybox mkfifo {file}");
            output(&cx, &spec, &make).await;
            cx.tasks
                .stop(&spec.id, Signal::KILL, Duration::ZERO)
                .await
                .unwrap();
            let create = tokio::time::timeout(Duration::from_secs(20), cx.tasks.create(&spec.id));
            let refused = create.await.expect("it is held up").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unstartable);
            let why = refused.to_string();
            assert!(why.contains(&format!("/etc/{file}")), "{why}");
            let root = &cx.snapshots.mounts(&spec.snapshot).await.unwrap()[0];
            let etc = root.upper_dir().unwrap().join("etc");
            std::fs::rename(etc.join("kept"), etc.join(file)).unwrap();
            cx.tasks.create(&spec.id).await.unwrap();
            cx.tasks.start(&spec.id).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_link_in_place_of_dev_does_not_lead_to_the_host() {
    run(Real::new, async |cx: Context| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ptmx"), "the host's").unwrap();
        let spec = cx.spec(&cx.active().await, Program::Forever);
        cx.containers.create(&cx.lease, &spec).await.unwrap();
        let root = &cx.snapshots.mounts(&spec.snapshot).await.unwrap()[0];
        let upper = root.upper_dir().unwrap();
        // There as well, for where runc looks beneath the root.
        let inside = upper.join(folder.path().strip_prefix("/").unwrap());
        std::fs::create_dir_all(inside).unwrap();
        let _ = std::fs::remove_dir(upper.join("dev"));
        std::os::unix::fs::symlink(folder.path(), upper.join("dev")).unwrap();
        let refused = cx.tasks.create(&spec.id).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unstartable);
        assert!(refused.to_string().contains("/dev must be"), "{refused}");
        let names = std::fs::read_dir(&folder).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["ptmx"]);
        let kept = std::fs::read(folder.path().join("ptmx")).unwrap();
        assert_eq!(kept, b"the host's");
    })
    .await;
}

#[tokio::test]
async fn a_pipe_on_a_mount_in_place_of_the_users_is_refused_at_once() {
    run(Real::new, async |cx: Context| {
        let shared = tempfile::tempdir().unwrap();
        let pipe = shared.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        let mut spec = cx.spec(&cx.active().await, Program::Forever);
        spec.mounts.push(botstead_runtime::Mount {
            source: shared.path().to_owned(),
            destination: "/shared".to_owned(),
            read_only: false,
        });
        cx.containers.create(&cx.lease, &spec).await.unwrap();
        let root = &cx.snapshots.mounts(&spec.snapshot).await.unwrap()[0];
        let etc = root.upper_dir().unwrap().join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::os::unix::fs::symlink("/shared/pipe", etc.join("group")).unwrap();
        for create in [
            cx.tasks.create_on(&spec.id, std::slice::from_ref(root)),
            cx.tasks.create(&spec.id),
        ] {
            let create = tokio::time::timeout(Duration::from_secs(20), create);
            let refused = create.await.expect("it is held up").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unstartable);
        }
        std::fs::remove_file(etc.join("group")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_container_sees_what_its_record_says() {
    run(Real::new, async |cx: Context| {
        let shared = tempfile::tempdir().unwrap();
        std::fs::write(shared.path().join("file"), "shared").unwrap();
        let mut spec = cx.spec(&cx.active().await, Program::Forever);
        spec.hostname = "inside".to_owned();
        spec.hosts = vec![("10.9.8.7".parse().unwrap(), "host.internal".to_owned())];
        spec.dns = Dns {
            nameservers: vec!["10.9.8.1".parse().unwrap()],
            search: vec!["a.test".to_owned()],
            options: vec!["ndots:1".to_owned()],
        };
        let zone = "Asia/Tokyo";
        spec.timezone = Some(zone.to_owned());
        spec.mounts.push(botstead_runtime::Mount {
            source: shared.path().to_owned(),
            destination: "/run/botstead/shared".to_owned(),
            read_only: true,
        });
        spec.limits.memory_bytes = Some(64 << 20);
        spec.limits.pids = Some(50);
        spec.limits.cpu_millis = Some(500);
        start(&cx, &spec).await;
        assert_eq!(output(&cx, &spec, "busybox hostname").await, "inside\n");
        assert_eq!(
            output(&cx, &spec, "busybox cat /etc/hostname").await,
            "inside\n"
        );
        let hosts = output(&cx, &spec, "busybox cat /etc/hosts").await;
        assert!(hosts.contains("10.9.8.7 host.internal") && hosts.contains(" inside\n"));
        let resolv = output(&cx, &spec, "busybox cat /etc/resolv.conf").await;
        assert_eq!(
            resolv,
            "nameserver 10.9.8.1\nsearch a.test\noptions ndots:1\n"
        );
        let task = "busybox tr '\\0' '\\n' < /proc/1/environ";
        assert!(output(&cx, &spec, task).await.contains("TZ=Asia/Tokyo"));
        // Of the image's files none is covered that a package may replace.
        let link = "busybox ln -sf /usr/share/zoneinfo/X /etc/localtime && busybox mv /etc/localtime /etc/moved";
        assert_eq!(output(&cx, &spec, link).await, "");
        let shown = "busybox cat /run/botstead/shared/file";
        assert_eq!(output(&cx, &spec, shown).await, "shared");
        let mut write = sh("echo x > /run/botstead/shared/file");
        assert_ne!(exec(&cx, &spec, write.clone()).await.exit_code, 0);
        // Masked, and read-only.
        assert_eq!(output(&cx, &spec, "busybox ls /sys/firmware").await, "");
        write = sh("echo x > /proc/sys/kernel/domainname");
        assert_ne!(exec(&cx, &spec, write).await.exit_code, 0);
        let limit = |one: &str, two: &str| {
            format!("busybox cat /sys/fs/cgroup/{one} /sys/fs/cgroup/{two} 2>/dev/null || true")
        };
        let memory = limit("memory/memory.limit_in_bytes", "memory.max");
        assert_eq!(output(&cx, &spec, &memory).await, "67108864\n");
        assert_eq!(
            output(&cx, &spec, &limit("pids/pids.max", "pids.max")).await,
            "50\n"
        );
        let quota = output(&cx, &spec, &limit("cpu/cpu.cfs_quota_us", "cpu.max")).await;
        assert!(quota == "50000\n" || quota == "50000 100000\n", "{quota}");
        let usage = cx.metrics.usage(&spec.id).await.unwrap();
        assert_eq!(usage.memory.limit_bytes, 64 << 20);
    })
    .await;
}

#[tokio::test]
async fn a_container_sees_its_own_control_group_only() {
    run(Real::new, async |cx: Context| {
        let mut spec = cx.spec(&cx.active().await, Program::Forever);
        spec.limits.memory_bytes = Some(64 << 20);
        start(&cx, &spec).await;
        let other = cx.running(Program::Forever).await;
        // Every line ends with the group: the top one, as seen from inside.
        let groups = output(&cx, &spec, "busybox cat /proc/self/cgroup").await;
        for line in groups.lines() {
            assert!(line.ends_with(":/"), "{groups}");
        }
        let own = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
        let inside = output(&cx, &spec, "busybox readlink /proc/self/ns/cgroup").await;
        assert_ne!(own.to_str(), Some(inside.trim()));
        let seen = output(&cx, &spec, "busybox find /sys/fs/cgroup").await;
        for foreign in [
            other.id.as_str(),
            spec.id.as_str(),
            "system.slice",
            "init.scope",
        ] {
            assert!(!seen.contains(foreign), "{foreign} in {seen}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_protection_of_the_first_process_is_its_own() {
    run(Real::new, async |cx: Context| {
        let mut spec = cx.spec(&cx.active().await, Program::Forever);
        spec.process.oom_score_adj = -998;
        start(&cx, &spec).await;
        let first = output(&cx, &spec, "busybox cat /proc/1/oom_score_adj").await;
        // Not every host's root may give one.
        let expected = if support::may_protect() { "-941" } else { "0" };
        assert_eq!(first.trim(), expected);
        assert_eq!(output(&cx, &spec, "busybox cat /proc/self/oom_score_adj").await, "0\n");
        let take = "for value in -998 -17 -1; do echo $value > /proc/self/oom_score_adj && echo taken; \
             echo $value > /proc/self/oom_adj && echo taken; done 2>/dev/null; true";
        assert_eq!(output(&cx, &spec, take).await, "");
    })
    .await;
}

#[tokio::test]
async fn files_of_etc_are_no_files_of_the_hosts_disk() {
    let real = Real::new().await;
    let (etc, state) = (real.config.etc_root.clone(), real.config.state_root.clone());
    run(
        async || real,
        async |cx: Context| {
            let spec = cx.running(Program::Forever).await;
            for name in ["hosts", "hostname", "resolv.conf"] {
                let file = format!("/etc/{name}");
                let options =
                    output(&cx, &spec, &format!("busybox grep ' {file} ' /proc/mounts")).await;
                for option in ["tmpfs", "nosuid", "nodev", "noexec"] {
                    assert!(options.contains(option), "{options}");
                }
                // They can be written, in small.
                output(&cx, &spec, &format!("echo '# more' >> {file}")).await;
            }
            for name in ["hosts", "hostname", "resolv.conf"] {
                let file = format!("/etc/{name}");
                let fill = sh(&format!("busybox head -c 1000000 /dev/zero >> {file}"));
                assert_ne!(exec(&cx, &spec, fill).await.exit_code, 0);
                output(
                    &cx,
                    &spec,
                    &format!(
                        "busybox cp /bin/busybox {file} 2>/dev/null; busybox chmod 6777 {file}"
                    ),
                )
                .await;
                assert_ne!(exec(&cx, &spec, sh(&file)).await.exit_code, 0);
                let on_host = etc.join(spec.id.as_str()).join(name);
                let found = rustix::fs::statvfs(&on_host).unwrap();
                assert!(
                    found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID),
                    "{name}"
                );
                assert!(found.f_blocks * found.f_frsize <= 1 << 20, "{name}");
            }
            assert!(!state.join("containers").join(spec.id.as_str()).exists());
            // A new task finds them as they were recorded.
            cx.tasks
                .stop(&spec.id, Signal::KILL, Duration::ZERO)
                .await
                .unwrap();
            assert!(!etc.join(spec.id.as_str()).exists());
            cx.tasks.create(&spec.id).await.unwrap();
            cx.tasks.start(&spec.id).await.unwrap();
            let hosts = output(&cx, &spec, "busybox cat /etc/hosts").await;
            assert!(hosts.starts_with("127.0.0.1 localhost\n"), "{hosts}");
        },
    )
    .await;
}

#[tokio::test]
async fn starts_ends_and_lack_of_memory_are_told() {
    run(Real::new, async |cx: Context| {
        let mut events = cx.tasks.events();
        // Until the first event nothing tells that the subscription stands.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut spec = cx.spec(&cx.active().await, Program::Forever);
        spec.limits.memory_bytes = Some(24 << 20);
        start(&cx, &spec).await;
        // A child takes it all; the first process goes on.
        let hungry = sh("busybox tail /dev/zero");
        let output = exec(&cx, &spec, hungry).await;
        assert_eq!(output.exit_code, 137, "{output:?}");
        let mut seen = Vec::new();
        let told = async {
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    TaskEvent::Started(id) if id == spec.id => seen.push("start"),
                    TaskEvent::OutOfMemory(id) if id == spec.id => {
                        // It may be told more than once.
                        if !seen.contains(&"oom") {
                            // The kernel may have killed it too, as what the child had is given back
                            // after the child was chosen.
                            let killed = cx.tasks.kill(&id, Signal::KILL).await;
                            assert!(killed.is_ok() || killed.unwrap_err().is_not_found());
                        }
                        seen.push("oom");
                    }
                    TaskEvent::Exited(id, exit) if id == spec.id => {
                        assert_eq!(exit.code, 137);
                        seen.push("exit");
                        break;
                    }
                    _ => {}
                }
            }
        };
        let in_time = tokio::time::timeout(LONG, told).await;
        seen.dedup();
        assert!(in_time.is_ok(), "{seen:?}");
        assert_eq!(seen, ["start", "oom", "exit"]);
    })
    .await;
}

#[tokio::test]
async fn a_task_that_cannot_be_created_leaves_nothing() {
    let real = Real::new().await;
    let (cgroup, folder) = (
        real.config.cgroup_parent.clone(),
        real.folder.path().to_owned(),
    );
    run(
        async || real,
        async |cx: Context| {
            let mut spec = cx.container(Program::Missing).await;
            let error = cx.tasks.create(&spec.id).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unstartable, "{}", error.chain());
            let error = cx.tasks.get(&spec.id).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let rootfs = format!("{}/", folder.display());
            let left = mounts
                .lines()
                .find(|line| line.contains(&rootfs) && line.contains(spec.id.as_str()));
            assert_eq!(left, None);
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            let left =
                processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
            let left = left
                .map(|line| String::from_utf8_lossy(&line).into_owned())
                .find(|line| line.contains(spec.id.as_str()));
            assert_eq!(left, None);
            for tree in [
                "/sys/fs/cgroup",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/pids",
            ] {
                let path = Path::new(tree).join(&cgroup).join(spec.id.as_str());
                assert!(!path.exists(), "{}", path.display());
            }
            // And what was wrong can be mended.
            spec.process.args = ["/bin/sh", "-c", "exit 6"].map(str::to_owned).to_vec();
            cx.containers.switch(&cx.lease, &spec).await.unwrap();
            cx.tasks.create(&spec.id).await.unwrap();
            cx.tasks.start(&spec.id).await.unwrap();
            assert_eq!(cx.tasks.wait(&spec.id).await.unwrap().code, 6);
        },
    )
    .await;
}

#[tokio::test]
async fn host_files_are_those_of_the_record_and_of_nothing_else() {
    let real = Real::new().await;
    let etc = real.config.etc_root.clone();
    run(
        async || real,
        async |cx: Context| {
            let shown = async |spec: &ContainerSpec| {
                cx.tasks.create(&spec.id).await.unwrap();
                cx.tasks.start(&spec.id).await.unwrap();
                output(&cx, spec, "busybox cat /etc/hostname").await
            };
            let mut spec = cx.container(Program::Forever).await;
            let id = spec.id.clone();
            // Made again: refused, and nothing changed under the first one.
            spec.hostname = "second".to_owned();
            cx.containers.create(&cx.lease, &spec).await.unwrap_err();
            assert_eq!(shown(&spec).await, "conformance\n");
            cx.tasks.stop(&id, Signal::KILL, LONG).await.unwrap();
            cx.containers.switch(&cx.lease, &spec).await.unwrap();
            assert_eq!(shown(&spec).await, "second\n");
            spec.hostname = "third".to_owned();
            let refused = cx.containers.switch(&cx.lease, &spec).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Conflict);
            assert_eq!(
                output(&cx, &spec, "busybox cat /etc/hostname").await,
                "second\n"
            );
            // containerd refuses a label of more than 4096 bytes.
            cx.tasks.stop(&id, Signal::KILL, LONG).await.unwrap();
            spec.labels.insert("long".to_owned(), "x".repeat(5000));
            let refused = cx.containers.switch(&cx.lease, &spec).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
            assert_eq!(shown(&spec).await, "second\n");
            cx.tasks.stop(&id, Signal::KILL, LONG).await.unwrap();
            cx.containers.delete(&id).await.unwrap();
            assert!(!etc.join(id.as_str()).exists());
            cx.containers.switch(&cx.lease, &spec).await.unwrap_err();
            assert!(!etc.join(id.as_str()).exists());
        },
    )
    .await;
}

/// A second adapter that looks for cgroups where there are none.
fn blind(config: &ContainerdConfig) -> botstead_runtime::Runtime {
    let mut config = config.clone();
    config.cgroup_parent = "botstead-test-nowhere".to_owned();
    let network = InMemoryRuntime::new().runtime().network;
    Containerd::connect(config, RegistryConfig::default(), network).unwrap()
}

#[tokio::test]
async fn containerd_measures_where_the_files_are_not_to_be_had() {
    let real = Real::new().await;
    let config = real.config.clone();
    run(
        async || real,
        async |cx: Context| {
            let mut spec = cx.spec(&cx.active().await, Program::Forever);
            spec.limits.memory_bytes = Some(64 << 20);
            start(&cx, &spec).await;
            let blind = blind(&config);
            let files = cx.metrics.usage(&spec.id).await.unwrap();
            let asked = blind.metrics.usage(&spec.id).await.unwrap();
            assert_eq!(asked.memory.limit_bytes, 64 << 20);
            assert!(asked.pids >= 1 && asked.memory.usage_bytes > 0, "{asked:?}");
            let (less, more) = (files.cpu.usage_nanoseconds, asked.cpu.usage_nanoseconds);
            assert!(
                more >= less && more - less < 10_000_000_000,
                "{files:?} {asked:?}"
            );
            cx.tasks.kill(&spec.id, Signal::KILL).await.unwrap();
            cx.tasks.wait(&spec.id).await.unwrap();
            let ended = blind.metrics.usage(&spec.id).await.unwrap_err();
            assert_eq!(ended.kind(), ErrorKind::NotFound, "{}", ended.chain());
            cx.tasks.delete(&spec.id).await.unwrap();
            let gone = blind.metrics.usage(&spec.id).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound, "{}", gone.chain());
        },
    )
    .await;
}
