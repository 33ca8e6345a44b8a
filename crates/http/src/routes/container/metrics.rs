//! /bots/{bot_id}/container/metrics: what a workspace uses.

use crate::auth::Caller;
use crate::extract::IdOf;
use crate::problem::Problem;
use crate::state::SharedState;
use actix_web::{HttpResponse, get, web};
use botstead_types::BotId;
use botstead_workspace::WorkspaceMetrics;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// Where the writable layer is, as the workspace sees it.
const WRITABLE_LAYER: &str = "/";

/// What a workspace uses.
#[derive(Serialize, ToSchema)]
struct Metrics {
    /// Whether this backend and host can tell.
    supported: bool,
    /// The backend's name.
    backend: String,
    /// Why they cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsupported_reason: Option<String>,
    /// Whether there is anything to measure.
    status: MetricsStatus,
    /// The figures.
    metrics: Figures,
    /// When processor and memory were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
struct MetricsStatus {
    /// Whether the bot has a workspace.
    exists: bool,
    /// Whether its task runs.
    task_running: bool,
}

#[derive(Serialize, ToSchema)]
struct Figures {
    /// Processor time of the running task.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    /// Memory of the running task.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    /// What the writable layer occupies.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Storage>,
}

#[derive(Serialize, ToSchema)]
struct Cpu {
    /// Usage between the last two samples, 100 = one core; 0 with only one sample.
    usage_percent: f64,
    /// All processor time since the task was created, in nanoseconds.
    usage_nanoseconds: u64,
    /// In user mode.
    user_nanoseconds: u64,
    /// In the kernel.
    kernel_nanoseconds: u64,
}

#[derive(Serialize, ToSchema)]
struct Memory {
    /// Bytes in use, without page cache that can be dropped at once.
    usage_bytes: u64,
    /// The limit in bytes; 0 when there is none.
    limit_bytes: u64,
    /// Usage of the limit; 0 when there is none.
    usage_percent: f64,
}

#[derive(Serialize, ToSchema)]
struct Storage {
    /// Where the writable layer is inside the workspace.
    path: &'static str,
    /// Bytes that it occupies on disk.
    used_bytes: u64,
    /// When it was measured: at most once a minute.
    sampled_at: DateTime<Utc>,
}

impl From<WorkspaceMetrics> for Metrics {
    fn from(metrics: WorkspaceMetrics) -> Self {
        Self {
            supported: metrics.unsupported_reason.is_none(),
            backend: metrics.backend,
            unsupported_reason: metrics.unsupported_reason,
            status: MetricsStatus {
                exists: metrics.exists,
                task_running: metrics.task_running,
            },
            metrics: Figures {
                cpu: metrics.usage.map(|usage| Cpu {
                    usage_percent: metrics.cpu_percent,
                    usage_nanoseconds: usage.cpu.usage_nanoseconds,
                    user_nanoseconds: usage.cpu.user_nanoseconds,
                    kernel_nanoseconds: usage.cpu.kernel_nanoseconds,
                }),
                memory: metrics.usage.map(|usage| Memory {
                    usage_bytes: usage.memory.usage_bytes,
                    limit_bytes: usage.memory.limit_bytes,
                    usage_percent: percent(usage.memory.usage_bytes, usage.memory.limit_bytes),
                }),
                storage: metrics.storage.map(|storage| Storage {
                    path: WRITABLE_LAYER,
                    used_bytes: storage.used_bytes,
                    sampled_at: storage.sampled_at,
                }),
            },
            sampled_at: metrics.sampled_at,
        }
    }
}

fn percent(usage: u64, limit: u64) -> f64 {
    if limit == 0 {
        0.0
    } else {
        usage as f64 * 100.0 / limit as f64
    }
}

/// What a workspace uses. A bot without one is `exists: false`, not 404.
#[utoipa::path(
    tag = "container",
    params(("bot_id" = Uuid, Path, description = "The bot.")),
    responses(
        (status = 200, body = Metrics),
        (status = 404, description = "`bot_not_found`."),
    ),
)]
#[get("/bots/{bot_id}/container/metrics")]
async fn get_metrics(
    caller: Caller,
    id: IdOf<BotId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let metrics = workspaces.metrics(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(Metrics::from(metrics)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_workspace::StorageUsage;
    use botstead_workspace::{CpuUsage, MemoryUsage, Usage};
    use serde_json::json;

    fn idle() -> WorkspaceMetrics {
        WorkspaceMetrics {
            backend: "containerd".to_owned(),
            unsupported_reason: None,
            exists: false,
            task_running: false,
            usage: None,
            cpu_percent: 0.0,
            sampled_at: None,
            storage: None,
        }
    }

    #[test]
    fn no_workspace_has_no_figures() {
        assert_eq!(
            serde_json::to_value(Metrics::from(idle())).unwrap(),
            json!({
                "supported": true,
                "backend": "containerd",
                "status": {"exists": false, "task_running": false},
                "metrics": {},
            })
        );
    }

    #[test]
    fn a_running_workspace_has_all_figures() {
        let at: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
        let metrics = WorkspaceMetrics {
            exists: true,
            task_running: true,
            usage: Some(Usage {
                cpu: CpuUsage {
                    usage_nanoseconds: 3,
                    user_nanoseconds: 1,
                    kernel_nanoseconds: 2,
                },
                memory: MemoryUsage {
                    usage_bytes: 50,
                    limit_bytes: 200,
                },
                pids: 1,
            }),
            cpu_percent: 12.5,
            sampled_at: Some(at),
            storage: Some(StorageUsage {
                used_bytes: 9,
                sampled_at: at,
            }),
            ..idle()
        };
        let value = serde_json::to_value(Metrics::from(metrics)).unwrap();
        assert_eq!(
            value["metrics"],
            json!({
                "cpu": {"usage_percent": 12.5, "usage_nanoseconds": 3, "user_nanoseconds": 1, "kernel_nanoseconds": 2},
                "memory": {"usage_bytes": 50, "limit_bytes": 200, "usage_percent": 25.0},
                "storage": {"path": "/", "used_bytes": 9, "sampled_at": "2026-01-02T03:04:05Z"},
            })
        );
        assert_eq!(value["sampled_at"], "2026-01-02T03:04:05Z");
    }

    #[test]
    fn no_limit_is_no_percentage() {
        assert_eq!(percent(5, 0), 0.0);
    }
}
