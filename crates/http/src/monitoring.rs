//! Figures for monitoring, in Prometheus' text format.

use crate::shapes::word;
use actix_web::http::Method;
use botstead_workspace::{CopyStatistics, Statistics};
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    Opts, Registry, TextEncoder,
};
use std::time::Duration;

/// From a cached read to a pull of minutes.
const BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0,
];

/// Counters of requests. They belong to one server, not to the process.
pub(crate) struct Monitoring {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Monitoring {
    /// Counters at zero.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new(
                "botstead_http_requests_total",
                "Requests by route, method and class of status.",
            ),
            &["route", "method", "status"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "botstead_http_request_duration_seconds",
                "Time until the last byte of the reply, by route and method.",
            )
            .buckets(BUCKETS.to_vec()),
            &["route", "method"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        Ok(Self {
            registry,
            requests,
            durations,
        })
    }

    /// Counts a request.
    pub(crate) fn observe(&self, method: &Method, route: &str, status: u16, took: Duration) {
        // A client can send any word as a method; each would be a series of its own.
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
            _ => "other",
        };
        let class = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests
            .with_label_values(&[route, method, class])
            .inc();
        self.durations
            .with_label_values(&[route, method])
            .observe(took.as_secs_f64());
    }

    /// Everything as text: requests, workspaces and operations, and the process.
    pub(crate) fn text(
        &self,
        statistics: &Statistics,
        process: Option<&ProcessUsage>,
    ) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        let encoder = TextEncoder::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        encoder.encode(&of_workspaces(statistics)?.gather(), &mut text)?;
        if let Some(process) = process {
            encoder.encode(&process.registry()?.gather(), &mut text)?;
        }
        Ok(text)
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn gauge(registry: &Registry, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
    add(registry, IntGauge::new(name, help)?)?.set(i64::try_from(value).unwrap_or(i64::MAX));
    Ok(())
}

/// The use cases count for themselves; their figures are copied at each scrape.
fn of_workspaces(statistics: &Statistics) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let labels = &["kind", "outcome"];
    let operations = add(
        &registry,
        IntCounterVec::new(
            Opts::new(
                "botstead_operations_total",
                "Finished operations by kind and outcome.",
            ),
            labels,
        )?,
    )?;
    let seconds = add(
        &registry,
        CounterVec::new(
            Opts::new(
                "botstead_operation_seconds_total",
                "Time that finished operations took together, by kind and outcome.",
            ),
            labels,
        )?,
    )?;
    for operation in &statistics.operations {
        let (kind, outcome) = (word(&operation.kind), word(&operation.outcome));
        let values = [kind.as_str(), outcome.as_str()];
        operations
            .with_label_values(&values)
            .inc_by(operation.count);
        seconds
            .with_label_values(&values)
            .inc_by(operation.seconds.max(0.0));
    }
    gauge(
        &registry,
        "botstead_operations_running",
        "Operations under way.",
        statistics.operations_running,
    )?;
    gauge(
        &registry,
        "botstead_workspaces",
        "Workspaces that exist.",
        statistics.workspaces,
    )?;
    gauge(
        &registry,
        "botstead_workspaces_running",
        "Workspaces whose task runs, as far as the server knows.",
        statistics.workspaces_running,
    )?;
    gauge(
        &registry,
        "botstead_versions_missing",
        "Recorded versions that the runtime does not have, seen at start and in listings.",
        statistics.versions_missing,
    )?;
    add(
        &registry,
        IntCounter::new(
            "botstead_out_of_memory_kills_total",
            "Processes of workspaces that the kernel killed for lack of memory.",
        )?,
    )?
    .inc_by(statistics.out_of_memory_kills);
    gauge(
        &registry,
        "botstead_workspaces_lost",
        "Recorded workspaces of which the runtime has no files any more.",
        statistics.workspaces_lost,
    )?;
    of_live_copies(&registry, &statistics.live_copies)?;
    Ok(registry)
}

fn of_live_copies(registry: &Registry, copies: &CopyStatistics) -> prometheus::Result<()> {
    for (name, help, value) in [
        (
            "botstead_live_snapshots_total",
            "Snapshots of running workspaces.",
            copies.count,
        ),
        (
            "botstead_live_snapshot_copied_bytes_total",
            "Bytes that were copied for them.",
            copies.copied_bytes,
        ),
    ] {
        add(registry, IntCounter::new(name, help)?)?.inc_by(value);
    }
    for (name, help, value) in [
        (
            "botstead_live_snapshot_freeze_seconds_total",
            "How long workspaces stood still for them.",
            copies.freeze_seconds,
        ),
        (
            "botstead_live_snapshot_seconds_total",
            "How long they took.",
            copies.total_seconds,
        ),
    ] {
        add(registry, Counter::new(name, help)?)?.inc_by(value.max(0.0));
    }
    Ok(())
}

/// What the server's process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    resident_bytes: u64,
    open_files: u64,
}

impl ProcessUsage {
    /// Reads /proc: blocking. `None` where there is no such thing.
    pub(crate) fn read() -> Option<Self> {
        // proc_pid_status(5): "VmRSS: 1234 kB", whatever the page size.
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()?;
        let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
        Some(Self {
            resident_bytes: resident * 1024,
            // One of them is the listing itself.
            open_files: (open as u64).saturating_sub(1),
        })
    }

    fn registry(&self) -> prometheus::Result<Registry> {
        let registry = Registry::new();
        gauge(
            &registry,
            "process_resident_memory_bytes",
            "Resident memory in bytes.",
            self.resident_bytes,
        )?;
        gauge(
            &registry,
            "process_open_fds",
            "Open file descriptors.",
            self.open_files,
        )?;
        Ok(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_workspace::OperationStatistics;
    use botstead_workspace::{OperationKind, OperationState};

    #[test]
    fn the_text_has_requests_operations_and_the_process() {
        let monitoring = Monitoring::new().unwrap();
        let took = Duration::from_millis(3);
        monitoring.observe(&Method::GET, "/bots", 200, took);
        monitoring.observe(&Method::GET, "/bots", 204, took);
        monitoring.observe(
            &Method::from_bytes(b"BREW").unwrap(),
            "unmatched",
            499,
            took,
        );
        let statistics = Statistics {
            operations: vec![OperationStatistics {
                kind: OperationKind::DeleteBot,
                outcome: OperationState::Succeeded,
                count: 3,
                seconds: 1.5,
            }],
            workspaces: 7,
            out_of_memory_kills: 4,
            live_copies: CopyStatistics {
                count: 2,
                freeze_seconds: 0.25,
                total_seconds: 1.5,
                copied_bytes: 4096,
            },
            ..Statistics::default()
        };
        let process = ProcessUsage::read().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.open_files >= 3);
        let text = monitoring.text(&statistics, Some(&process)).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            r#"botstead_http_requests_total{method="GET",route="/bots",status="2xx"} 2"#,
            r#"botstead_http_requests_total{method="other",route="unmatched",status="4xx"} 1"#,
            r#"botstead_http_request_duration_seconds_count{method="GET",route="/bots"} 2"#,
            r#"botstead_operations_total{kind="delete_bot",outcome="succeeded"} 3"#,
            r#"botstead_operation_seconds_total{kind="delete_bot",outcome="succeeded"} 1.5"#,
            "botstead_workspaces 7",
            "botstead_out_of_memory_kills_total 4",
            "botstead_live_snapshots_total 2",
            "botstead_live_snapshot_copied_bytes_total 4096",
            "botstead_live_snapshot_freeze_seconds_total 0.25",
            "botstead_live_snapshot_seconds_total 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert!(text.contains("\nprocess_resident_memory_bytes "));
    }
}
