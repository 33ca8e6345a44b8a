//! User accounts.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{Page, PageRequest, Role, UserId};
use chrono::{DateTime, Utc};

/// A user account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The name to sign in with; unique without regard to ASCII case.
    pub username: String,
    /// The name to show.
    pub display_name: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// An inactive user cannot sign in and their tokens are void.
    pub is_active: bool,
    /// The password's hash in PHC string format.
    pub password_hash: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What changes in an account; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserPatch {
    /// A new name to show, or none.
    pub display_name: Option<Option<String>>,
    /// A new role.
    pub role: Option<Role>,
    /// Whether the account is active.
    pub is_active: Option<bool>,
    /// A new password hash.
    pub password_hash: Option<String>,
}

/// User accounts.
#[async_trait]
pub trait Users: Send + Sync {
    /// Adds an account.
    ///
    /// # Errors
    /// `AlreadyExists` when the id or the name is taken.
    async fn create(&self, user: &User) -> Result<()>;

    /// An account.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, id: UserId) -> Result<User>;

    /// The account of that name, without regard to ASCII case.
    ///
    /// # Errors
    /// `NotFound`.
    async fn by_username(&self, username: &str) -> Result<User>;

    /// Accounts, oldest first.
    ///
    /// # Errors
    /// `InvalidArgument` for a cursor that no page gave.
    async fn list(&self, page: &PageRequest) -> Result<Page<User>>;

    /// Changes an account and returns it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when no active admin would be left.
    async fn update(&self, id: UserId, patch: &UserPatch) -> Result<User>;

    /// Removes an account.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it owns bots or no active admin would be left.
    async fn delete(&self, id: UserId) -> Result<()>;
}
