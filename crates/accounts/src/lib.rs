//! Users, sign-in, tokens, tickets and bots.
//!
//! This crate owns who may sign in and how, and the records of users and bots. It asks
//! `botstead-authz` beside each effect. It knows no HTTP; deleting a bot is in the workspace
//! crate, because it takes the bot's workspace with it in a journalled operation.
//!
//! Mutating operations run on the runtime that [`Accounts::new`] was given and finish whether or
//! not the caller stays; passwords are hashed on threads of their own.
//!
//! ```no_run
//! use botstead_accounts::{Accounts, Login, Password, Settings, TokenKey};
//!
//! # async fn example(store: botstead_store::Store) -> Result<(), Box<dyn std::error::Error>> {
//! let key = TokenKey::load_or_create("/var/lib/botstead/secrets/jwt".as_ref())?;
//! let runtime = tokio::runtime::Handle::current();
//! let accounts = Accounts::new(store, &Settings::default(), &key, runtime);
//! let signed_in = accounts
//!     .login(Login {
//!         username: "ann".into(),
//!         password: Password::new("correct horse"),
//!         client: None,
//!         earlier_token: None,
//!     })
//!     .await?;
//! let actor = accounts.authenticate(&signed_in.access_token).await?.actor();
//! let bots = accounts.bots(&actor, &Default::default()).await?;
//! # Ok(())
//! # }
//! ```

mod admission;
mod backoff;
mod bots;
mod error;
mod model;
mod password;
mod preferences;
mod sign_in;
mod tickets;
mod token;
mod users;

pub use bots::METADATA_LIMIT;
pub use error::{Error, ErrorKind, Result};
pub use model::{
    BotUpdate, IssuedTicket, Login, NewBot, NewUser, Session, SignedIn, User, UserUpdate,
};
pub use password::Password;
pub use token::{KeyError, TokenKey};

// What these use cases give that is the store's.
pub use botstead_store::{Bot, Metadata};

use admission::Admission;
use backoff::Backoff;
use botstead_authz::{Action, Actor, Decision, Resource};
use botstead_store::Store;
use botstead_types::{Bounds, PageRequest};
use chrono::{DateTime, SubsecRound, Utc};
use password::Hasher;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tickets::Tickets;
use token::Tokens;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::Instrument;

/// What an operator may choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an access token is valid.
    pub token_ttl: Duration,
    /// How many passwords are hashed at once, at least 1; each takes 19 MiB and a core for tens
    /// of milliseconds.
    pub max_concurrent_hashes: usize,
    /// What workspaces may be made from and use: preferences of bots keep to it.
    pub bounds: Bounds,
}

impl Default for Settings {
    /// A day, and half of the cores.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            token_ttl: Duration::from_secs(24 * 60 * 60),
            max_concurrent_hashes: (cores / 2).max(1),
            bounds: Bounds::default(),
        }
    }
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Accounts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    bounds: Bounds,
    runtime: Handle,
    hasher: Hasher,
    admission: Admission,
    backoff: Backoff,
    tokens: Tokens,
    tickets: Tickets,
    /// Told when an account changed.
    changes: watch::Sender<()>,
}

impl Accounts {
    /// A service on `store`. `runtime` is the server's main runtime.
    pub fn new(store: Store, settings: &Settings, key: &TokenKey, runtime: Handle) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                bounds: settings.bounds.clone(),
                hasher: Hasher::new(settings.max_concurrent_hashes),
                runtime,
                admission: Admission::default(),
                backoff: Backoff::default(),
                tokens: Tokens::new(key, settings.token_ttl),
                tickets: Tickets::default(),
                changes: watch::Sender::new(()),
            }),
        }
    }

    /// Runs `work` on the main runtime to its end, even when the caller goes away.
    async fn detached<T, F>(&self, work: impl FnOnce(Self) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let work = work(self.clone()).in_current_span();
        match self.inner.runtime.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::internal("the operation", error)),
        }
    }
}

/// Asks the policy; `hidden` is what an actor is told who may not know of the resource.
fn authorize(actor: &Actor, action: Action, resource: &Resource, hidden: Error) -> Result<()> {
    match botstead_authz::decide(actor, action, resource) {
        Decision::Allow => Ok(()),
        Decision::Forbid => Err(Error::Forbidden),
        Decision::Hide => Err(hidden),
    }
}

/// The present, as precise as the databases store it, so that an answer to a creation and a later
/// reading agree.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

fn check_page(page: &PageRequest) -> Result<()> {
    if (1..=PageRequest::MAX_LIMIT).contains(&page.limit) {
        return Ok(());
    }
    let reason = format!("expected 1 to {}", PageRequest::MAX_LIMIT);
    Err(Error::invalid("limit", reason))
}

/// A name to show: trimmed, not empty, at most 128 characters, none of them a control character.
fn check_name(field: &str, text: &str) -> Result<String> {
    let text = text.trim();
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.chars().count() > 128 {
        "it has more than 128 characters"
    } else if text.chars().any(char::is_control) {
        "it has control characters"
    } else {
        return Ok(text.to_owned());
    };
    Err(Error::invalid(field, reason))
}
