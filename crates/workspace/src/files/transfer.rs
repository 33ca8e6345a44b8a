//! Content of files on its way in and out.

use super::actor::FileActor;
use super::model::{FileContent, FileEntry, FilePart, ReadFile, WriteFile, at};
use crate::agent::{AgentCall, answered, failed, in_time};
use crate::service::Workspaces;
use crate::shares::Share;
use crate::{Error, Result};
use botstead_authz::Action;
use botstead_bridge::{CHUNK_BYTES, proto};
use botstead_types::{BotId, FilePath};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Response;

/// Messages under way to the agent beside what its stream's window holds.
const QUEUE: usize = 4;

impl Workspaces {
    /// Reads a regular file, or a part of it.
    ///
    /// # Errors
    /// `not_a_regular_file`, `stale_revision`, `file_too_large`.
    pub async fn read_file(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        read: ReadFile,
    ) -> Result<FileContent> {
        use proto::read_request::{Lines, Part, Range};
        let AgentCall { client, place } =
            self.stream_for(actor, Action::ReadWorkspace, bot).await?;
        let part = match read.part {
            FilePart::Whole => None,
            FilePart::Range { offset, length } => Some(Part::Range(Range {
                offset,
                length: length.unwrap_or(0),
            })),
            FilePart::Last(length) => Some(Part::Last(length)),
            FilePart::Lines { first, count } => Some(Part::Lines(Lines {
                first,
                count: count.unwrap_or(0),
            })),
        };
        let request = actor.request(proto::ReadRequest {
            at: at(path),
            expected_revision: read.expected_revision.unwrap_or_default(),
            limit: read.limit.unwrap_or(0),
            part,
        });
        let mut files = client.files();
        // Both are one answer, of which the head is the first that says anything.
        let (head, replies) = answered(async move {
            let mut replies = files.read(request).await?.into_inner();
            let head = replies.message().await?;
            Ok(Response::new((head, replies)))
        })
        .await?;
        let Some(proto::read_reply::Part::Head(head)) = head.and_then(|reply| reply.part) else {
            return Err(Error::Unreachable(None));
        };
        let entry = head.entry.map(FileEntry::from);
        Ok(FileContent {
            entry: entry.ok_or(Error::Unreachable(None))?,
            offset: head.offset,
            length: head.length,
            data: self.data(replies, place, |reply| match reply.part {
                Some(proto::read_reply::Part::Data(data)) => Ok(Some(data)),
                _ => Ok(None),
            }),
        })
    }

    /// A directory or file as a tar stream: symlinks as links; sockets, devices, pipes and what vanishes
    /// meanwhile left out.
    ///
    /// # Errors
    /// `path_not_found`. The stream ends with `FilesCut` when a file became shorter meanwhile, which the
    /// archive has with zeros at its end.
    pub async fn archive_files(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let AgentCall { client, place } =
            self.stream_for(actor, Action::ReadWorkspace, bot).await?;
        let request = actor.request(proto::ArchiveRequest { at: at(path) });
        let replies = answered(client.files().archive(request)).await?;
        // The last message counts what was left out, and has no data.
        Ok(self.data(replies, place, |reply| match reply.done {
            Some(done) if done.cut > 0 => Err(Error::FilesCut(done.cut)),
            Some(_) => Ok(None),
            None => Ok(Some(reply.data)),
        }))
    }

    /// Writes a regular file as a whole and atomically: it is what it was until all data came. An
    /// error of `content`, and a caller who leaves before its end, change nothing. Tells the file and
    /// whether it is new.
    ///
    /// # Errors
    /// `stale_revision`, `path_exists`, `is_a_directory`, `insufficient_storage`; `Interrupt` with an
    /// error of `content`.
    pub async fn write_file<E: std::error::Error + Send + Sync + 'static>(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        write: WriteFile,
        content: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<(FileEntry, bool)> {
        use proto::write_request::{Head, Part};
        let call = self.stream_for(actor, Action::WriteWorkspace, bot).await?;
        self.inner.refuse_when_closing()?;
        let patience = self.inner.config.agent_patience;
        let head = Head {
            at: at(path),
            mode: write.mode,
            parents: write.parents,
            expected_revision: write.expected_revision.unwrap_or_default(),
            create_new: write.create_new,
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let way = Way { sender, patience };
        let feed = async move {
            let mut size = 0;
            let mut content = std::pin::pin!(content);
            let mut taken = way.pass(Part::Head(head)).await?;
            while taken && let Some(data) = content.next().await {
                let data = data.map_err(|error| Error::Interrupt(Box::new(error)))?;
                size += data.len() as u64;
                for chunk in chunks(data) {
                    taken = taken && way.pass(Part::Data(chunk)).await?;
                }
            }
            if taken {
                let end = proto::write_request::End { size };
                way.pass(Part::End(end)).await?;
            }
            Ok::<(), Error>(())
        };
        let mut files = call.client.files();
        let request = actor.request(ReceiverStream::new(receiver));
        let mut written = std::pin::pin!(files.write(request));
        let reply = tokio::select! {
            // An agent that refuses answers before everything was sent.
            written = &mut written => written.map_err(failed)?.into_inner(),
            fed = feed => {
                // What did not come whole is not written: the call ends here.
                fed?;
                in_time(patience, written).await?
            }
        };
        let entry = reply.entry.ok_or(Error::Unreachable(None))?;
        Ok((entry.into(), reply.created))
    }

    /// What comes of a file or an archive. It ends when the agent has nothing for too long while somebody
    /// waits for it.
    fn data<T: Send + 'static>(
        &self,
        mut replies: tonic::Streaming<T>,
        place: Share<BotId>,
        data: fn(T) -> Result<Option<Bytes>>,
    ) -> BoxStream<'static, Result<Bytes>> {
        let patience = self.inner.config.agent_patience;
        async_stream::stream! {
            let _place = place;
            loop {
                let next = tokio::time::timeout(patience, next(&mut replies, data)).await;
                match next.unwrap_or(Err(Error::Stalled(patience))) {
                    Ok(Some(data)) => yield Ok(data),
                    Ok(None) => break,
                    Err(error) => {
                        yield Err(error);
                        break;
                    }
                }
            }
        }
        .boxed()
    }
}

/// The next piece that has anything in it; `None` at the end.
async fn next<T>(
    replies: &mut tonic::Streaming<T>,
    data: fn(T) -> Result<Option<Bytes>>,
) -> Result<Option<Bytes>> {
    while let Some(reply) = replies.message().await.map_err(failed)? {
        let data = data(reply)?.filter(|data| !data.is_empty());
        if data.is_some() {
            return Ok(data);
        }
    }
    Ok(None)
}

/// The way of a file's content to the agent.
struct Way {
    sender: mpsc::Sender<proto::WriteRequest>,
    patience: Duration,
}

impl Way {
    /// Passes one part on; false when the agent takes no more, because it has refused: its answer says
    /// why.
    async fn pass(&self, part: proto::write_request::Part) -> Result<bool> {
        let message = proto::WriteRequest { part: Some(part) };
        match tokio::time::timeout(self.patience, self.sender.send(message)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(Error::Stalled(self.patience)),
        }
    }
}

/// The data in pieces that fit into a message.
pub(crate) fn chunks(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let length = data.len().min(CHUNK_BYTES);
        (length > 0).then(|| data.split_to(length))
    })
}
