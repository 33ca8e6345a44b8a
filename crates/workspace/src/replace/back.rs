//! What becomes of a replacement that fails, or that a dead server left: where it stands, and whether it goes
//! forward or back to the state before.

use super::{Edit, How, LEAVING, REVERTED, REVERTING, Replacement, Way};
use crate::operations::{RECORDED, advanced, input};
use crate::service::Inner;
use crate::standing::{Standing, is_final, is_unstartable};
use crate::starts::Cause;
use crate::{Error, Result};
use botstead_store::{ContainerRecord, Operation, OperationState};
use botstead_types::SnapshotKey;
use std::sync::Arc;

impl Inner {
    /// After a failure: back to the state before, as it was or from the version that keeps it.
    pub(super) async fn settle_replacement(
        self: &Arc<Self>,
        operation: &Operation,
        record: &ContainerRecord,
        what: &Replacement,
        error: &Error,
    ) -> OperationState {
        if let Some(ended) = self.put_back(operation, record, error).await {
            return ended;
        }
        let back = async {
            let is_recorded = self.is_recorded_new(operation).await?;
            // Nobody has used the new state: this is the first that was tried with it.
            let is_refused = is_recorded && is_unstartable(error) && self.is_new(operation).await?;
            let stays = if is_recorded {
                !is_refused
            } else {
                what.goes_forward() && !is_final(error)
            };
            if stays {
                return Ok(false);
            }
            self.go_back(operation, what, is_recorded, error).await?;
            Ok(true)
        };
        match back.await {
            Ok(true) => OperationState::Failed,
            Ok(false) => {
                self.keep_for_retry(operation, error);
                OperationState::Running
            }
            Err(revert) => {
                self.keep_for_retry(operation, &revert);
                OperationState::Running
            }
        }
    }

    /// Whether what the replacement gives the workspace is recorded as what it has.
    async fn is_recorded_new(&self, operation: &Operation) -> Result<bool> {
        let fresh = SnapshotKey::active(operation.id);
        self.row_names(operation.bot, &fresh).await
    }

    /// Whether that is what its container names.
    async fn is_new(&self, operation: &Operation) -> Result<bool> {
        let fresh = SnapshotKey::active(operation.id);
        let container = self.container(operation.bot).await?;
        Ok(container.is_some_and(|found| found.snapshot == fresh.as_str()))
    }

    /// Ends a replacement on the state before, which is a version already: the workspace goes on from it.
    async fn go_back(
        self: &Arc<Self>,
        operation: &Operation,
        what: &Replacement,
        is_recorded: bool,
        error: &Error,
    ) -> Result<()> {
        if is_recorded {
            self.advance(operation, LEAVING).await?;
        } else {
            self.decide_to_revert(operation).await?;
        }
        let (back, how) = (what.reverted(), How::Back(error));
        let to = SnapshotKey::reverted(operation.id);
        let replaced = self
            .replace_steps(operation, &back, Edit::Nothing, how, &to, Cause::Asked)
            .await?;
        self.drop_lease(operation.id);
        self.after_version(operation.bot, replaced.kept);
        Ok(())
    }

    /// Writes down that a replacement goes back whose new state is not recorded. What it would have
    /// switched to goes first. The state before gets another name: by what the container names, a replay
    /// with any database tells the two apart.
    async fn decide_to_revert(&self, operation: &Operation) -> Result<()> {
        self.discard(&SnapshotKey::active(operation.id)).await?;
        self.advance(operation, REVERTING).await
    }

    pub(super) async fn advance(&self, operation: &Operation, step: &str) -> Result<()> {
        let advanced = vec![advanced(operation.id, step)];
        Ok(self.store.transactions.apply(advanced).await?)
    }

    /// Ends a replacement that a dead server or a failure left.
    pub(crate) async fn replay_replacement(
        self: &Arc<Self>,
        operation: &Operation,
        cause: Cause,
    ) -> Result<()> {
        let why = Error::Interrupted;
        let Some((what, how, to)) = self.way(operation, &why).await? else {
            return Ok(());
        };
        let done = self
            .replace_steps(operation, &what, Edit::Nothing, how, &to, cause)
            .await;
        match done {
            Err(error)
                if matches!(how, How::Forward | How::Record)
                    && is_final(&error)
                    && self.is_recorded_new(operation).await? =>
            {
                // It happened, and may have been used since: it is started as any other, and what it brought
                // back is kept beside it.
                tracing::warn!(operation = %operation.id, bot = %operation.bot, error = %error.chain(),
                    "the state that an operation led to does not start");
                self.finish_succeeded(operation).await?;
            }
            done => drop(done?),
        }
        self.drop_lease(operation.id);
        Ok(())
    }

    /// How a replacement goes on that a dead server or a failure left; `None` when it is ended.
    async fn way<'a>(
        self: &Arc<Self>,
        operation: &Operation,
        why: &'a Error,
    ) -> Result<Option<Way<'a>>> {
        let (id, bot) = (operation.id, operation.bot);
        let what: Replacement = input(operation)?;
        let fresh = SnapshotKey::active(id);
        let way = match operation.step.as_str() {
            step @ (RECORDED | REVERTED) => {
                let row = self.record(bot).await?.map(|row| row.snapshot);
                let to = match row {
                    // Earlier releases went back under the name of the new state.
                    Some(row) if row == fresh => fresh,
                    Some(row) if step == REVERTED && row == SnapshotKey::reverted(id) => row,
                    // The row comes with this step, and goes with a deletion only.
                    Some(_) | None => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                };
                match step {
                    RECORDED => (what, How::Forward, to),
                    _ => (what.reverted(), How::Back(why), to),
                }
            }
            REVERTING => {
                // The new state is gone before this step: under its name an earlier release went back.
                let container = self.container(bot).await?;
                let earlier = container.is_some_and(|found| found.snapshot == fresh.as_str());
                let to = if earlier {
                    fresh
                } else {
                    SnapshotKey::reverted(id)
                };
                match self.standing(operation, what.active.as_ref(), &to).await? {
                    Standing::MovedOn => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                    Standing::Switched => (what.reverted(), How::RecordBack(why), to),
                    Standing::Untouched | Standing::Between => {
                        let to = SnapshotKey::reverted(id);
                        (what.reverted(), How::Back(why), to)
                    }
                }
            }
            LEAVING => {
                let to = SnapshotKey::reverted(id);
                match self.standing(operation, Some(&fresh), &to).await? {
                    Standing::MovedOn => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                    Standing::Switched => (what.reverted(), How::RecordBack(why), to),
                    Standing::Between => (what.reverted(), How::Back(why), to),
                    Standing::Untouched => {
                        // The new state is recorded, and may have been used since.
                        self.remove_unnamed(&to).await?;
                        self.finish_interrupted(operation).await?;
                        self.drop_lease(id);
                        return Ok(None);
                    }
                }
            }
            _ => {
                let active = what.active.as_ref();
                match self.standing(operation, active, &fresh).await? {
                    Standing::MovedOn => {
                        self.end_superseded(operation).await?;
                        return Ok(None);
                    }
                    Standing::Switched => (what, How::Record, fresh),
                    // What is kept first cannot be lost by going on; what is only believed to equal its
                    // head may have changed since.
                    Standing::Untouched if what.goes_forward() && what.keep.is_some() => {
                        (what, How::Forward, fresh)
                    }
                    Standing::Untouched => {
                        // It may even run on; if it should and does not, it is started as any other.
                        let record = self.required_record(bot).await?;
                        self.discard_fresh(operation, &record).await;
                        self.finish_interrupted(operation).await?;
                        return Ok(None);
                    }
                    Standing::Between if what.goes_forward() => (what, How::Forward, fresh),
                    // What was to be put in may be gone, and nobody waits for it any more.
                    Standing::Between => {
                        self.decide_to_revert(operation).await?;
                        (what.reverted(), How::Back(why), SnapshotKey::reverted(id))
                    }
                }
            }
        };
        Ok(Some(way))
    }
}
