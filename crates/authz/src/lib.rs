//! Actor, action, resource and policy: who may do what.
//!
//! Pure: a decision is a function of its arguments. Whoever performs an effect asks here right
//! beside it. The whole matrix of decisions is the committed file `matrix.txt`, which a test
//! regenerates.

use botstead_types::{Role, UserId};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A signed-in user.
    User {
        /// Who it is.
        id: UserId,
        /// Their role.
        role: Role,
    },
    /// The server itself, such as at start-up. Never made from a request.
    System,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// See users' accounts, add, change and remove them.
    ManageUsers,
    /// List, pull, import and delete images, and say how registries are asked for them.
    ManageImages,
    /// See, export and discard what the runtime has and the database does not know.
    RecoverData,
    /// Make a bot of one's own.
    CreateBot,
    /// List bots of all owners.
    ListAllBots,
    /// See a bot.
    ReadBot,
    /// Change a bot's name and metadata.
    UpdateBot,
    /// Remove a bot with everything that it has.
    DeleteBot,
    /// See a workspace: state, metrics, snapshots, operations.
    ReadWorkspace,
    /// Change a workspace: create, start, stop, snapshot, roll back, cancel.
    WriteWorkspace,
    /// Run commands in a workspace.
    ExecWorkspace,
    /// Remove a workspace or its versions.
    DeleteWorkspace,
}

impl Action {
    /// Every action.
    pub const ALL: &[Self] = &[
        Self::ManageUsers,
        Self::ManageImages,
        Self::RecoverData,
        Self::CreateBot,
        Self::ListAllBots,
        Self::ReadBot,
        Self::UpdateBot,
        Self::DeleteBot,
        Self::ReadWorkspace,
        Self::WriteWorkspace,
        Self::ExecWorkspace,
        Self::DeleteWorkspace,
    ];
}

/// What it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The server as a whole.
    Server,
    /// A bot and its workspace.
    Bot {
        /// Who owns it.
        owner: UserId,
    },
}

/// What the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may be done.
    Allow,
    /// It may not be done, and the actor may know that the resource exists.
    Forbid,
    /// It may not be done, and the resource does not exist as far as the actor can tell.
    Hide,
}

/// Decides. An admin and the server may do everything; an owner may do everything to their bot; to
/// anyone else the bot does not exist.
pub fn decide(actor: &Actor, action: Action, resource: &Resource) -> Decision {
    let (id, role) = match actor {
        Actor::System => return Decision::Allow,
        Actor::User { id, role } => (id, role),
    };
    match (role, resource) {
        (Role::Admin, _) => Decision::Allow,
        (Role::Member, Resource::Bot { owner }) if owner == id => Decision::Allow,
        (Role::Member, Resource::Bot { .. }) => Decision::Hide,
        (Role::Member, Resource::Server) => match action {
            Action::CreateBot => Decision::Allow,
            _ => Decision::Forbid,
        },
    }
}
