//! What shims answer, decoded: the parts that are used of `io.containerd.cgroups.v1.Metrics` and
//! `io.containerd.cgroups.v2.Metrics` (github.com/containerd/cgroups, `cgroup1/stats` and
//! `cgroup2/stats`).

use botstead_runtime::{CpuUsage, MemoryUsage, Usage};
use prost::{DecodeError, Message};
use prost_types::Any;

#[derive(Clone, PartialEq, Message)]
struct MetricsV1 {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<CpuV1>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV1>,
}

#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV1 {
    #[prost(message, optional, tag = "1")]
    usage: Option<CpuUsageV1>,
}

/// In nanoseconds.
#[derive(Clone, PartialEq, Message)]
struct CpuUsageV1 {
    #[prost(uint64, tag = "1")]
    total: u64,
    #[prost(uint64, tag = "2")]
    kernel: u64,
    #[prost(uint64, tag = "3")]
    user: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV1 {
    #[prost(uint64, tag = "29")]
    total_inactive_file: u64,
    #[prost(message, optional, tag = "33")]
    usage: Option<MemoryEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryEntry {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricsV2 {
    #[prost(message, optional, tag = "1")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "2")]
    cpu: Option<CpuV2>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV2>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV2 {
    #[prost(uint64, tag = "1")]
    usage_usec: u64,
    #[prost(uint64, tag = "2")]
    user_usec: u64,
    #[prost(uint64, tag = "3")]
    system_usec: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV2 {
    #[prost(uint64, tag = "13")]
    inactive_file: u64,
    #[prost(uint64, tag = "32")]
    usage: u64,
    #[prost(uint64, tag = "33")]
    usage_limit: u64,
}

/// The usage; `None` for metrics of another kind.
pub(super) fn usage(data: &Any) -> Result<Option<Usage>, DecodeError> {
    let bytes = data.value.as_slice();
    // 2.x may put a host before the name, as type addresses have it.
    let name = data.type_url.rsplit('/').next().unwrap_or_default();
    Ok(match name {
        "io.containerd.cgroups.v1.Metrics" => Some(v1(MetricsV1::decode(bytes)?)),
        "io.containerd.cgroups.v2.Metrics" => Some(v2(MetricsV2::decode(bytes)?)),
        _ => None,
    })
}

/// Without a limit version 1 shows the largest number of pages and version 2 the largest number.
fn limit(limit: u64) -> u64 {
    if limit >= 1 << 62 { 0 } else { limit }
}

fn v1(metrics: MetricsV1) -> Usage {
    let cpu = metrics.cpu.and_then(|cpu| cpu.usage).unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let entry = memory.usage.unwrap_or_default();
    Usage {
        cpu: CpuUsage {
            usage_nanoseconds: cpu.total,
            user_nanoseconds: cpu.user,
            kernel_nanoseconds: cpu.kernel,
        },
        memory: MemoryUsage {
            usage_bytes: entry.usage.saturating_sub(memory.total_inactive_file),
            limit_bytes: limit(entry.limit),
        },
        pids: metrics.pids.unwrap_or_default().current,
    }
}

fn v2(metrics: MetricsV2) -> Usage {
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    Usage {
        cpu: CpuUsage {
            usage_nanoseconds: cpu.usage_usec.saturating_mul(1000),
            user_nanoseconds: cpu.user_usec.saturating_mul(1000),
            kernel_nanoseconds: cpu.system_usec.saturating_mul(1000),
        },
        memory: MemoryUsage {
            usage_bytes: memory.usage.saturating_sub(memory.inactive_file),
            limit_bytes: limit(memory.usage_limit),
        },
        pids: metrics.pids.unwrap_or_default().current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What containerd 1.6 answered for a shell with a limit of 64 MiB on a host of version 1.
    const RECORDED: &str = "1204080210401a170a1308defbf5071080ade2042207a0ad53becea2071200\
        2293010880201080e00628802038e00340c40348c7065880a00660804070802080018080802088018080802090\
        018020980180e006b0018020c001e003c801c403d001c706e00180a006e8018040f80180208a020e0880808020\
        1080c02e1880c0890192020e08808080201080c02e1880c089019a02120880e0ffffffffffff7f1080801c1880\
        a022a2020a0880e0ffffffffffff7f2a004a00";

    fn any(name: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: name.to_owned(),
            value,
        }
    }

    #[test]
    fn version_1_is_read_as_it_was_recorded() {
        let bytes = hex::decode(RECORDED).unwrap();
        let expected = Usage {
            cpu: CpuUsage {
                usage_nanoseconds: 16_612_830,
                user_nanoseconds: 0,
                kernel_nanoseconds: 10_000_000,
            },
            memory: MemoryUsage {
                usage_bytes: 761_856 - 8192,
                limit_bytes: 64 << 20,
            },
            pids: 2,
        };
        for name in [
            "io.containerd.cgroups.v1.Metrics",
            "types.containerd.io/io.containerd.cgroups.v1.Metrics",
        ] {
            let told = usage(&any(name, bytes.clone())).unwrap();
            assert_eq!(told, Some(expected), "{name}");
        }
    }

    #[test]
    fn version_2_counts_in_microseconds_and_has_a_largest_limit_for_none() {
        // Fields by their tags: pids 1, cpu 2, memory 4 with 13, 32 and 33.
        let pids = [0x0a, 4, 0x08, 3, 0x10, 0x40];
        let cpu = [0x12, 9, 0x08, 0xe8, 7, 0x10, 0xd8, 4, 0x18, 0x90, 3];
        let memory = [0x22, 20, 0x68, 0x80, 0x20, 0x80, 2, 0x80, 0x80, 4];
        let limit = [0x88, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        let bytes = [&pids[..], &cpu, &memory, &limit].concat();
        let told = usage(&any("io.containerd.cgroups.v2.Metrics", bytes)).unwrap();
        let expected = Usage {
            cpu: CpuUsage {
                usage_nanoseconds: 1_000_000,
                user_nanoseconds: 600_000,
                kernel_nanoseconds: 400_000,
            },
            memory: MemoryUsage {
                usage_bytes: 65536 - 4096,
                limit_bytes: 0,
            },
            pids: 3,
        };
        assert_eq!(told, Some(expected));
    }

    #[test]
    fn what_is_neither_is_not_guessed() {
        assert_eq!(usage(&any("io.test.Metrics", vec![1])).unwrap(), None);
        let broken = any("io.containerd.cgroups.v2.Metrics", vec![0xff]);
        assert!(usage(&broken).is_err());
    }
}
