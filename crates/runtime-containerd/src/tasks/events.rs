//! What happens to tasks, as containerd publishes it.

use crate::client::{Client, error, time};
use botstead_runtime::{ExitStatus, Result, TaskEvent};
use containerd_client::events::{TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::types::Envelope;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Subscribes at once, in a task of its own: containerd answers a subscription with the first event
/// only, and a stream that nobody polls yet would miss what happens before.
pub(super) fn subscribe(client: Client) -> BoxStream<'static, Result<TaskEvent>> {
    let (sender, receiver) = mpsc::channel(1024);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = closed.closed() => {}
            ended = follow(&client, &sender) => if let Err(status) = ended {
                let _ = sender.send(Err(error("follow", "task events", status))).await;
            },
        }
    });
    ReceiverStream::new(receiver).boxed()
}

async fn follow(
    client: &Client,
    sender: &mpsc::Sender<Result<TaskEvent>>,
) -> Result<(), tonic::Status> {
    let namespace = client.namespace();
    let topics = ["start", "exit", "oom"];
    let request = SubscribeRequest {
        filters: topics
            .map(|topic| format!("namespace=={namespace:?},topic==\"/tasks/{topic}\""))
            .to_vec(),
    };
    let mut events = client.events().subscribe(client.request(request)).await?;
    while let Some(envelope) = events.get_mut().message().await? {
        if let Some(event) = event(&envelope)
            && sender.send(Ok(event)).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

/// The event, where it is one of a task and not of a command in it.
fn event(envelope: &Envelope) -> Option<TaskEvent> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/start" => {
            let start = TaskStart::decode(bytes).ok()?;
            Some(TaskEvent::Started(start.container_id.parse().ok()?))
        }
        "/tasks/exit" => {
            let exit = TaskExit::decode(bytes).ok()?;
            if exit.id != exit.container_id {
                return None;
            }
            let status = ExitStatus {
                code: exit.exit_status,
                exited_at: time(exit.exited_at),
            };
            Some(TaskEvent::Exited(exit.container_id.parse().ok()?, status))
        }
        "/tasks/oom" => {
            let oom = TaskOom::decode(bytes).ok()?;
            Some(TaskEvent::OutOfMemory(oom.container_id.parse().ok()?))
        }
        _ => None,
    }
}
