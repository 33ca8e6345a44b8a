//! Signing in, and proving later who one is: passwords, access tokens, tickets.

use crate::backoff::Key;
use crate::tickets::Tickets;
use crate::{Accounts, Error, IssuedTicket, Login, Result, SignedIn, User, now, token};
use botstead_authz::Actor;
use botstead_store::{self as store, ErrorKind};
use botstead_types::UserId;
use std::time::Instant;

impl Accounts {
    /// Checks a password and gives an access token.
    ///
    /// # Errors
    /// `InvalidCredentials`, whatever is wrong; `TooManyAttempts` after repeated failures with
    /// this name from this address, or when too many sign-ins wait.
    pub async fn login(&self, login: Login) -> Result<SignedIn> {
        self.detached(|this| async move { this.decide_login(login).await })
            .await
    }

    async fn decide_login(&self, login: Login) -> Result<SignedIn> {
        let inner = &*self.inner;
        let _place = inner.hasher.admit_login()?;
        let username = login.username.to_ascii_lowercase();
        let started = Instant::now();
        let failures = inner
            .backoff
            .failures(Key::new(&username, login.client), started);
        // Held until this attempt is decided. It delays nobody but those who try the same name
        // from the same address.
        let mut failures = failures.lock().await;
        if let Some(retry_after) = failures.wait(Instant::now()) {
            return Err(Error::TooManyAttempts { retry_after });
        }
        let user = match inner.store.users.by_username(&username).await {
            Ok(user) => Some(user).filter(|user| user.is_active),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Error::from_store(error)),
        };
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        // What could never have been set as a password is not worth hashing: that depends on the
        // attempt alone, so it tells nothing about accounts.
        let right =
            login.password.may_be_set() && inner.hasher.verify(login.password, hash).await?;
        match user {
            Some(user) if right => {
                failures.clear();
                let (access_token, expires_at) =
                    inner.tokens.issue(user.id, &user.password_hash, now())?;
                tracing::info!(user_id = %user.id, "signed in");
                Ok(SignedIn {
                    access_token,
                    expires_at,
                    user: user.into(),
                })
            }
            user => {
                failures.fail(Instant::now());
                // Never the name that was typed: people type their password there.
                let user_id = user.map(|user| user.id.to_string());
                tracing::warn!(user_id, client = ?login.client, "sign-in failed");
                Err(Error::InvalidCredentials)
            }
        }
    }

    /// The user whose access token this is.
    ///
    /// # Errors
    /// `InvalidToken` when it is forged or expired, when its user does not exist or is not active,
    /// or when they got a new password since.
    pub async fn authenticate(&self, access_token: &str) -> Result<User> {
        let verified = self.inner.tokens.verify(access_token)?;
        let user = self
            .active_user(verified.user)
            .await?
            .ok_or(Error::InvalidToken)?;
        if token::credential(&user.password_hash) == verified.credential {
            Ok(user.into())
        } else {
            Err(Error::InvalidToken)
        }
    }

    /// A one-time ticket for one request of the caller, valid for 30 s. `path` has no query.
    ///
    /// # Errors
    /// `Invalid` for what is no method or path; `TooManyTickets`.
    pub async fn issue_ticket(
        &self,
        actor: &Actor,
        method: &str,
        path: &str,
    ) -> Result<IssuedTicket> {
        let Actor::User { id, .. } = actor else {
            return Err(Error::Forbidden);
        };
        let expires_at = now() + Tickets::TTL;
        let tickets = &self.inner.tickets;
        let ticket = tickets.issue(*id, method, path, Instant::now())?;
        Ok(IssuedTicket { ticket, expires_at })
    }

    /// The user who got this ticket for this request. It is used up whatever the answer is.
    ///
    /// # Errors
    /// `InvalidTicket`, also when its user does not exist any more or is not active.
    pub async fn redeem_ticket(&self, ticket: &str, method: &str, path: &str) -> Result<User> {
        let tickets = &self.inner.tickets;
        let id = tickets.redeem(ticket, method, path, Instant::now())?;
        let user = self.active_user(id).await?;
        user.map(User::from).ok_or(Error::InvalidTicket)
    }

    /// The caller's own account.
    ///
    /// # Errors
    /// `UserNotFound` when it was removed meanwhile, and for the server itself.
    pub async fn me(&self, actor: &Actor) -> Result<User> {
        let Actor::User { id, .. } = actor else {
            return Err(Error::UserNotFound);
        };
        let user = self.active_user(*id).await?;
        user.map(User::from).ok_or(Error::UserNotFound)
    }

    async fn active_user(&self, id: UserId) -> Result<Option<store::User>> {
        match self.inner.store.users.get(id).await {
            Ok(user) => Ok(Some(user).filter(|user| user.is_active)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from_store(error)),
        }
    }
}
