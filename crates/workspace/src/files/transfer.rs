//! Content of files on its way in and out.

use super::model::{FileContent, FileEntry, FilePart, ReadFile, WriteFile, at};
use crate::agent::failed;
use crate::service::Workspaces;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_bridge::{CHUNK_BYTES, proto};
use botstead_types::{BotId, FilePath};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

/// Messages under way to the agent beside what its stream's window holds.
const QUEUE: usize = 4;

impl Workspaces {
    /// Reads a regular file, or a part of it.
    ///
    /// # Errors
    /// `not_a_regular_file`, `stale_revision`, `file_too_large`.
    pub async fn read_file(
        &self,
        actor: &Actor,
        bot: BotId,
        path: &FilePath,
        read: ReadFile,
    ) -> Result<FileContent> {
        use proto::read_request::{Lines, Part, Range};
        let client = self.agent_for(actor, Action::ReadWorkspace, bot).await?;
        let part = match read.part {
            FilePart::Whole => None,
            FilePart::Range { offset, length } => Some(Part::Range(Range {
                offset,
                length: length.unwrap_or(0),
            })),
            FilePart::Lines { first, count } => Some(Part::Lines(Lines {
                first,
                count: count.unwrap_or(0),
            })),
        };
        let request = Request::new(proto::ReadRequest {
            at: at(path),
            expected_revision: read.expected_revision.unwrap_or_default(),
            limit: read.limit.unwrap_or(0),
            part,
        });
        let replies = client.files().read(request).await.map_err(failed)?;
        let mut replies = replies.into_inner();
        let head = match replies
            .message()
            .await
            .map_err(failed)?
            .and_then(|m| m.part)
        {
            Some(proto::read_reply::Part::Head(head)) => head,
            _ => return Err(Error::Unreachable(None)),
        };
        let entry = head.entry.map(FileEntry::from);
        Ok(FileContent {
            entry: entry.ok_or(Error::Unreachable(None))?,
            offset: head.offset,
            length: head.length,
            data: data(replies, |reply| match reply.part {
                Some(proto::read_reply::Part::Data(data)) => Some(data),
                _ => None,
            }),
        })
    }

    /// A directory or file as a tar stream: symlinks as links, sockets, devices and pipes left out.
    ///
    /// # Errors
    /// `path_not_found`.
    pub async fn archive_files(
        &self,
        actor: &Actor,
        bot: BotId,
        path: &FilePath,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let client = self.agent_for(actor, Action::ReadWorkspace, bot).await?;
        let request = Request::new(proto::ArchiveRequest { at: at(path) });
        let replies = client.files().archive(request).await.map_err(failed)?;
        // The last message counts what was left out, and has no data.
        Ok(data(replies.into_inner(), |reply| {
            reply.done.is_none().then_some(reply.data)
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
        actor: &Actor,
        bot: BotId,
        path: &FilePath,
        write: WriteFile,
        content: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<(FileEntry, bool)> {
        use proto::write_request::{Head, Part};
        let client = self.agent_for(actor, Action::WriteWorkspace, bot).await?;
        self.inner.refuse_when_closing()?;
        let head = Head {
            at: at(path),
            mode: write.mode,
            parents: write.parents,
            expected_revision: write.expected_revision.unwrap_or_default(),
            create_new: write.create_new,
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let feed = async move {
            let message = |part| proto::WriteRequest { part: Some(part) };
            // The agent that takes no more has refused, and says so in its answer.
            if sender.send(message(Part::Head(head))).await.is_err() {
                return Ok(());
            }
            let mut size = 0;
            let mut content = std::pin::pin!(content);
            while let Some(data) = content.next().await.transpose()? {
                size += data.len() as u64;
                for chunk in chunks(data) {
                    if sender.send(message(Part::Data(chunk))).await.is_err() {
                        return Ok(());
                    }
                }
            }
            let end = proto::write_request::End { size };
            let _ = sender.send(message(Part::End(end))).await;
            Ok::<_, E>(())
        };
        let mut files = client.files();
        let written = files.write(Request::new(ReceiverStream::new(receiver)));
        // The feed ends first, or the agent refuses before everything was sent.
        let (fed, written) = tokio::join!(feed, written);
        if let Err(error) = fed {
            return Err(Error::Interrupt(Box::new(error)));
        }
        let reply = written.map_err(failed)?.into_inner();
        let entry = reply.entry.ok_or(Error::Unreachable(None))?;
        Ok((entry.into(), reply.created))
    }
}

/// The data in pieces that fit into a message.
pub(crate) fn chunks(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let length = data.len().min(CHUNK_BYTES);
        (length > 0).then(|| data.split_to(length))
    })
}

fn data<T: Send + 'static>(
    replies: tonic::Streaming<T>,
    data: fn(T) -> Option<Bytes>,
) -> BoxStream<'static, Result<Bytes>> {
    replies
        .filter_map(move |reply: Result<T, Status>| async move {
            match reply {
                Ok(reply) => data(reply).map(Ok),
                Err(status) => Some(Err(failed(status))),
            }
        })
        .boxed()
}
