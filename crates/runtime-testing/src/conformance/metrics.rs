//! Promises of [`botstead_runtime::Metrics`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, refused};
use botstead_runtime::ErrorKind::{NotFound, Unsupported};
use botstead_runtime::Signal;

pub async fn a_running_task_tells_what_it_uses(cx: Context) {
    let spec = cx.running(Program::Forever).await;
    let first = cx.metrics.usage(&spec.id).await;
    if !cx.backend.capabilities().metrics {
        return refused(first, Unsupported);
    }
    let (first, second) = (done(first), done(cx.metrics.usage(&spec.id).await));
    assert!(first.pids >= 1, "{first:?}");
    assert!(first.memory.usage_bytes > 0, "{first:?}");
    assert_eq!(Some(first.memory.limit_bytes), spec.limits.memory_bytes);
    assert!(second.cpu.usage_nanoseconds >= first.cpu.usage_nanoseconds);
}

pub async fn what_does_not_run_uses_nothing(cx: Context) {
    let spec = cx.container(Program::Forever).await;
    let kind = match cx.backend.capabilities().metrics {
        true => NotFound,
        false => Unsupported,
    };
    refused(cx.metrics.usage(&spec.id).await, kind);
    done(cx.tasks.create(&spec.id).await);
    done(cx.tasks.start(&spec.id).await);
    done(cx.tasks.kill(&spec.id, Signal::KILL).await);
    done(cx.tasks.wait(&spec.id).await);
    refused(cx.metrics.usage(&spec.id).await, kind);
}
