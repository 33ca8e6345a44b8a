//! Promises of [`botstead_runtime::Channels`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, refused};
use botstead_runtime::ErrorKind::{NotFound, Unsupported};
use botstead_runtime::Signal;
use botstead_types::ContainerId;
use std::time::Duration;

impl Context {
    /// A container whose task has a channel and runs.
    async fn with_channel(&self) -> ContainerId {
        let mut spec = self.spec(&self.active().await, Program::Forever);
        if self.backend.capabilities().channels {
            spec.channel = Some("/run/channel".to_owned());
        }
        done(self.containers.create(&self.lease, &spec).await);
        done(self.tasks.create(&spec.id).await);
        done(self.tasks.start(&spec.id).await);
        spec.id
    }

    async fn has_channel(&self, id: &ContainerId) -> bool {
        done(self.channels.list().await).contains(id)
    }
}

pub async fn a_task_with_a_channel_is_listed(cx: Context) {
    let with = cx.with_channel().await;
    assert_eq!(
        cx.has_channel(&with).await,
        cx.backend.capabilities().channels
    );
    done(cx.tasks.stop(&with, Signal::KILL, Duration::ZERO).await);
    assert!(!cx.has_channel(&with).await, "it goes with its task");
}

pub async fn removing_a_channel_again_changes_nothing(cx: Context) {
    let (other, id) = (cx.with_channel().await, cx.with_channel().await);
    // As when the shim was killed, and nobody tidied up.
    for _ in 0..2 {
        done(cx.channels.remove(&id).await);
        assert!(!cx.has_channel(&id).await);
    }
    assert_eq!(
        cx.has_channel(&other).await,
        cx.backend.capabilities().channels
    );
}

pub async fn connecting_to_what_does_not_listen_is_refused(cx: Context) {
    let id = cx.with_channel().await;
    let connected = cx.channels.connect(&id, "none").await.map(|_| ());
    match cx.backend.capabilities().channels {
        true => refused(connected, NotFound),
        false => refused(connected, Unsupported),
    }
}
