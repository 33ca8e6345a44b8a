//! User accounts, for admins.

use crate::{
    Accounts, Error, NewUser, Result, User, UserUpdate, authorize, check_name, check_page, now,
};
use botstead_authz::{Action, Actor, Resource};
use botstead_store::{self as store, ErrorKind, UserPatch};
use botstead_types::{Page, PageRequest, UserId};

fn may_manage(actor: &Actor) -> Result<()> {
    authorize(
        actor,
        Action::ManageUsers,
        &Resource::Server,
        Error::UserNotFound,
    )
}

fn check_username(username: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if (1..=64).contains(&username.len()) && username.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        "username",
        "expected 1 to 64 of lower-case letters, digits, '.', '_' and '-'",
    ))
}

fn not_found(error: store::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::UserNotFound,
        _ => Error::from_store(error),
    }
}

impl Accounts {
    /// Adds a user; admin only.
    ///
    /// # Errors
    /// `Forbidden`, `Invalid`, `UsernameTaken`.
    pub async fn create_user(&self, actor: &Actor, user: NewUser) -> Result<User> {
        may_manage(actor)?;
        check_username(&user.username)?;
        user.password.check_policy()?;
        let display_name = user
            .display_name
            .map(|name| check_name("display_name", &name))
            .transpose()?;
        self.detached(|this| async move {
            let created_at = now();
            let user = store::User {
                id: UserId::generate(),
                username: user.username,
                display_name,
                role: user.role,
                is_active: true,
                password_hash: this.inner.hasher.hash(user.password).await?,
                created_at,
                updated_at: created_at,
            };
            match this.inner.store.users.create(&user).await {
                Ok(()) => Ok(user.into()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::UsernameTaken),
                Err(error) => Err(Error::from_store(error)),
            }
        })
        .await
    }

    /// A user; admin only.
    ///
    /// # Errors
    /// `Forbidden`, `UserNotFound`.
    pub async fn user(&self, actor: &Actor, id: UserId) -> Result<User> {
        may_manage(actor)?;
        let user = self.inner.store.users.get(id).await;
        user.map(User::from).map_err(not_found)
    }

    /// The user of that name, in any case; admin only.
    ///
    /// # Errors
    /// `Forbidden`, `UserNotFound`.
    pub async fn user_by_name(&self, actor: &Actor, username: &str) -> Result<User> {
        may_manage(actor)?;
        let user = self.inner.store.users.by_username(username).await;
        user.map(User::from).map_err(not_found)
    }

    /// Users, oldest first; admin only.
    ///
    /// # Errors
    /// `Forbidden`; `Invalid` for a limit or cursor that cannot be.
    pub async fn users(&self, actor: &Actor, page: &PageRequest) -> Result<Page<User>> {
        may_manage(actor)?;
        check_page(page)?;
        let users = self.inner.store.users.list(page).await;
        users
            .map(|page| page.map(User::from))
            .map_err(Error::from_store)
    }

    /// Changes a user; admin only. A new password voids the user's tokens; that, a deactivation and
    /// the loss of a role end their sessions.
    ///
    /// # Errors
    /// `Forbidden`, `UserNotFound`, `Invalid`; `LastAdmin` when no active admin would be left.
    pub async fn update_user(&self, actor: &Actor, id: UserId, update: UserUpdate) -> Result<User> {
        may_manage(actor)?;
        if let Some(password) = &update.password {
            password.check_policy()?;
        }
        let display_name = match update.display_name {
            Some(Some(name)) => Some(Some(check_name("display_name", &name)?)),
            other => other,
        };
        self.detached(|this| async move {
            let users = &this.inner.store.users;
            let mut patch = UserPatch {
                display_name,
                role: update.role,
                is_active: update.is_active,
                password_hash: None,
            };
            if let Some(password) = update.password {
                // Looked up first, so that nobody waits for a hash to hear that there is no user.
                users.get(id).await.map_err(not_found)?;
                patch.password_hash = Some(this.inner.hasher.hash(password).await?);
            }
            match users.update(id, &patch).await {
                Ok(user) => {
                    this.inner.changes.send_replace(());
                    Ok(user.into())
                }
                Err(error) if error.kind() == ErrorKind::Conflict => Err(Error::LastAdmin),
                Err(error) => Err(not_found(error)),
            }
        })
        .await
    }

    /// Removes a user; admin only.
    ///
    /// # Errors
    /// `Forbidden`, `UserNotFound`; `UserOwnsBots` while there are any; `LastAdmin` when no
    /// active admin would be left.
    pub async fn delete_user(&self, actor: &Actor, id: UserId) -> Result<()> {
        may_manage(actor)?;
        self.detached(|this| async move {
            let store = &this.inner.store;
            let error = match store.users.delete(id).await {
                Ok(()) => {
                    this.inner.changes.send_replace(());
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.kind() != ErrorKind::Conflict {
                return Err(not_found(error));
            }
            // The store refused for one of two reasons; which one is for the message only.
            let one = PageRequest {
                limit: 1,
                cursor: None,
            };
            let owned = store.bots.list(Some(id), &one).await;
            if owned.map_err(Error::from_store)?.items.is_empty() {
                Err(Error::LastAdmin)
            } else {
                Err(Error::UserOwnsBots)
            }
        })
        .await
    }
}
