//! Requests under way and the sessions that they rest on: one that lasts ends within a second after
//! its user was deactivated or removed, got a new password or lost a role.

use crate::connections::Connection;
use botstead_accounts::{Accounts, Session};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often sessions are looked at where nobody tells of a change: another process may have changed
/// the database.
const LOOK: Duration = Duration::from_millis(400);

/// How long a request may take to end by itself, with a last word to its client, before its
/// connection is cut. A request that ends its own caller's session is answered within it.
const FAREWELL: Duration = Duration::from_millis(400);

/// The requests of all callers.
#[derive(Default)]
pub(crate) struct Sessions {
    served: Mutex<Served>,
}

#[derive(Default)]
struct Served {
    requests: HashMap<u64, Request>,
    next: u64,
}

#[derive(Clone)]
struct Request {
    session: Arc<Session>,
    ended: CancellationToken,
    connection: Weak<Connection>,
}

/// A request under way, until this is dropped.
pub(crate) struct Serving {
    sessions: Arc<Sessions>,
    id: u64,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.sessions.served().requests.remove(&self.id);
    }
}

impl Sessions {
    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a request; the token is cancelled when its session ends.
    pub(crate) fn serve(
        self: &Arc<Self>,
        session: Session,
        connection: Option<&Arc<Connection>>,
    ) -> (Serving, CancellationToken) {
        let ended = CancellationToken::new();
        let mut served = self.served();
        served.next += 1;
        let id = served.next;
        served.requests.insert(
            id,
            Request {
                session: Arc::new(session),
                ended: ended.clone(),
                connection: connection.map(Arc::downgrade).unwrap_or_default(),
            },
        );
        drop(served);
        let serving = Serving {
            sessions: Arc::clone(self),
            id,
        };
        (serving, ended)
    }

    /// Ends requests whose sessions do not stand any more. Does not end.
    pub(crate) async fn watch(self: &Arc<Self>, accounts: &Accounts) -> Infallible {
        let mut changes = accounts.changes();
        loop {
            // The sender lives as long as the accounts.
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
            let (ids, requests): (Vec<u64>, Vec<Request>) = {
                let served = self.served();
                let open = served.requests.iter();
                open.filter(|(_, request)| !request.ended.is_cancelled())
                    .map(|(id, request)| (*id, request.clone()))
                    .unzip()
            };
            if requests.is_empty() {
                continue;
            }
            let sessions: Vec<&Session> = requests.iter().map(|it| &*it.session).collect();
            let hold = match accounts.hold(&sessions).await {
                Ok(hold) => hold,
                Err(error) => {
                    // It says nothing about the sessions; new requests fail by themselves.
                    tracing::warn!(%error, "cannot check whether sessions are still valid");
                    continue;
                }
            };
            for ((id, request), holds) in ids.into_iter().zip(requests).zip(hold) {
                if !holds {
                    self.end(id, request);
                }
            }
        }
    }

    fn end(self: &Arc<Self>, id: u64, request: Request) {
        tracing::info!(user = %request.session.user.id, "a session ended with a request under way");
        request.ended.cancel();
        let sessions = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            // The connection may serve somebody else by now.
            let under_way = sessions.served().requests.contains_key(&id);
            if let Some(connection) = request.connection.upgrade().filter(|_| under_way) {
                connection.cut();
            }
        });
    }
}
