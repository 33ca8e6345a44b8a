//! What of the specification people and runc rely on.

use super::*;
use crate::cdi;
use botstead_runtime::{Dns, Exec, ExecUser, Mount, Process};
use botstead_types::{BotId, ContainerId, ImageConfig, OperationId, ResolvedImage, SnapshotKey};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn example() -> ContainerSpec {
    ContainerSpec {
        id: ContainerId::for_bot(BotId::generate()),
        image: ResolvedImage {
            reference: "localhost/a:1".parse().unwrap(),
            digest: format!("sha256:{}", "0".repeat(64)),
            config: ImageConfig {
                env: vec!["A=image".to_owned(), "PATH=/image".to_owned()],
                ..ImageConfig::default()
            },
        },
        snapshot: SnapshotKey::active(OperationId::generate()),
        process: Process {
            args: vec!["/agent".to_owned(), "--x".to_owned()],
            env: vec!["A=own".to_owned()],
            cwd: "/data".to_owned(),
            oom_score_adj: -500,
        },
        hostname: "bot-1".to_owned(),
        hosts: vec![("10.0.0.1".parse().unwrap(), "host.internal".to_owned())],
        dns: Dns {
            nameservers: vec!["10.0.0.53".parse().unwrap()],
            search: vec!["a.test".to_owned(), "b.test".to_owned()],
            options: vec!["ndots:1".to_owned()],
        },
        timezone: Some("Area/City".to_owned()),
        mounts: vec![Mount {
            source: "/srv/agent".into(),
            destination: "/run/botstead/agent".to_owned(),
            read_only: true,
        }],
        channel: Some("/run/botstead/host".to_owned()),
        network_namespace: Some("/run/netns/one".into()),
        address: Some("10.0.0.7".parse().unwrap()),
        limits: Limits {
            memory_bytes: Some(64 << 20),
            pids: Some(77),
            cpu_millis: Some(1500),
        },
        shared_memory_bytes: 64 << 20,
        devices: Vec::new(),
        labels: BTreeMap::new(),
    }
}

/// The document of a specification.
fn document(spec: &ContainerSpec, edits: &Edits) -> Value {
    let host = Host {
        channel: Path::new("/run/b/channels/one"),
        oom_floor: -600,
        etc: Path::new("/run/b/etc/one"),
        cgroup: "/parent/one",
        cgroup_namespace: true,
    };
    let bytes = build(spec, &host, edits).unwrap();
    let typed: Spec = serde_json::from_slice(&bytes).unwrap();
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    let again: Spec = serde_json::from_value(serde_json::to_value(&typed).unwrap()).unwrap();
    assert_eq!(typed, again, "it does not survive a round trip");
    value
}

fn names(set: &Value) -> Vec<String> {
    let mut names: Vec<String> = serde_json::from_value(set.clone()).unwrap();
    names.sort();
    names
}

#[test]
fn mounts_come_in_order_and_end_with_those_that_were_asked_for() {
    let document = document(&example(), &Edits::default());
    let mounts = document["mounts"].as_array().unwrap();
    let destinations: Vec<&str> = mounts
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        destinations,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/shm",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/run/botstead",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/run/botstead/host",
            "/run/botstead/agent",
        ]
    );
    let bind = |destination: &str, source: &str, access: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]});
    assert_eq!(
        mounts[8],
        json!({"destination": "/etc/hosts", "type": "bind", "source": "/run/b/etc/one/hosts",
            "options": ["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"]})
    );
    let channel = bind("/run/botstead/host", "/run/b/channels/one", "rw");
    assert_eq!(mounts[11], channel);
    assert_eq!(mounts[12], bind("/run/botstead/agent", "/srv/agent", "ro"));
    // That of the first process alone is not runc's to give.
    assert_eq!(document["process"]["oomScoreAdj"], 0);
    assert_eq!(start::read(&document).unwrap().oom_score_adj, -500);
    assert_eq!(
        mounts[5],
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]})
    );
}

#[test]
fn the_mount_of_a_time_zone_that_an_older_release_recorded_goes() {
    let mut document = document(&example(), &Edits::default());
    assert!(!start::uncover_zone(&mut document));
    let before = document.clone();
    let mounts = document["mounts"].as_array_mut().unwrap();
    mounts.insert(5, json!({"destination": "/etc/localtime", "type": "bind"}));
    assert!(start::uncover_zone(&mut document));
    assert_eq!(document, before);
}

#[test]
fn the_process_is_root_with_dockers_capabilities_and_inherited_limits() {
    let document = document(&example(), &Edits::default());
    let process = &document["process"];
    assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
    assert_eq!(process["args"], json!(["/agent", "--x"]));
    assert_eq!(process["cwd"], "/data");
    assert_eq!(process["noNewPrivileges"], false);
    assert_eq!(process["terminal"], false);
    assert_eq!(
        process["env"],
        json!(["PATH=/image", "TZ=Area/City", "A=own"])
    );
    let expected = [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(names(&process["capabilities"][set]), expected, "{set}");
    }
    for absent in ["inheritable", "ambient"] {
        assert!(process["capabilities"].get(absent).is_none(), "{absent}");
    }
    assert!(process.get("rlimits").is_none());
}

#[test]
fn limits_namespaces_and_paths_are_as_wanted() {
    let document = document(&example(), &Edits::default());
    assert_eq!(document["ociVersion"], "1.0.2");
    assert_eq!(document["hostname"], "bot-1");
    assert_eq!(
        document["root"],
        json!({"path": "rootfs", "readonly": false})
    );
    let linux = &document["linux"];
    assert_eq!(linux["cgroupsPath"], "/parent/one");
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
        json!({"type": "network", "path": "/run/netns/one"}),
    ];
    if crate::spec::has_cgroup_namespaces() {
        namespaces.push(json!({"type": "cgroup"}));
    }
    assert_eq!(linux["namespaces"], json!(namespaces));
    assert_eq!(
        linux["resources"],
        json!({"devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "pids": {"limit": 77}, "cpu": {"quota": 150_000, "period": 100_000}})
    );
    assert_eq!(linux["maskedPaths"], json!(MASKED));
    assert_eq!(linux["readonlyPaths"], json!(READ_ONLY));
    assert!(linux.get("seccomp").is_none());
}

#[test]
fn without_limits_and_network_there_are_none() {
    let mut spec = example();
    spec.limits = Limits {
        memory_bytes: Some(0),
        pids: None,
        cpu_millis: Some(0),
    };
    spec.network_namespace = None;
    let document = document(&spec, &Edits::default());
    assert_eq!(
        document["linux"]["resources"],
        json!({"devices": [{"allow": false, "access": "rwm"}]})
    );
    assert_eq!(
        document["linux"]["namespaces"][4],
        json!({"type": "network"})
    );
}

#[test]
fn a_device_is_made_allowed_and_mounted_before_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"{"cdiVersion":"0.6.0","kind":"test.org/null","devices":[{"name":"0",
        "containerEdits":{"env":["D=1"],"deviceNodes":[{"path":"/dev/x","hostPath":"/dev/null"}],
        "mounts":[{"hostPath":"/etc","containerPath":"/x"}]}}]}"#;
    std::fs::write(folder.path().join("a.json"), file).unwrap();
    let devices = ["test.org/null=0".parse().unwrap()];
    let edits = cdi::resolve(&devices, &[folder.path().to_owned()]).unwrap();
    let document = document(&example(), &edits);
    let linux = &document["linux"];
    assert_eq!(linux["devices"][0]["path"], "/dev/x");
    assert_eq!(linux["devices"][0]["type"], "c");
    assert_eq!(
        linux["resources"]["devices"][1],
        json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"})
    );
    assert_eq!(document["mounts"][11]["destination"], "/x");
    assert!(document["process"]["env"].to_string().contains("D=1"));
}

#[test]
fn a_command_of_another_user_has_no_capability_of_its_own() {
    let exec = Exec {
        args: vec!["id".to_owned()],
        env: vec!["B=1".to_owned()],
        cwd: "/".to_owned(),
        user: ExecUser::default(),
        stdin: Default::default(),
        timeout: None,
        output_limit: 1,
    };
    let bytes = process::command(&exec, (1000, 1001)).unwrap();
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(value["user"], json!({"uid": 1000, "gid": 1001}));
    assert_eq!(names(&value["capabilities"]["bounding"]).len(), 14);
    assert!(value["capabilities"].get("effective").is_none());
    assert!(value.get("rlimits").is_none());
    let root = process::command(&exec, (0, 0)).unwrap();
    let root: Value = serde_json::from_slice(&root).unwrap();
    assert_eq!(names(&root["capabilities"]["effective"]).len(), 14);
}

#[test]
fn the_hosts_files_are_as_resolvers_read_them() {
    let document = document(&example(), &Edits::default());
    let etc = start::read(&document).unwrap().etc;
    let etc: Vec<(&str, &str)> = etc.iter().map(|(a, b)| (&**a, &**b)).collect();
    let hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n\
         10.0.0.7 bot-1\n10.0.0.1 host.internal\n";
    let resolv = "nameserver 10.0.0.53\nsearch a.test b.test\noptions ndots:1\n";
    assert_eq!(
        etc,
        [
            ("hosts", hosts),
            ("hostname", "bot-1\n"),
            ("resolv.conf", resolv)
        ]
    );
}

#[test]
fn terminals_are_limited_also_in_what_was_recorded_without_a_limit() {
    let mut document = document(&example(), &Edits::default());
    let new = document.clone();
    assert!(!start::limit_terminals(&mut document));
    let options = document["mounts"][2]["options"].as_array_mut().unwrap();
    assert_eq!(options.pop(), Some(json!("max=512")));
    assert!(start::limit_terminals(&mut document));
    assert_eq!(document, new);
}

#[test]
fn what_an_older_release_recorded_is_brought_up_to_date() {
    let mut new = document(&example(), &Edits::default());
    let folder = tempfile::tempdir().unwrap();
    let mut old = new.clone();
    // What others, such as a CDI specification, have put in stays.
    new["annotations"]["org.example/kept"] = json!("yes");
    old["annotations"] = json!({"org.example/kept": "yes"});
    old["process"]["oomScoreAdj"] = json!(-500);
    let namespaces = old["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    for (number, (name, content)) in (8..).zip(start::read(&new).unwrap().etc) {
        let file = folder.path().join(&name);
        std::fs::write(&file, content).unwrap();
        old["mounts"][number]["source"] = json!(file);
        old["mounts"][number]["options"] = json!(["rbind", "rprivate", "rw"]);
    }
    assert_eq!(start::read(&old), None);
    let mut hostile = old.clone();
    start::renew(&mut old, Path::new("/run/b/etc/one"), true).unwrap();
    assert_eq!(old, new);
    // The root inside could write what it wanted: bytes that are three times as long as text.
    for mount in hostile["mounts"].as_array().unwrap() {
        let file = Path::new(mount["source"].as_str().unwrap());
        if file.starts_with(folder.path()) {
            std::fs::write(file, vec![0xff; 128 << 10]).unwrap();
        }
    }
    start::renew(&mut hostile, Path::new("/run/b/etc/one"), true).unwrap();
    for (name, content) in start::read(&hostile).unwrap().etc {
        assert!(content.len() <= 64 << 10, "{name}: {}", content.len());
    }
}
