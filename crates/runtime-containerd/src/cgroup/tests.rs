//! Recorded hosts and files of both versions, and this host's own cgroups.

use super::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HYBRID: &str = include_str!("testdata/hybrid.mountinfo");

const UNIFIED: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

#[test]
fn hosts_of_all_kinds_are_recognised() {
    let v1 = |cpuacct: &str, memory: &str, pids: &str| {
        Some(Cgroups {
            layout: Layout::V1 {
                cpuacct: Some(cpuacct.into()),
                memory: Some(memory.into()),
                pids: Some(pids.into()),
            },
        })
    };
    assert_eq!(
        Cgroups::of(HYBRID),
        v1(
            "/sys/fs/cgroup/cpuacct",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/pids"
        )
    );
    assert_eq!(
        Cgroups::of(UNIFIED),
        Some(Cgroups {
            layout: Layout::V2 {
                root: "/sys/fs/cgroup".into()
            }
        })
    );
    // Controllers on one mount, a second mount of the same, and a blank in its path.
    let odd = "\
31 23 0:27 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /cg/mem\\040ory rw shared:9 - cgroup cgroup rw,memory
33 23 0:28 / /elsewhere rw shared:9 - cgroup cgroup rw,memory
34 23 0:29 / /cg/pids rw shared:1 master:2 - cgroup cgroup rw,pids
35 23 0:30 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd
";
    assert_eq!(
        Cgroups::of(odd),
        v1("/cg/cpu,cpuacct", "/cg/mem ory", "/cg/pids")
    );
    assert_eq!(Cgroups::of("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
    assert_eq!(Cgroups::of("not a mount\n\n - \n"), None);
}

/// The recorded files of a version, within the test program: it may run where its source is not.
macro_rules! recorded {
    ($version:literal: $($file:literal)*) => {
        &[$(($file, include_str!(concat!("testdata/", $version, "/", $file)))),*]
    };
}
const V1: &[(&str, &str)] = recorded!("v1": "cpuacct.stat" "cpuacct.usage" "memory.limit_in_bytes"
    "memory.stat" "memory.usage_in_bytes" "pids.current");
const V2: &[(&str, &str)] =
    recorded!("v2": "cpu.stat" "memory.current" "memory.max" "memory.stat" "pids.current");

/// A folder with recorded files in the cgroup `b/c`.
struct Recorded(tempfile::TempDir);

impl Recorded {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = folder.path().join("b/c");
        std::fs::create_dir_all(&cgroup).unwrap();
        for (name, text) in files {
            std::fs::write(cgroup.join(name), text).unwrap();
        }
        Self(folder)
    }

    fn root(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }

    fn v1(&self) -> Cgroups {
        Cgroups {
            layout: Layout::V1 {
                cpuacct: Some(self.root()),
                memory: Some(self.root()),
                pids: Some(self.root()),
            },
        }
    }

    fn v2(&self) -> Cgroups {
        Cgroups {
            layout: Layout::V2 { root: self.root() },
        }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.path().join("b/c").join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.0.path().join("b/c").join(file)).unwrap();
    }
}

#[test]
fn recorded_files_of_version_1() {
    let recorded = Recorded::new(V1);
    let usage = recorded.v1().usage("/b/c").unwrap().unwrap();
    assert_eq!(
        usage,
        Usage {
            cpu: CpuUsage {
                usage_nanoseconds: 5_516_041_526_967,
                user_nanoseconds: 4_558_680_000_000,
                kernel_nanoseconds: 957_350_000_000,
            },
            memory: MemoryUsage {
                usage_bytes: 201_326_592 - 95_848_652,
                limit_bytes: 536_870_912,
            },
            pids: 17,
        }
    );
    // The counters are read one after the other: the cache may seem larger than all.
    recorded.write("memory.usage_in_bytes", "4096\n");
    recorded.write("memory.limit_in_bytes", "9223372036854771712\n");
    let usage = recorded.v1().usage("b/c").unwrap().unwrap();
    assert_eq!(usage.memory, MemoryUsage::default());
}

#[test]
fn kills_for_lack_of_memory_are_counted_in_both_versions() {
    let recorded = Recorded::new(V1);
    assert_eq!(recorded.v1().out_of_memory_kills("/b/c").unwrap(), None);
    // From before Linux 4.13.
    recorded.write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n");
    assert_eq!(recorded.v1().out_of_memory_kills("/b/c").unwrap(), None);
    recorded.write(
        "memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
    );
    assert_eq!(recorded.v1().out_of_memory_kills("/b/c").unwrap(), Some(7));
    recorded.write(
        "memory.events",
        "low 0\nhigh 0\nmax 513\noom 3\noom_kill 2\noom_group_kill 0\n",
    );
    assert_eq!(recorded.v2().out_of_memory_kills("/b/c").unwrap(), Some(2));
    assert!(recorded.v2().out_of_memory_kills("/b/../c").is_err());
}

#[test]
fn recorded_files_of_version_2() {
    let recorded = Recorded::new(V2);
    let usage = recorded.v2().usage("/b/c").unwrap().unwrap();
    assert_eq!(
        usage,
        Usage {
            cpu: CpuUsage {
                usage_nanoseconds: 5_497_090_138_000,
                user_nanoseconds: 4_543_026_622_000,
                kernel_nanoseconds: 954_063_516_000,
            },
            memory: MemoryUsage {
                usage_bytes: 182_751_232 - 87_777_280,
                limit_bytes: 0,
            },
            pids: 12,
        }
    );
    recorded.write("memory.max", "268435456\n");
    let usage = recorded.v2().usage("/b/c").unwrap().unwrap();
    assert_eq!(usage.memory.limit_bytes, 268_435_456);
}

#[test]
fn missing_controllers_are_zero_and_processes_are_counted() {
    let recorded = Recorded::new(V2);
    for file in [
        "memory.current",
        "memory.stat",
        "memory.max",
        "pids.current",
    ] {
        recorded.remove(file);
    }
    recorded.write("cgroup.procs", "41\n42\n43\n");
    let usage = recorded.v2().usage("/b/c").unwrap().unwrap();
    assert_eq!(usage.memory, MemoryUsage::default());
    assert_eq!(usage.pids, 3);
    assert!(usage.cpu.usage_nanoseconds > 0);

    let recorded = Recorded::new(V1);
    recorded.write("cgroup.procs", "41\n");
    let no_pids = Cgroups {
        layout: Layout::V1 {
            cpuacct: Some(recorded.root()),
            memory: None,
            pids: None,
        },
    };
    let usage = no_pids.usage("/b/c").unwrap().unwrap();
    assert_eq!((usage.pids, usage.memory), (1, MemoryUsage::default()));
}

#[test]
fn a_cgroup_that_is_not_there_or_going_has_no_usage() {
    let recorded = Recorded::new(V1);
    assert_eq!(recorded.v1().usage("/b/d").unwrap(), None);
    recorded.remove("pids.current");
    assert_eq!(recorded.v1().usage("/b/c").unwrap(), None);

    let recorded = Recorded::new(V2);
    assert_eq!(recorded.v2().usage("/b/d").unwrap(), None);
    recorded.remove("pids.current");
    assert_eq!(recorded.v2().usage("/b/c").unwrap(), None);
}

#[test]
fn wrong_paths_and_contents_are_errors() {
    let recorded = Recorded::new(V2);
    for path in ["", "/", "/b/../b/c", "/b//c", "."] {
        let error = recorded.v2().usage(path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path:?}");
    }
    recorded.write("memory.current", "lots\n");
    let error = recorded.v2().usage("/b/c").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().ends_with("b/c/memory.current"), "{error}");
}

/// A cgroup of this host in every hierarchy, with a process that does nothing.
struct Real {
    name: String,
    dirs: Vec<PathBuf>,
    process: std::process::Child,
}

impl Real {
    fn new(cgroups: &Cgroups) -> Self {
        let name = format!("botstead-test-{}", std::process::id());
        let mut dirs: Vec<PathBuf> = match &cgroups.layout {
            Layout::V1 {
                cpuacct,
                memory,
                pids,
            } => [cpuacct, memory, pids].into_iter().flatten().collect(),
            Layout::V2 { root } => vec![root],
        }
        .into_iter()
        .map(|root| Path::new(root).join(&name))
        .collect();
        dirs.dedup();
        // Burns some processor time, then waits.
        let process = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg("read start; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read end")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let real = Self {
            name,
            dirs,
            process,
        };
        for dir in &real.dirs {
            std::fs::create_dir(dir).expect("cgroups can be made: run as root");
            let pid = real.process.id().to_string();
            std::fs::write(dir.join("cgroup.procs"), pid).unwrap();
        }
        real
    }

    fn work(&mut self) {
        use std::io::{Read, Write};
        let input = self.process.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
        let mut byte = [0];
        let output = self.process.stdout.as_mut().unwrap();
        output.read_exact(&mut byte).unwrap();
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for dir in &self.dirs {
            // The kernel may need a moment for the last process.
            for _ in 0..100 {
                if std::fs::remove_dir(dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn a_real_cgroup_tells_what_its_process_uses() {
    let cgroups = Cgroups::detect().unwrap();
    let name = {
        let mut real = Real::new(&cgroups);
        let before = cgroups.usage(&real.name).unwrap().unwrap();
        assert_eq!(before.pids, 1);
        real.work();
        let after = cgroups.usage(&real.name).unwrap().unwrap();
        let worked = after.cpu.usage_nanoseconds - before.cpu.usage_nanoseconds;
        assert!(worked > 5_000_000, "{before:?} {after:?}");
        assert!(worked < 60_000_000_000, "{before:?} {after:?}");
        // Rounded to ticks on version 1.
        let parts = after.cpu.user_nanoseconds + after.cpu.kernel_nanoseconds;
        assert!(
            parts.abs_diff(after.cpu.usage_nanoseconds) < 200_000_000,
            "{after:?}"
        );
        assert_eq!(after.memory.limit_bytes, 0);

        let mut times: Vec<Duration> = (0..2000)
            .map(|_| {
                let begin = Instant::now();
                cgroups.usage(&real.name).unwrap().unwrap();
                begin.elapsed()
            })
            .collect();
        times.sort_unstable();
        eprintln!(
            "a reading: median {:?}, 99 % {:?}",
            times[1000], times[1980]
        );
        assert!(times[1000] < Duration::from_millis(1), "{:?}", times[1000]);
        real.name.clone()
    };
    assert_eq!(cgroups.usage(&name).unwrap(), None);
}
