//! containerd's content store: reading documents, writing blobs piece by piece.

use super::retry::Fault;
use super::tree::{MAX_DOCUMENT, Stored};
use crate::client::Client;
use crate::op::{Op, is_disk_full};
use botstead_runtime::{ErrorKind, Result};
use botstead_types::LeaseId;
use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// The most bytes of one message to containerd.
pub(super) const CHUNK: usize = 1 << 20;
/// How many pieces may be under way before their answers are awaited.
const IN_FLIGHT: usize = 2;

/// Reads a whole document of at most [`MAX_DOCUMENT`] bytes; none when it is not there.
pub(super) async fn read(client: &Client, op: &Op, digest: &str) -> Result<Option<Bytes>> {
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        ..ReadContentRequest::default()
    };
    let mut stream = match client.content().read(client.request(request)).await {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => return Err(op.status(status)),
    };
    let mut bytes = BytesMut::new();
    loop {
        match stream.message().await {
            Ok(Some(part)) => {
                bytes.extend_from_slice(&part.data);
                if bytes.len() as u64 > MAX_DOCUMENT {
                    return Err(op.corrupt("a local manifest or configuration is too large"));
                }
            }
            Ok(None) => return Ok(Some(bytes.freeze())),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(op.status(status)),
        }
    }
}

/// Whether content is there. It may be collected right after, unless something keeps it.
pub(super) async fn exists(client: &Client, op: &Op, digest: &str) -> Result<bool> {
    Ok(size(client, op, digest).await?.is_some())
}

/// How many bytes content has; none when it is not there.
async fn size(client: &Client, op: &Op, digest: &str) -> Result<Option<u64>> {
    let request = InfoRequest {
        digest: digest.to_owned(),
    };
    match client.content().info(client.request(request)).await {
        Ok(response) => {
            let info = response.into_inner().info.unwrap_or_default();
            Ok(Some(u64::try_from(info.size).unwrap_or_default()))
        }
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(op.status(status)),
    }
}

/// Stores the bytes of a document with labels; where it is there already it gets the labels too.
pub(super) async fn store(
    client: &Client,
    op: &Op,
    lease: &LeaseId,
    document: &Stored,
    bytes: Bytes,
    labels: HashMap<String, String>,
) -> Result<()> {
    let size = bytes.len() as u64;
    let reference = format!("botstead-{}", document.digest);
    match Ingest::open(client, op, lease, reference, &document.digest, size).await {
        Ok(Some(mut ingest)) => {
            ingest.restart();
            ingest.write(bytes.into()).await?;
            if ingest.commit(labels.clone()).await? == Committed::Now {
                return Ok(());
            }
        }
        Ok(None) => {}
        Err(fault) => return Err(fault.error),
    }
    label(client, op, &document.digest, labels).await
}

async fn label(
    client: &Client,
    op: &Op,
    digest: &str,
    labels: HashMap<String, String>,
) -> Result<()> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = UpdateRequest {
        info: Some(Info {
            digest: digest.to_owned(),
            labels,
            ..Info::default()
        }),
        update_mask: Some(FieldMask { paths }),
    };
    client
        .content()
        .update(client.request(request))
        .await
        .map_err(|status| op.status(status))?;
    Ok(())
}

/// How content came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// This writer committed it.
    Now,
    /// Another one was faster.
    Before,
}

/// A blob that is being written. Dropping it leaves what was written, so that the next writer of
/// the same reference can go on there, until the lease ends.
pub(super) struct Ingest<'a> {
    client: &'a Client,
    op: &'a Op,
    reference: String,
    digest: String,
    total: u64,
    offset: u64,
    in_flight: usize,
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
}

impl<'a> Ingest<'a> {
    /// Starts writing, or goes on where an earlier writer of this reference stopped. None when the content
    /// is there, which the lease then keeps: containerd adds it to the lease when it says so. It is
    /// `Corrupt` when that has another size than `total`, by which the limits were checked.
    ///
    /// A failure is transient when another one writes by the same reference at this time.
    pub(super) async fn open(
        client: &'a Client,
        op: &'a Op,
        lease: &LeaseId,
        reference: String,
        digest: &str,
        total: u64,
    ) -> Result<Option<Self>, Fault> {
        let (requests, receiver) = mpsc::channel(IN_FLIGHT);
        let stat = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.clone(),
            total: signed(total),
            expected: digest.to_owned(),
            ..WriteContentRequest::default()
        };
        let gone = || op.fail(ErrorKind::Internal, "the writer ended before it began");
        requests.send(stat).await.map_err(|_| gone())?;
        let request = client.leased(op, lease, client.request(ReceiverStream::new(receiver)))?;
        // The status arrives with the headers or with the first message, whichever containerd has.
        let opened = async {
            let mut responses = client.content().write(request).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        };
        let (responses, first) = match opened.await {
            Ok(opened) => opened,
            Err(status) if status.code() == Code::AlreadyExists => {
                return match size(client, op, digest).await? {
                    Some(size) if size != total => Err(op
                        .corrupt(format!(
                            "{digest} has {size} bytes where its manifest says {total}"
                        ))
                        .into()),
                    _ => Ok(None),
                };
            }
            Err(status) => {
                let locked = status.code() == Code::Unavailable;
                let error = op.status(status);
                return Err(if locked {
                    Fault::transient(error)
                } else {
                    error.into()
                });
            }
        };
        let offset = first.ok_or_else(gone)?.offset;
        Ok(Some(Self {
            client,
            op,
            reference,
            digest: digest.to_owned(),
            total,
            offset: u64::try_from(offset).unwrap_or_default().min(total),
            in_flight: 0,
            requests,
            responses,
        }))
    }

    /// How much is written, what is under way included.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets what an earlier writer left: the next write starts at the beginning.
    pub(super) fn restart(&mut self) {
        self.offset = 0;
    }

    /// Writes the next piece, at most [`CHUNK`] bytes at a time.
    pub(super) async fn write(&mut self, data: Vec<u8>) -> Result<()> {
        if data.len() <= CHUNK {
            return self.write_piece(data).await;
        }
        for piece in data.chunks(CHUNK) {
            self.write_piece(piece.to_vec()).await?;
        }
        Ok(())
    }

    async fn write_piece(&mut self, data: Vec<u8>) -> Result<()> {
        let size = data.len() as u64;
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: self.reference.clone(),
            total: signed(self.total),
            expected: self.digest.clone(),
            offset: signed(self.offset),
            data,
            labels: HashMap::new(),
        };
        self.send(request).await?;
        self.offset += size;
        while self.in_flight > IN_FLIGHT {
            self.answer()
                .await
                .map_err(|status| self.op.status(status))?;
        }
        Ok(())
    }

    /// Ends the writing; containerd compares size and digest with what was promised.
    pub(super) async fn commit(mut self, labels: HashMap<String, String>) -> Result<Committed> {
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            total: signed(self.total),
            expected: self.digest.clone(),
            offset: signed(self.offset),
            data: Vec::new(),
            labels,
        };
        let sent = self.send(request).await;
        loop {
            match self.answer().await {
                Ok(answer) if answer.action == i32::from(WriteAction::Commit) => {
                    return Ok(Committed::Now);
                }
                Ok(_) => {}
                Err(status) if status.code() == Code::AlreadyExists => {
                    return Ok(Committed::Before);
                }
                Err(status) if is_disk_full(&status) => return Err(self.op.status(status)),
                // Nothing but size and digest is compared here.
                Err(status) if status.code() == Code::FailedPrecondition => {
                    let op = self.op;
                    let reason = format!("what was received is not {}", self.digest);
                    self.abort().await;
                    return Err(op.fail_with(ErrorKind::Corrupt, reason, status));
                }
                Err(status) => {
                    sent?;
                    return Err(self.op.status(status));
                }
            }
        }
    }

    /// Throws away what was written: it is wrong.
    pub(super) async fn abort(self) {
        let Self {
            client,
            op,
            reference,
            requests,
            responses,
            ..
        } = self;
        // containerd holds the reference until the stream ends.
        drop((requests, responses));
        let request = AbortRequest { r#ref: reference };
        if let Err(status) = client.content().abort(client.request(request)).await {
            // The lease's end removes it all the same.
            tracing::debug!(?op, %status, "a broken download was not removed");
        }
    }

    async fn send(&mut self, request: WriteContentRequest) -> Result<()> {
        if self.requests.send(request).await.is_ok() {
            self.in_flight += 1;
            return Ok(());
        }
        // The stream ended early: the answers say why.
        loop {
            self.answer()
                .await
                .map_err(|status| self.op.status(status))?;
        }
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.responses
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("the content service ended the write"))
    }
}

/// Sizes were checked to fit when they were read.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
