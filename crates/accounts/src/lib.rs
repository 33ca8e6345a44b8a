//! Users, sign-in, tokens, tickets and bots.
//!
//! This crate owns who may sign in and how, and the records of users and bots. It asks
//! `botstead-authz` beside each effect. It knows no HTTP; deleting a bot is in the workspace
//! crate, because it takes the bot's workspace with it in a journalled operation.
//!
//! Mutating operations run on the runtime that [`Accounts::new`] was given and finish whether or
//! not the caller stays; password hashing runs on that runtime's blocking threads.

mod error;
mod model;
mod password;
mod token;

pub use error::{Error, ErrorKind, Result};
pub use model::{
    BotUpdate, IssuedTicket, Login, NewBot, NewUser, SignedIn, User, UserUpdate,
};
pub use password::Password;
pub use token::{KeyError, TokenKey};

use botstead_authz::Actor;
use botstead_store::{Bot, Store};
use botstead_types::{BotId, Page, PageRequest, UserId};
use std::time::Duration;
use tokio::runtime::Handle;

/// The most bytes that a bot's metadata may have as JSON.
pub const METADATA_LIMIT: usize = 64 << 10;

/// What an operator may choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an access token is valid.
    pub token_ttl: Duration,
    /// How many passwords are hashed at once; each takes 19 MiB and a core for tens of
    /// milliseconds.
    pub max_concurrent_hashes: usize,
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Accounts {}

impl Accounts {
    /// A service on `store`. `runtime` is the server's main runtime.
    pub fn new(store: Store, settings: Settings, key: TokenKey, runtime: Handle) -> Self;
    /// Checks a password and gives an access token.
    pub async fn login(&self, login: Login) -> Result<SignedIn>;
    /// The user whose access token this is: `InvalidToken` unless they exist and are active.
    pub async fn authenticate(&self, token: &str) -> Result<User>;
    /// A one-time ticket for `method` and `path` (no query), valid for 30 s.
    pub async fn issue_ticket(&self, actor: &Actor, method: &str, path: &str) -> Result<IssuedTicket>;
    /// The user who asked for this ticket; it is used up whatever the answer is.
    pub async fn redeem_ticket(&self, ticket: &str, method: &str, path: &str) -> Result<User>;
    /// The caller's own account.
    pub async fn me(&self, actor: &Actor) -> Result<User>;
    /// Adds a user; admin only.
    pub async fn create_user(&self, actor: &Actor, user: NewUser) -> Result<User>;
    /// A user; admin only.
    pub async fn user(&self, actor: &Actor, id: UserId) -> Result<User>;
    /// The user of that name; admin only.
    pub async fn user_by_name(&self, actor: &Actor, username: &str) -> Result<User>;
    /// Users, oldest first; admin only.
    pub async fn users(&self, actor: &Actor, page: &PageRequest) -> Result<Page<User>>;
    /// Changes a user; admin only.
    pub async fn update_user(&self, actor: &Actor, id: UserId, update: UserUpdate) -> Result<User>;
    /// Removes a user who owns no bots; admin only.
    pub async fn delete_user(&self, actor: &Actor, id: UserId) -> Result<()>;
    /// Adds a bot that the caller owns. It has no container yet.
    pub async fn create_bot(&self, actor: &Actor, bot: NewBot) -> Result<Bot>;
    /// A bot.
    pub async fn bot(&self, actor: &Actor, id: BotId) -> Result<Bot>;
    /// Bots, oldest first: the caller's own, or all for an admin.
    pub async fn bots(&self, actor: &Actor, page: &PageRequest) -> Result<Page<Bot>>;
    /// Changes a bot.
    pub async fn update_bot(&self, actor: &Actor, id: BotId, update: BotUpdate) -> Result<Bot>;
}
// impl TokenKey { pub fn load_or_create(path: &Path) -> Result<Self, KeyError>; pub fn generate() -> Self }
// impl Password { pub fn new(text: impl Into<String>) -> Self }  // + serde::Deserialize
