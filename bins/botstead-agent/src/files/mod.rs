//! Files of the workspace: the service `Files` of the protocol.
//!
//! Here is the service itself; each call has a module. What they share: `path` is the text of a
//! path, `root` its resolution by the kernel, `walk` goes through trees, `pieces` runs blocking
//! work, `temporary` makes files appear complete, `failure` turns errors into answers.
//!
//! What is deliberately absent: who may do what. The agent is root in its workspace, and the server
//! decides before it asks; where a request names a user, the kernel decides too (`rights`).

mod archive;
mod buffers;
mod change;
mod copy;
mod directory;
mod entry;
mod failure;
pub mod fuzz;
mod links;
mod list;
mod make;
mod meta;
mod moved;
mod path;
mod pieces;
mod read;
mod remove;
mod rename;
mod rights;
mod root;
mod search;
mod temporary;
mod walk;
mod watch;
mod write;

use botstead_bridge::proto;
use botstead_bridge::proto::files_server::Files;
use meta::Owner;
use pieces::{Pieces, Turns, brief, long, short};
use rights::Rights;
use std::pin::Pin;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// How files are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who new files and directories belong to.
    pub owner_uid: u32,
    /// And their group, unless the directory hands its own down.
    pub owner_gid: u32,
    /// Directories that one call of `Watch` watches at most. Each costs the kernel about 1 KiB.
    pub max_watches: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            owner_uid: 0,
            owner_gid: 0,
            max_watches: 32_768,
        }
    }
}

/// The service. Its calls run on a tokio runtime with a few blocking threads, and start none.
#[derive(Debug)]
pub struct FilesService {
    owner: Owner,
    max_watches: usize,
    watches: watch::Hub,
    turns: Turns,
    /// Those of searches, which hold one as long as a line takes to match.
    search_turns: Turns,
    commits: write::Commits,
}

impl FilesService {
    /// A service with these settings. Takes nothing until it is used.
    pub fn new(settings: Settings) -> Self {
        Self {
            owner: Owner {
                uid: settings.owner_uid,
                gid: settings.owner_gid,
            },
            max_watches: settings.max_watches,
            watches: watch::Hub::default(),
            turns: Turns::default(),
            search_turns: Turns::default(),
            commits: write::Commits::default(),
        }
    }
}

/// With whose rights a call is done.
async fn rights(metadata: &MetadataMap) -> Result<Rights, Status> {
    let Some(user) = rights::named(metadata)? else {
        return Ok(Rights::default());
    };
    Ok(short(&Rights::default(), move || Rights::of(user)).await?)
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Files for FilesService {
    async fn stat(
        &self,
        request: Request<proto::StatRequest>,
    ) -> Result<Response<proto::Entry>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let entry = short(&rights, move || list::stat(request)).await?;
        Ok(Response::new(entry))
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListReply>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let reply = match short(&rights, move || list::begin(request)).await? {
            list::Listing::Flat(listing) => brief(&self.turns, &rights, listing).await?,
            list::Listing::Recursive(listing) => long(&self.turns, &rights, *listing).await?,
        };
        Ok(Response::new(reply))
    }

    type ReadStream = Answers<proto::ReadReply>;

    async fn read(
        &self,
        request: Request<proto::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let reading = short(&rights, move || read::begin(request)).await?;
        Ok(Response::new(Box::pin(Pieces::short(rights, reading))))
    }

    async fn write(
        &self,
        request: Request<Streaming<proto::WriteRequest>>,
    ) -> Result<Response<proto::WriteReply>, Status> {
        let rights = rights(request.metadata()).await?;
        let (owner, commits) = (
            rights.owner(self.owner),
            std::sync::Arc::clone(&self.commits),
        );
        let reply = write::write(request.into_inner(), owner, commits, rights).await?;
        Ok(Response::new(reply))
    }

    async fn make_directory(
        &self,
        request: Request<proto::MakeDirectoryRequest>,
    ) -> Result<Response<proto::Entry>, Status> {
        let rights = rights(request.metadata()).await?;
        let (request, owner) = (request.into_inner(), rights.owner(self.owner));
        let entry = short(&rights, move || make::make_directory(request, owner)).await?;
        Ok(Response::new(entry))
    }

    async fn rename(
        &self,
        request: Request<proto::RenameRequest>,
    ) -> Result<Response<proto::RenameReply>, Status> {
        let rights = rights(request.metadata()).await?;
        let owner = rights.owner(self.owner);
        rename::run(request.into_inner(), owner, &self.turns, &rights).await?;
        Ok(Response::new(proto::RenameReply {}))
    }

    async fn remove(
        &self,
        request: Request<proto::RemoveRequest>,
    ) -> Result<Response<proto::RemoveReply>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let removing = short(&rights, move || remove::begin(request)).await?;
        let reply = long(&self.turns, &rights, removing).await?;
        Ok(Response::new(reply))
    }

    async fn copy(
        &self,
        request: Request<proto::CopyRequest>,
    ) -> Result<Response<proto::CopyReply>, Status> {
        let rights = rights(request.metadata()).await?;
        let owner = rights.owner(self.owner);
        let (request, turns) = (request.into_inner(), self.turns.clone());
        let copying = short(&rights, move || copy::begin(request, owner, &turns)).await?;
        let reply = long(&self.turns, &rights, copying).await?;
        Ok(Response::new(reply))
    }

    async fn change(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let changing = short(&rights, move || change::begin(request)).await?;
        let reply = long(&self.turns, &rights, changing).await?;
        Ok(Response::new(reply))
    }

    type SearchStream = Answers<proto::SearchReply>;

    async fn search(
        &self,
        request: Request<proto::SearchRequest>,
    ) -> Result<Response<Self::SearchStream>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let searching = short(&rights, move || search::begin(request)).await?;
        Ok(Response::new(Box::pin(Pieces::long(
            &self.search_turns,
            rights,
            searching,
        ))))
    }

    type WatchStream = Answers<proto::WatchReply>;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let rights = rights(request.metadata()).await?;
        let (request, most) = (request.into_inner(), self.max_watches);
        let hub = self.watches.clone();
        let watching = short(&rights, move || watch::begin(request, &hub, most)).await?;
        let replies = watch::tell(watching, self.turns.clone(), rights);
        Ok(Response::new(Box::pin(replies)))
    }

    type ArchiveStream = Answers<proto::ArchiveReply>;

    async fn archive(
        &self,
        request: Request<proto::ArchiveRequest>,
    ) -> Result<Response<Self::ArchiveStream>, Status> {
        let rights = rights(request.metadata()).await?;
        let request = request.into_inner();
        let archiving = short(&rights, move || archive::begin(request)).await?;
        Ok(Response::new(Box::pin(Pieces::long(
            &self.turns,
            rights,
            archiving,
        ))))
    }
}
