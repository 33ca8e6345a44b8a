//! Downloading one layer into the content store.

use super::ContainerdImages;
use super::content::{CHUNK, Committed, Ingest};
use super::locks::Turn;
use super::mirrors::Sources;
use super::progress::Progress;
use super::registry::Repository;
use super::retry::Fault;
use super::tree::Layer;
use crate::op::Op;
use botstead_runtime::{ErrorKind, Result};
use botstead_types::LeaseId;
use std::collections::HashMap;

/// An attempt that got on by this much starts the counting of attempts again.
const WORTH_MORE_ATTEMPTS: u64 = 1 << 20;
/// How much is collected before it is handed to containerd.
const PIECE: usize = 512 << 10;

/// What a download needs to know.
pub(super) struct Download<'a> {
    pub(super) op: &'a Op,
    pub(super) lease: &'a LeaseId,
    pub(super) sources: &'a Sources<'a>,
    pub(super) progress: Progress<'a>,
}

impl ContainerdImages {
    /// Makes sure that a layer is in the content store and kept by the lease. Waits while another one
    /// gets it from the same registry and gets on; another registry's slowness holds nobody up, nor does
    /// what it sent instead. Where a mirror fails, the next one is asked.
    pub(super) async fn download(
        &self,
        download: &Download<'_>,
        number: usize,
        layer: &Layer,
    ) -> Result<()> {
        loop {
            let (source, repository) = download.sources.current();
            match self
                .download_from(repository, download, number, layer)
                .await
            {
                Err(error) if download.sources.go_on(source, &error) => {}
                done => return done,
            }
        }
    }

    async fn download_from(
        &self,
        repository: &Repository<'_>,
        download: &Download<'_>,
        number: usize,
        layer: &Layer,
    ) -> Result<()> {
        let from = format!("{} {}", repository.registry(), layer.digest);
        let turn = self.locks.turn(&from, self.config.read_timeout).await;
        let mut attempts = repository.attempts();
        let mut best = 0;
        loop {
            let mut reached = 0;
            match self
                .attempt(repository, download, &turn, number, layer, &mut reached)
                .await
            {
                Ok(()) => {
                    download.progress.at(number, layer.size);
                    return Ok(());
                }
                Err(fault) => {
                    if reached >= best + WORTH_MORE_ATTEMPTS {
                        best = reached;
                        attempts.progressed();
                    }
                    attempts.next(download.op, fault).await?;
                }
            }
        }
    }

    async fn attempt(
        &self,
        repository: &Repository<'_>,
        download: &Download<'_>,
        turn: &Turn,
        number: usize,
        layer: &Layer,
        reached: &mut u64,
    ) -> Result<(), Fault> {
        let Download {
            op,
            lease,
            progress,
            ..
        } = download;
        let (digest, size) = (&layer.digest, layer.size);
        let reference = turn.reference();
        let Some(mut ingest) =
            Ingest::open(&self.client, op, lease, reference, digest, size).await?
        else {
            return Ok(());
        };
        let left_before = ingest.offset();
        if left_before < layer.size {
            let (mut body, start) = repository
                .blob(&layer.digest, left_before, layer.size)
                .await?;
            if start < left_before {
                ingest.restart();
            }
            progress.at(number, ingest.offset());
            let mut piece = Vec::with_capacity(PIECE);
            loop {
                let chunk = match repository.chunk(&mut body).await {
                    Ok(chunk) => chunk,
                    Err(fault) => {
                        // What arrived is kept: the next attempt goes on behind it.
                        ingest.write(piece).await?;
                        *reached = ingest.offset();
                        return Err(fault);
                    }
                };
                let Some(chunk) = chunk else { break };
                turn.got(chunk.len() as u64);
                let received = ingest.offset() + (piece.len() + chunk.len()) as u64;
                if received > layer.size {
                    ingest.abort().await;
                    let reason = format!(
                        "the layer {} is longer than its manifest says",
                        layer.digest
                    );
                    return Err(op.corrupt(reason).into());
                }
                if piece.len() + chunk.len() > CHUNK {
                    ingest.write(std::mem::take(&mut piece)).await?;
                }
                piece.extend_from_slice(&chunk);
                if piece.len() >= PIECE {
                    let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
                    ingest.write(full).await?;
                    progress.at(number, ingest.offset());
                    *reached = ingest.offset();
                }
            }
            if !piece.is_empty() {
                ingest.write(piece).await?;
            }
            if ingest.offset() < layer.size {
                let reason = format!(
                    "the layer {} is shorter than its manifest says",
                    layer.digest
                );
                ingest.abort().await;
                return Err(op.corrupt(reason).into());
            }
        }
        turn.is_here();
        match ingest.commit(HashMap::new()).await {
            Ok(Committed::Now | Committed::Before) => Ok(()),
            // What an earlier download left can be what is wrong; it is gone now.
            Err(error) if error.kind() == ErrorKind::Corrupt && left_before > 0 => {
                Err(Fault::transient(error))
            }
            Err(error) => Err(error.into()),
        }
    }
}
