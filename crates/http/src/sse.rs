//! Event streams: one JSON object per `data:` line, progress thinned out, comments that keep the
//! connection alive, and an end for every stream.

use crate::auth::Caller;
use crate::context::RequestId;
use crate::problem::Problem;
use crate::shapes::{Layer, StreamError};
use crate::state::SharedState;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use botstead_workspace::LayerProgress;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;

/// The pace of a stream.
#[derive(Clone, Copy)]
struct Pace {
    /// How often progress is sent at most.
    progress: Duration,
    /// How long a stream is silent before a comment is sent, so that proxies keep it open.
    silence: Duration,
}

const PACE: Pace = Pace {
    progress: Duration::from_millis(100),
    silence: Duration::from_secs(15),
};

/// How long before the end of the shutdown's grace streams end, so that their last event arrives.
const FAREWELL: Duration = Duration::from_secs(1);

/// One item of an operation's events.
pub(crate) enum Step<E> {
    /// How far it is; only the newest one matters.
    Progress(Vec<LayerProgress>),
    /// Something that happened.
    Event(E),
    /// How it ended.
    Last(E),
    /// Something that happened, with the id by which a client goes on after it.
    EventAt(String, E),
    /// How it ended, with an id.
    LastAt(String, E),
    /// It failed; nothing follows.
    Failed(Problem),
    /// That is all there is for now.
    End,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "pull_progress")]
struct PullProgress {
    layers: Vec<Layer>,
}

/// The reply that streams `steps`. A client that leaves ends the stream, not the operation; so does
/// the end of the caller's session.
pub(crate) fn reply<E: Serialize + 'static>(
    state: &SharedState,
    caller: &Caller,
    id: RequestId,
    steps: BoxStream<'static, Step<E>>,
) -> HttpResponse {
    let grace = state.config.shutdown_grace.saturating_sub(FAREWELL);
    reply_within(state, caller, id, steps, grace)
}

/// The same for steps that have no end of their own: they end when shutdown begins.
pub(crate) fn reply_until_shutdown<E: Serialize + 'static>(
    state: &SharedState,
    caller: &Caller,
    id: RequestId,
    steps: BoxStream<'static, Step<E>>,
) -> HttpResponse {
    reply_within(state, caller, id, steps, Duration::ZERO)
}

fn reply_within<E: Serialize + 'static>(
    state: &SharedState,
    caller: &Caller,
    id: RequestId,
    steps: BoxStream<'static, Step<E>>,
    grace: Duration,
) -> HttpResponse {
    let (shutdown, ended) = (state.shutdown.clone(), caller.ended.clone());
    let over = async move {
        let going = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            () = going => going_down(),
            () = ended.cancelled() => session_ended(),
        }
    };
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(frames(id, steps, over, PACE).map(Ok::<_, Infallible>))
}

/// What happens next in a stream.
enum Turn<E> {
    Step(Option<Step<E>>),
    ProgressDue,
    Silence,
    Over(Problem),
}

fn frames<E: Serialize + 'static>(
    id: RequestId,
    mut steps: BoxStream<'static, Step<E>>,
    over: impl Future<Output = Problem> + 'static,
    pace: Pace,
) -> impl Stream<Item = Bytes> {
    async_stream::stream! {
        tokio::pin!(over);
        let mut held: Option<Vec<LayerProgress>> = None;
        let mut progress_at = Instant::now();
        loop {
            let turn = tokio::select! {
                biased;
                // First: steps may come without a pause for ever.
                problem = &mut over => Turn::Over(problem),
                step = steps.next() => Turn::Step(step),
                () = tokio::time::sleep_until(progress_at), if held.is_some() => Turn::ProgressDue,
                () = tokio::time::sleep(pace.silence) => Turn::Silence,
            };
            let now = Instant::now();
            let failure = match turn {
                Turn::Step(Some(Step::Progress(layers))) => {
                    held = Some(layers);
                    if now < progress_at {
                        continue;
                    }
                    None
                }
                Turn::ProgressDue => None,
                Turn::Silence => {
                    yield Bytes::from_static(b": keep-alive\n\n");
                    continue;
                }
                Turn::Step(Some(Step::Event(event))) => {
                    if let Some(layers) = held.take() {
                        yield progress(&layers);
                    }
                    yield frame(&event);
                    continue;
                }
                Turn::Step(Some(Step::Last(event))) => {
                    if let Some(layers) = held.take() {
                        yield progress(&layers);
                    }
                    yield frame(&event);
                    break;
                }
                Turn::Step(Some(Step::EventAt(id, event))) => {
                    yield frame_at(&id, &event);
                    continue;
                }
                Turn::Step(Some(Step::LastAt(id, event))) => {
                    yield frame_at(&id, &event);
                    break;
                }
                Turn::Step(Some(Step::End)) => break,
                Turn::Step(Some(Step::Failed(problem))) => Some(problem),
                Turn::Step(None) => Some(Problem::internal("the events ended without a last one")),
                Turn::Over(problem) => Some(problem),
            };
            if let Some(layers) = held.take() {
                progress_at = now + pace.progress;
                yield progress(&layers);
            }
            if let Some(problem) = failure {
                problem.log();
                yield frame(&StreamError::new(&problem, &id));
                break;
            }
        }
    }
}

fn session_ended() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "session_ended",
        "the account was deactivated, removed or changed; sign in again",
    )
}

fn going_down() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "shutting_down",
        "the server is shutting down; GET on the bot's operations tells how this one ended",
    )
}

fn progress(layers: &[LayerProgress]) -> Bytes {
    frame(&PullProgress {
        layers: layers.iter().map(Layer::from).collect(),
    })
}

/// One event. JSON has no raw line breaks, so that it is one line.
fn frame(event: &impl Serialize) -> Bytes {
    match serde_json::to_string(event) {
        Ok(json) => Bytes::from(format!("data: {json}\n\n")),
        Err(error) => {
            tracing::error!(%error, "an event could not be written as JSON");
            Bytes::new()
        }
    }
}

/// An event with an id, which has no line breaks.
fn frame_at(id: &str, event: &impl Serialize) -> Bytes {
    let mut bytes = format!("id: {id}\n").into_bytes();
    bytes.extend_from_slice(&frame(event));
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[derive(Serialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum Event {
        Creating,
        Complete,
    }

    /// No test should wait for 15 s.
    const QUICK: Pace = Pace {
        progress: Duration::from_millis(50),
        silence: Duration::from_millis(100),
    };

    fn layers(offset: u64) -> Vec<LayerProgress> {
        vec![LayerProgress {
            digest: "sha256:a".to_owned(),
            offset,
            total: 1000,
        }]
    }

    fn id() -> RequestId {
        RequestId("r1".to_owned())
    }

    async fn all(steps: BoxStream<'static, Step<Event>>) -> Vec<String> {
        frames(id(), steps, std::future::pending(), QUICK)
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
            .collect()
            .await
    }

    #[tokio::test]
    async fn progress_is_thinned_out_and_its_last_value_kept() {
        let steps = async_stream::stream! {
            for offset in 0..=500 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                yield Step::Progress(layers(offset));
            }
            yield Step::Event(Event::Creating);
            yield Step::Last(Event::Complete);
        };
        let begun = Instant::now();
        let frames = all(steps.boxed()).await;
        let (progress, rest) = frames.split_at(frames.len() - 2);
        let most = begun.elapsed().as_millis() / QUICK.progress.as_millis() + 2;
        assert!(progress.len() >= 3, "only {} events", progress.len());
        assert!(progress.len() as u128 <= most, "{} events", progress.len());
        assert_eq!(
            progress.last().unwrap(),
            "data: {\"type\":\"pull_progress\",\"layers\":[{\"ref\":\"sha256:a\",\"offset\":500,\"total\":1000}]}\n\n"
        );
        assert_eq!(
            rest,
            [
                "data: {\"type\":\"creating\"}\n\n",
                "data: {\"type\":\"complete\"}\n\n"
            ]
        );
    }

    #[tokio::test]
    async fn held_progress_is_sent_although_nothing_follows() {
        let steps = async_stream::stream! {
            yield Step::Progress(layers(1));
            yield Step::Progress(layers(2));
            tokio::time::sleep(Duration::from_secs(2)).await;
            yield Step::Last(Event::Complete);
        };
        let frames = frames(id(), steps.boxed(), std::future::pending(), QUICK);
        tokio::pin!(frames);
        let begun = Instant::now();
        frames.next().await.unwrap();
        let second = frames.next().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(second.windows(10).any(|part| part == b"\"offset\":2"));
    }

    #[tokio::test]
    async fn silence_is_broken_by_comments() {
        let steps = async_stream::stream! {
            tokio::time::sleep(Duration::from_millis(350)).await;
            yield Step::Last(Event::Complete);
        };
        let frames = all(steps.boxed()).await;
        let (last, comments) = frames.split_last().unwrap();
        assert!(
            (2..=3).contains(&comments.len()),
            "{} comments",
            comments.len()
        );
        assert!(comments.iter().all(|frame| frame == ": keep-alive\n\n"));
        assert!(last.starts_with("data: "));
    }

    #[tokio::test]
    async fn no_layers_yet_is_an_empty_list() {
        let steps = stream::iter([Step::Progress(Vec::new()), Step::Last(Event::Complete)]);
        let frames = all(steps.boxed()).await;
        assert_eq!(
            frames[0],
            "data: {\"type\":\"pull_progress\",\"layers\":[]}\n\n"
        );
    }

    #[tokio::test]
    async fn events_that_end_without_a_last_one_end_with_an_error() {
        let frames = all(stream::iter([Step::Event(Event::Creating)]).boxed()).await;
        assert_eq!(frames.len(), 2);
        assert!(frames[1].starts_with("data: {\"type\":\"error\",\"message\":"));
        assert!(frames[1].contains("\"code\":\"internal\",\"request_id\":\"r1\""));
    }

    #[tokio::test]
    async fn shutdown_ends_a_stream_with_an_error() {
        let steps: BoxStream<'static, Step<Event>> = stream::pending().boxed();
        let frames: Vec<Bytes> = frames(id(), steps, std::future::ready(going_down()), QUICK)
            .collect()
            .await;
        assert_eq!(frames.len(), 1);
        assert!(String::from_utf8_lossy(&frames[0]).contains("\"code\":\"shutting_down\""));
    }
}
