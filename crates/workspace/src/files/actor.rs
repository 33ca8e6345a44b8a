//! Who makes a call on files, and with whose rights inside the workspace.

use crate::Result;
use crate::agent::{AgentCall, require, timed};
use botstead_authz::Actor;
use botstead_bridge::USER;
use botstead_types::InvalidValue;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// The longest name of a user with a group, in bytes.
const MOST_USER: usize = 255;

/// Who makes a call on files. Without `user` it is done with the rights of the workspace's root, and what it
/// makes belongs to the workspace's user; with one it is done with that user's rights, and what it makes is
/// theirs.
#[derive(Debug, Clone, Copy)]
pub struct FileActor<'a> {
    /// Who asks.
    pub actor: &'a Actor,
    /// A user inside the workspace: `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<&'a str>,
}

impl<'a> From<&'a Actor> for FileActor<'a> {
    fn from(actor: &'a Actor) -> Self {
        Self { actor, user: None }
    }
}

impl FileActor<'_> {
    pub(super) fn check(&self) -> Result<()> {
        match self.user {
            Some(user) if user.len() > MOST_USER => {
                let reason = format!("must be at most {MOST_USER} bytes");
                Err(InvalidValue::new("user", user, reason).into())
            }
            _ => Ok(()),
        }
    }

    /// The call, where its agent does such: an older one would pass the user over.
    pub(super) async fn known_to(&self, call: AgentCall) -> Result<AgentCall> {
        if self.user.is_some() {
            require(&call.client, 1, "`user` on files").await?;
        }
        Ok(call)
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        self.named(Request::new(message))
    }

    /// A request whose answer is waited for shortly.
    pub(super) fn timed<T>(&self, message: T) -> Request<T> {
        self.named(timed(message))
    }

    fn named<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(user) = self.user {
            let value = MetadataValue::from_bytes(user.as_bytes());
            request.metadata_mut().insert_bin(USER, value);
        }
        request
    }
}
