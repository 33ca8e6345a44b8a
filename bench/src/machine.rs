//! What the figures were measured on. No names of hosts, users or folders.

use anyhow::Result;
use std::fmt;
use std::fs;

/// The machine and its software.
#[derive(Debug)]
pub(crate) struct Machine {
    date: String,
    kernel: String,
    processor: String,
    cores: usize,
    memory_gib: u64,
    cgroups: &'static str,
    pub(crate) containerd: String,
    runc: String,
    load: String,
}

impl Machine {
    /// Looks at the machine. `containerd` is the version that it told.
    pub(crate) fn look(containerd: String) -> Result<Self> {
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal");
        let memory = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let runc = std::process::Command::new("runc").arg("--version").output();
        let runc = runc.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            processor: field(&processors, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: memory.unwrap_or_default() >> 20,
            cgroups: match fs::exists("/sys/fs/cgroup/cgroup.controllers")? {
                true => "cgroup v2",
                false => "cgroup v1",
            },
            containerd,
            runc: runc
                .ok()
                .and_then(|text| Some(text.lines().next()?.replace("version ", "")))
                .unwrap_or_else(|| "no runc on the PATH".to_owned()),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; Linux {}, {}; {}, {} cores, {} GiB; containerd {}, {}; load average at the start {}",
            self.date,
            self.kernel,
            self.cgroups,
            self.processor,
            self.cores,
            self.memory_gib,
            self.containerd,
            self.runc,
            self.load
        )
    }
}
