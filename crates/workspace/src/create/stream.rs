//! The events of a creation, for each of those who listen.

use super::{Creation, Phase};
use crate::model::CreateEvent;
use botstead_runtime::LayerProgress;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;

/// The creation's events from its beginning, whenever the listener came. Progress is the latest
/// value: a slow listener gets fewer events, never a queue of old ones.
pub(crate) fn events(creation: Arc<Creation>) -> BoxStream<'static, CreateEvent> {
    let listener = Listener {
        phase: creation.phase.subscribe(),
        pull: creation.live.pull.subscribe(),
        ready: VecDeque::from([CreateEvent::Pulling {
            image: creation.image.clone(),
        }]),
        shown: Vec::new(),
        creating_shown: false,
        restoring_shown: false,
        ended: false,
    };
    stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((event, listener))
    })
    .boxed()
}

struct Listener {
    phase: tokio::sync::watch::Receiver<Phase>,
    pull: tokio::sync::watch::Receiver<botstead_runtime::PullProgress>,
    ready: VecDeque<CreateEvent>,
    shown: Vec<LayerProgress>,
    creating_shown: bool,
    restoring_shown: bool,
    ended: bool,
}

impl Listener {
    async fn next(&mut self) -> Option<CreateEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let phase = self.phase.borrow_and_update().clone();
            match phase {
                Phase::Pulling => {
                    self.show_progress();
                    if self.ready.is_empty() {
                        tokio::select! {
                            _ = self.phase.changed() => {}
                            _ = self.pull.changed() => {}
                        }
                    }
                }
                Phase::Creating => {
                    self.show_creating();
                    if self.ready.is_empty() && self.phase.changed().await.is_err() {
                        return None;
                    }
                }
                Phase::Restoring => {
                    self.show_creating();
                    if !self.restoring_shown {
                        self.ready.push_back(CreateEvent::Restoring);
                        self.restoring_shown = true;
                    }
                    if self.ready.is_empty() && self.phase.changed().await.is_err() {
                        return None;
                    }
                }
                Phase::Done(done) => {
                    match &*done {
                        Ok(created) => {
                            self.show_creating();
                            if created.data_restored && !self.restoring_shown {
                                self.ready.push_back(CreateEvent::Restoring);
                            }
                            self.ready.push_back(CreateEvent::Complete(created.clone()));
                        }
                        Err(error) => {
                            self.ready.push_back(CreateEvent::Failed(error.to_joined()));
                        }
                    }
                    self.ended = true;
                }
            }
        }
    }

    fn show_progress(&mut self) {
        let layers = self.pull.borrow_and_update().layers.clone();
        if !layers.is_empty() && layers != self.shown {
            self.shown.clone_from(&layers);
            self.ready.push_back(CreateEvent::PullProgress { layers });
        }
    }

    fn show_creating(&mut self) {
        if !self.creating_shown {
            self.show_progress();
            self.ready.push_back(CreateEvent::Creating);
            self.creating_shown = true;
        }
    }
}
