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
