//! What goes into the operations and what comes out of them.

use crate::Password;
use botstead_authz::Actor;
use botstead_store as store;
use botstead_types::{Role, UserId};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use std::fmt;
use std::net::IpAddr;

/// A user account as others may see it: without the password's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The name to sign in with.
    pub username: String,
    /// The name to show.
    pub display_name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// An inactive user cannot sign in and their tokens are void.
    pub is_active: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl User {
    /// This user as the one who asks. Only for a user that the service just authenticated.
    pub fn actor(&self) -> Actor {
        Actor::User {
            id: self.id,
            role: self.role,
        }
    }
}

/// A caller who proved who they are. Whoever serves them for longer than a moment asks
/// [`crate::Accounts::hold`] now and then.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// Who it is.
    pub user: User,
    /// The mark of the password that the proof rests on.
    pub(crate) credential: String,
}

impl Session {
    /// The user as the one who asks.
    pub fn actor(&self) -> Actor {
        self.user.actor()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl From<store::User> for User {
    fn from(user: store::User) -> Self {
        Self {
            id: user.id,
            username: user.username,
            display_name: user.display_name,
            role: user.role,
            is_active: user.is_active,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// A user to be made.
#[derive(Debug)]
pub struct NewUser {
    /// 1 to 64 of lower-case letters, digits, `.`, `_` and `-`.
    pub username: String,
    /// The name to show, at most 128 characters.
    pub display_name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// 8 characters to 256 bytes.
    pub password: Password,
}

/// What changes in a user; absent fields stay.
#[derive(Debug, Default)]
pub struct UserUpdate {
    /// A new name to show, or none.
    pub display_name: Option<Option<String>>,
    /// A new role.
    pub role: Option<Role>,
    /// Whether the account is active.
    pub is_active: Option<bool>,
    /// A new password. It voids all tokens of the user.
    pub password: Option<Password>,
}

/// An attempt to sign in.
pub struct Login {
    /// The user name, in any case.
    pub username: String,
    /// The password.
    pub password: Password,
    /// Where the attempt comes from, for the back-off.
    pub client: Option<IpAddr>,
    /// An access token that the user got before, which may have expired in the last 30 days: who brings one is not
    /// kept out by whoever guesses passwords from the same network.
    pub earlier_token: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither a password nor a token is shown.
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// A successful sign-in.
#[derive(Clone)]
pub struct SignedIn {
    /// The bearer token. A secret: Debug does not show it.
    pub access_token: String,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// Who signed in.
    pub user: User,
}

impl fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedIn")
            .field("expires_at", &self.expires_at)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A one-time ticket.
#[derive(Clone)]
pub struct IssuedTicket {
    /// The ticket. A secret: Debug does not show it.
    pub ticket: String,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

impl fmt::Debug for IssuedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedTicket")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A bot to be made; the caller will own it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewBot {
    /// Its name, at most 128 characters; one is made up when there is none.
    pub name: Option<String>,
    /// The name to show, at most 128 characters.
    pub display_name: Option<String>,
    /// What clients keep with it, at most [`crate::METADATA_LIMIT`] bytes as JSON.
    pub metadata: Map<String, Value>,
}

/// What changes in a bot; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BotUpdate {
    /// A new name.
    pub name: Option<String>,
    /// A new name to show, or none.
    pub display_name: Option<Option<String>>,
    /// Whether it is in use.
    pub is_active: Option<bool>,
    /// Top-level keys of the metadata to set; `null` removes a key, other keys stay.
    pub metadata: Option<Map<String, Value>>,
}
