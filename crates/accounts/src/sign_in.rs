//! Signing in, and proving later who one is: passwords, access tokens, tickets, sessions.

use crate::backoff::Key;
use crate::password::Lane;
use crate::tickets::Tickets;
use crate::{Accounts, Error, IssuedTicket, Login, Result, Session, SignedIn, User, now, token};
use botstead_authz::Actor;
use botstead_store::{self as store, ErrorKind};
use botstead_types::{Role, UserId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// When a sign-in that found no place may try again.
const NO_PLACE: Duration = Duration::from_secs(2);

/// How long a known user waits at most after failures with their name from their network: whoever
/// shares it cannot lock them out, and guesses no faster than this.
const KNOWN_PAUSE: Duration = Duration::from_secs(1);

impl Accounts {
    /// Checks a password and gives an access token.
    ///
    /// # Errors
    /// `InvalidCredentials`, whatever is wrong; `TooManyAttempts` after repeated failures with
    /// this name from this address, or when too many sign-ins wait, of this network or of all. A user
    /// who proved from this network before who they are is made to wait instead, a second at most; so is
    /// who brings a token that they got before, from wherever and whoever else tries.
    pub async fn login(&self, login: Login) -> Result<SignedIn> {
        self.detached(|this| async move { this.decide_login(login).await })
            .await
    }

    async fn decide_login(&self, login: Login) -> Result<SignedIn> {
        let inner = &*self.inner;
        let username = login.username.to_ascii_lowercase();
        let from_here = Key::new(&username, login.client);
        let key = match &login.earlier_token {
            Some(token) if self.had_session(&username, token).await? => Key::proved(&username),
            _ => from_here.clone(),
        };
        let place = inner.admission.admit(&key, login.client);
        let place = place.ok_or(Error::TooManyAttempts {
            retry_after: NO_PLACE,
        })?;
        let failures = inner.backoff.failures(key, Instant::now());
        // Held until this attempt is decided. It delays nobody but those who try the same name
        // from the same address.
        let mut failures = failures.lock().await;
        if let Some(retry_after) = failures.wait(Instant::now()) {
            if !place.is_known() {
                return Err(Error::TooManyAttempts { retry_after });
            }
            tokio::time::sleep(retry_after.min(KNOWN_PAUSE)).await;
        }
        let user = match inner.store.users.by_username(&username).await {
            Ok(user) => Some(user).filter(|user| user.is_active),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Error::from_store(error)),
        };
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let lane = match place.is_known() {
            true => Lane::Known,
            false => Lane::Open,
        };
        // What could never have been set as a password is not worth hashing: that depends on the
        // attempt alone, so it tells nothing about accounts.
        let right =
            login.password.may_be_set() && inner.hasher.verify(lane, login.password, hash).await?;
        match user {
            Some(user) if right => {
                failures.clear();
                inner.admission.remember(from_here, Instant::now());
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

    /// Whether this token was given to this user, with the password that they have still. It may have
    /// expired in the last 30 days: one that leaked long ago takes nobody's places.
    async fn had_session(&self, username: &str, token: &str) -> Result<bool> {
        let Ok(verified) = self.inner.tokens.verify_earlier(token) else {
            return Ok(false);
        };
        let session = self.session(verified.user, verified.credential).await?;
        Ok(session.is_some_and(|it| it.user.username.eq_ignore_ascii_case(username)))
    }

    /// The session of whoever has this access token.
    ///
    /// # Errors
    /// `InvalidToken` when it is forged or expired, when its user does not exist or is not active,
    /// or when they got a new password since.
    pub async fn authenticate(&self, access_token: &str) -> Result<Session> {
        let verified = self.inner.tokens.verify(access_token)?;
        self.session(verified.user, verified.credential)
            .await?
            .ok_or(Error::InvalidToken)
    }

    /// Remembers that the user of this session came from there, so that no flood of sign-ins keeps
    /// them out later.
    pub fn seen(&self, session: &Session, client: Option<IpAddr>) {
        let username = session.user.username.to_ascii_lowercase();
        let key = Key::new(&username, client);
        self.inner.admission.remember(key, Instant::now());
    }

    /// Whether each of these sessions still stands: its user is there and active, has the same
    /// password, and is still an admin where they were one. Also sees what another process changed in
    /// the database; each user is looked up once.
    ///
    /// # Errors
    /// When the database does not answer, which says nothing about the sessions.
    pub async fn hold(&self, sessions: &[&Session]) -> Result<Vec<bool>> {
        let mut users: HashMap<UserId, Option<store::User>> = HashMap::new();
        let mut hold = Vec::with_capacity(sessions.len());
        for session in sessions {
            let user = match users.entry(session.user.id) {
                Entry::Occupied(found) => found.into_mut(),
                Entry::Vacant(vacant) => vacant.insert(self.active_user(session.user.id).await?),
            };
            hold.push(user.as_ref().is_some_and(|user| {
                token::credential(&user.password_hash) == session.credential
                    && (session.user.role != Role::Admin || user.role == Role::Admin)
            }));
        }
        Ok(hold)
    }

    /// Changes whenever this service changed an account, so that sessions can be looked at at once.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes.subscribe()
    }

    /// The session of an active user whose password still has this mark.
    async fn session(&self, user: UserId, credential: String) -> Result<Option<Session>> {
        let user = self.active_user(user).await?;
        let user = user.filter(|user| token::credential(&user.password_hash) == credential);
        Ok(user.map(|user| Session {
            user: user.into(),
            credential,
        }))
    }

    /// A one-time ticket for one request of the caller, valid for 30 s. Whatever `path` is, the request is for
    /// the same.
    ///
    /// # Errors
    /// `Invalid` for what is no method or path; `TooManyTickets`; `UserNotFound` when the caller was
    /// removed meanwhile.
    pub async fn issue_ticket(
        &self,
        actor: &Actor,
        method: &str,
        path: &str,
    ) -> Result<IssuedTicket> {
        let Actor::User { id, .. } = actor else {
            return Err(Error::Forbidden);
        };
        let user = self.active_user(*id).await?.ok_or(Error::UserNotFound)?;
        let of = (*id, token::credential(&user.password_hash));
        let expires_at = now() + Tickets::TTL;
        let tickets = &self.inner.tickets;
        let ticket = tickets.issue(of, method, path, Instant::now())?;
        Ok(IssuedTicket { ticket, expires_at })
    }

    /// The session of the user who got this ticket for this request. It is used up whatever the
    /// answer is.
    ///
    /// # Errors
    /// `InvalidTicket`, also when its user does not exist any more, is not active, or got a new
    /// password since.
    pub async fn redeem_ticket(&self, ticket: &str, method: &str, path: &str) -> Result<Session> {
        let tickets = &self.inner.tickets;
        let (user, credential) = tickets.redeem(ticket, method, path, Instant::now())?;
        self.session(user, credential)
            .await?
            .ok_or(Error::InvalidTicket)
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
