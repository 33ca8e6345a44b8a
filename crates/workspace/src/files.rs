//! Files of a running workspace, by its agent.
//!
//! These calls do not hold the bot: they go on beside each other and beside operations. A workspace
//! that is just starting is waited for shortly. Streams have flow control from the disk inside to the
//! caller, so that their memory does not grow with the file.

mod actor;
mod model;
mod transfer;

pub use actor::FileActor;

pub use model::{
    ChangeFile, FileChange, FileContent, FileEntry, FileKind, FileList, FilePart, ListFiles,
    ReadFile, SearchEvent, SearchFiles, SearchLine, SkipReason, SkippedFile, WatchEvent, WriteFile,
};

use crate::agent::{AgentCall, DEADLINE, answered, failed, in_time};
use crate::service::Workspaces;
use crate::shares::Share;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_bridge::proto;
use botstead_types::{BotId, FilePath, InvalidValue};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
pub(crate) use transfer::chunks;

use model::at;
use std::time::Duration;
use tonic::Status;

impl Workspaces {
    /// Refuses what an upload of so many bytes would refuse, before they are received: whoever may not
    /// write, a bot without workspace, one that does not run, a disk without room.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`, `InsufficientStorage`.
    pub async fn before_upload(&self, actor: &Actor, bot: BotId, bytes: u64) -> Result<()> {
        self.before_write(actor, bot).await?;
        self.require_space(bytes)
    }

    /// The same for a file that is small enough to be written as a whole.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`.
    pub async fn before_write(&self, actor: &Actor, bot: BotId) -> Result<()> {
        let inner = &self.inner;
        inner.authorized(actor, Action::WriteWorkspace, bot).await?;
        inner.agent_of(&inner.required_record(bot).await?)?;
        inner.refuse_when_closing()
    }

    async fn allow(&self, actor: FileActor<'_>, action: Action, bot: BotId) -> Result<()> {
        actor.check()?;
        let allowed = self.inner.authorized(actor.actor, action, bot).await;
        allowed.map(drop)
    }

    async fn agent_for(
        &self,
        actor: FileActor<'_>,
        action: Action,
        bot: BotId,
    ) -> Result<AgentCall> {
        self.allow(actor, action, bot).await?;
        actor.known_to(self.inner.agent(bot).await?).await
    }

    /// The same for a call that lasts.
    async fn stream_for(
        &self,
        actor: FileActor<'_>,
        action: Action,
        bot: BotId,
    ) -> Result<AgentCall> {
        self.allow(actor, action, bot).await?;
        actor.known_to(self.inner.agent_for_long(bot).await?).await
    }

    /// One entry. A symlink at the end is followed only when asked.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`, `Unreachable`, `Stalled`, `TooManyCalls`; `Agent`
    /// with `path_not_found` and others, and for an actor with a user `no_such_user` and, where the workspace's
    /// agent is of an older release, `AgentOutdated`. These are the errors of every call here.
    pub async fn stat_file(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        follow: bool,
    ) -> Result<FileEntry> {
        let call = self.agent_for(actor, Action::ReadWorkspace, bot).await?;
        let request = proto::StatRequest {
            at: at(path),
            follow,
        };
        let entry = answered(call.client.files().stat(actor.timed(request))).await?;
        Ok(entry.into())
    }

    /// A page of a directory.
    ///
    /// # Errors
    /// `not_a_directory`; a limit outside of 1 to [`ListFiles::MAX_LIMIT`].
    pub async fn list_files(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        list: ListFiles,
    ) -> Result<FileList> {
        within("limit", list.limit, ListFiles::MAX_LIMIT)?;
        let call = self.agent_for(actor, Action::ReadWorkspace, bot).await?;
        let request = proto::ListRequest {
            at: at(path),
            recursive: list.recursive,
            limit: list.limit,
            after: list.after.unwrap_or_default().into(),
            max_depth: list.max_depth,
        };
        let page = answered(call.client.files().list(actor.timed(request))).await?;
        let entries = page.entries.into_iter().take(list.limit as usize);
        Ok(FileList {
            path: model::path(&page.path),
            entries: entries.map(FileEntry::from).collect(),
            more: page.more,
        })
    }

    /// Makes a directory, with its parents where asked: then one that exists is no error.
    ///
    /// # Errors
    /// `path_exists`, `not_a_directory`.
    pub async fn make_directory(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        parents: bool,
    ) -> Result<FileEntry> {
        let call = self.agent_for(actor, Action::WriteWorkspace, bot).await?;
        let request = proto::MakeDirectoryRequest {
            at: at(path),
            parents,
            mode: None,
        };
        let mut files = call.client.files();
        let request = actor.timed(request);
        let made = async move { files.make_directory(request).await };
        let made = self.finished(call, DEADLINE, made).await;
        made.map(FileEntry::from)
    }

    /// Renames; what is at the target is replaced only where asked, and then atomically.
    ///
    /// # Errors
    /// `path_exists`, `other_filesystem`.
    pub async fn rename_file(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        from: &FilePath,
        to: &FilePath,
        replace: bool,
    ) -> Result<()> {
        let call = self.agent_for(actor, Action::WriteWorkspace, bot).await?;
        let request = proto::RenameRequest {
            root: Bytes::new(),
            from: Bytes::copy_from_slice(from.as_bytes()),
            to: Bytes::copy_from_slice(to.as_bytes()),
            replace,
            parents: false,
        };
        let mut files = call.client.files();
        let request = actor.timed(request);
        let renamed = async move { files.rename(request).await };
        self.finished(call, DEADLINE, renamed).await.map(drop)
    }

    /// Removes a file, a symlink itself, an empty directory, or a tree where asked. Tells how many
    /// entries went.
    ///
    /// # Errors
    /// `directory_not_empty`; `forbidden` for the root.
    pub async fn remove_file(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        recursive: bool,
    ) -> Result<u64> {
        if path.is_root() {
            return Err(Error::Forbidden("delete the root of a workspace"));
        }
        let call = self.agent_for(actor, Action::WriteWorkspace, bot).await?;
        let request = actor.request(proto::RemoveRequest {
            at: at(path),
            recursive,
        });
        let mut files = call.client.files();
        let removed = async move { files.remove(request).await };
        let removed = self.finished(call, self.silence(), removed).await;
        removed.map(|reply| reply.removed)
    }

    /// Changes permission bits, the owner, or both, of what a path leads to; where asked also of all that is
    /// below. Tells how many entries were changed.
    ///
    /// # Errors
    /// `no_such_user`; `InvalidValue` when neither is given.
    pub async fn change_file(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        change: ChangeFile,
    ) -> Result<u64> {
        if change.mode.is_none() && change.owner.is_none() {
            return Err(InvalidValue::new("mode", "", "mode or owner must be given").into());
        }
        let call = self.agent_for(actor, Action::WriteWorkspace, bot).await?;
        let request = actor.request(proto::ChangeRequest {
            at: at(path),
            mode: change.mode,
            owner: change.owner.unwrap_or_default(),
            recursive: change.recursive,
        });
        let mut files = call.client.files();
        let changed = async move { files.change(request).await };
        let changed = self.finished(call, self.silence(), changed).await;
        changed.map(|reply| reply.changed)
    }

    /// Copies a file, a symlink or, where asked, a tree.
    ///
    /// # Errors
    /// `path_exists` unless it is to be replaced, `is_a_directory`.
    pub async fn copy_file(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        from: &FilePath,
        to: &FilePath,
        recursive: bool,
        replace: bool,
    ) -> Result<()> {
        let call = self.agent_for(actor, Action::WriteWorkspace, bot).await?;
        let request = actor.request(proto::CopyRequest {
            root: Bytes::new(),
            from: Bytes::copy_from_slice(from.as_bytes()),
            to: Bytes::copy_from_slice(to.as_bytes()),
            recursive,
            replace,
            parents: false,
        });
        let mut files = call.client.files();
        let copied = async move { files.copy(request).await };
        self.finished(call, self.silence(), copied).await.map(drop)
    }

    /// Searches by name, or by content where a pattern is given. Dropping the stream ends it.
    ///
    /// # Errors
    /// A pattern or glob that cannot be read, a limit outside of 1 to [`SearchFiles::MAX_LIMIT`].
    pub async fn search_files(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        search: SearchFiles,
    ) -> Result<BoxStream<'static, Result<SearchEvent>>> {
        within("limit", search.limit, SearchFiles::MAX_LIMIT)?;
        if search.context > 20 {
            let given = search.context.to_string();
            return Err(InvalidValue::new("context", &given, "must be at most 20 lines").into());
        }
        let AgentCall { client, place } =
            self.stream_for(actor, Action::ReadWorkspace, bot).await?;
        let request = actor.request(proto::SearchRequest {
            at: at(path),
            globs: search.globs,
            pattern: search.pattern.unwrap_or_default(),
            literal: search.literal,
            ignore_case: search.ignore_case,
            respect_ignore_files: search.respect_ignore_files,
            skip_hidden: search.skip_hidden,
            limit: search.limit,
            context: search.context,
            max_file_bytes: 0,
        });
        let replies = answered(client.files().search(request)).await?;
        let (limit, context) = (u64::from(search.limit), search.context);
        Ok(found(replies, limit, context, place).boxed())
    }

    /// Tells what changes from now on at or beneath a path; the first event is
    /// [`WatchEvent::Ready`]. Dropping the stream ends it; so does the end of the workspace's task.
    ///
    /// # Errors
    /// `workspace_limit` when there are too many watches.
    pub async fn watch_files(
        &self,
        actor: FileActor<'_>,
        bot: BotId,
        path: &FilePath,
        recursive: bool,
    ) -> Result<BoxStream<'static, Result<WatchEvent>>> {
        let AgentCall { client, place } =
            self.stream_for(actor, Action::ReadWorkspace, bot).await?;
        let request = actor.request(proto::WatchRequest {
            at: at(path),
            recursive,
        });
        let replies = answered(client.files().watch(request)).await?;
        Ok(events(replies, WatchEvent::of, place))
    }

    /// How long a change may take of which nothing is heard until it is done. An agent that is gone or
    /// stands still is noticed sooner, by its connection.
    fn silence(&self) -> Duration {
        self.inner.config.agent_patience.saturating_mul(60)
    }

    /// A change that goes on when its caller leaves, as long as it may take.
    async fn finished<T: Send + 'static>(
        &self,
        call: AgentCall,
        limit: Duration,
        change: impl Future<Output = Result<tonic::Response<T>, Status>> + Send + 'static,
    ) -> Result<T> {
        self.inner.refuse_when_closing()?;
        self.inner
            .detached(async move {
                let _call = call;
                in_time(limit, change).await
            })
            .await
    }
}

fn within(what: &'static str, value: u32, most: u32) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    let reason = format!("must be from 1 to {most}");
    Err(InvalidValue::new(what, &value.to_string(), reason).into())
}

/// What a search finds, and no more than was asked for, whatever the agent sends. The last one is
/// `Done`, or an error.
fn found(
    mut replies: tonic::Streaming<proto::SearchReply>,
    limit: u64,
    context: u32,
    place: Share<BotId>,
) -> impl Stream<Item = Result<SearchEvent>> {
    async_stream::stream! {
        let _place = place;
        let mut matches = 0;
        loop {
            let event = match replies.message().await {
                Ok(Some(reply)) => SearchEvent::of(reply, context),
                Ok(None) => {
                    yield Err(Error::Unreachable(None));
                    break;
                }
                Err(status) => {
                    yield Err(failed(status));
                    break;
                }
            };
            match event {
                None => {}
                Some(found @ SearchEvent::Match { .. }) if matches < limit => {
                    matches += 1;
                    yield Ok(found);
                }
                Some(SearchEvent::Match { .. }) => {
                    yield Ok(SearchEvent::Done {
                        files_searched: 0,
                        matches,
                        truncated: true,
                        unreadable: 0,
                        skipped: Vec::new(),
                        skipped_files: 0,
                    });
                    break;
                }
                Some(SearchEvent::Done {
                    files_searched,
                    truncated,
                    unreadable,
                    skipped,
                    skipped_files,
                    ..
                }) => {
                    yield Ok(SearchEvent::Done {
                        files_searched,
                        matches,
                        truncated,
                        unreadable,
                        skipped,
                        skipped_files,
                    });
                    break;
                }
            }
        }
    }
}

/// A stream of the agent as events of ours.
fn events<T: Send + 'static, E: Send + 'static>(
    replies: tonic::Streaming<T>,
    event: fn(T) -> Option<E>,
    place: Share<BotId>,
) -> BoxStream<'static, Result<E>> {
    replies
        .filter_map(move |reply| {
            let _ = &place;
            std::future::ready(match reply {
                Ok(reply) => event(reply).map(Ok),
                Err(status) => Some(Err(failed(status))),
            })
        })
        .boxed()
}
