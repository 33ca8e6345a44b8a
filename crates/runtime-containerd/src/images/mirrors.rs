//! Mirrors: registries that are asked before the one that an image names.
//!
//! A mirror is asked as any registry is, under its own name: what may be reached, over TLS or not, with
//! which sign-in is what is configured for the mirror, never what is for the registry behind it.

use super::ContainerdImages;
use super::registries::Known;
use super::registry::Repository;
use crate::op::Op;
use botstead_runtime::{Error, ErrorKind, Result};
use botstead_types::ImageRef;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where an image is asked for: at its mirrors in order, then at its registry. One that failed, or does
/// not have something, is not asked again in the same pull.
pub(super) struct Sources<'a> {
    op: &'a Op,
    all: Vec<Repository<'a>>,
    /// How many of them are given up.
    given_up: AtomicUsize,
}

impl Sources<'_> {
    /// Which one is asked now.
    pub(super) fn current(&self) -> (usize, &Repository<'_>) {
        // Never the last, so one is left.
        let number = self.given_up.load(Ordering::Relaxed);
        (number, &self.all[number])
    }

    /// Whether another one is to be asked, after this one failed.
    pub(super) fn go_on(&self, number: usize, error: &Error) -> bool {
        let ours = matches!(
            error.kind(),
            ErrorKind::ResourceExhausted | ErrorKind::Cancelled
        );
        if ours || number + 1 >= self.all.len() {
            return false;
        }
        if self.given_up.fetch_max(number + 1, Ordering::Relaxed) <= number {
            let (op, mirror) = (self.op, self.all[number].registry());
            tracing::warn!(
                ?op,
                mirror,
                error = error.chain(),
                "a mirror is not asked any more for this image; the next one is"
            );
        }
        true
    }
}

impl ContainerdImages {
    /// Where an image is asked for.
    pub(super) async fn sources<'a>(
        &'a self,
        op: &'a Op,
        known: &'a Known,
        image: &ImageRef,
    ) -> Result<Sources<'a>> {
        let mirrors = known.mirrors(&self.config, image).iter();
        // Once, so that one pull goes by one state of the file.
        let sign_ins = self.sign_ins.all().await;
        let mut all = Vec::new();
        // A name that becomes too long there is not there.
        let mirrored = mirrors.filter_map(|mirror| mirror.image(image));
        for (place, mirror) in mirrored
            .map(|image| (image, true))
            .chain([(image.clone(), false)])
        {
            let credentials = known.sign_in(&sign_ins, &place);
            let mut repository =
                Repository::new(op, &self.config, &known.http, place, credentials)?;
            if mirror {
                repository = repository.into_mirror();
            }
            all.push(repository);
        }
        Ok(Sources {
            op,
            all,
            given_up: AtomicUsize::new(0),
        })
    }
}
