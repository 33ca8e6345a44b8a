//! One-time tickets: a short-lived stand-in for a token in the address of a download or WebSocket.
//!
//! Kept in memory: a restart voids them, which a browser notices as an expired one.

use crate::{Error, Result};
use botstead_types::UserId;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Ticket {
    user: UserId,
    /// The mark of the user's password when it was issued.
    credential: String,
    method: String,
    path: String,
    expires: Instant,
}

/// The tickets that were issued and not used.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    /// By digest, so that the time of a look-up tells nothing about the tickets themselves.
    issued: Mutex<HashMap<[u8; 32], Ticket>>,
}

impl Tickets {
    /// How long a ticket is valid.
    pub(crate) const TTL: Duration = Duration::from_secs(30);
    const MAX_PER_USER: usize = 100;
    /// With a query whose path has every byte escaped.
    const MAX_PATH_LENGTH: usize = 16 << 10;

    pub(crate) fn issue(
        &self,
        (user, credential): (UserId, String),
        method: &str,
        path: &str,
        now: Instant,
    ) -> Result<String> {
        if method.is_empty() || method.len() > 16 || !method.bytes().all(|b| b.is_ascii_uppercase())
        {
            return Err(Error::invalid("method", "expected a method such as GET"));
        }
        if !path.starts_with('/')
            || path.len() > Self::MAX_PATH_LENGTH
            || path.contains(|c: char| c == '#' || c.is_control())
        {
            return Err(Error::invalid(
                "path",
                "expected an absolute path of at most 16384 bytes, with its query if there is one",
            ));
        }
        let mut bytes = [0; 32];
        OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| Error::internal("making a ticket", error))?;
        let text = hex::encode(bytes);

        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|_, ticket| ticket.expires > now);
        let of_user = issued.values().filter(|ticket| ticket.user == user);
        let (count, oldest) = of_user.fold((0, None::<Instant>), |(count, oldest), ticket| {
            let oldest = oldest.map_or(ticket.expires, |oldest| oldest.min(ticket.expires));
            (count + 1, Some(oldest))
        });
        if count >= Self::MAX_PER_USER {
            let retry_after = oldest.map_or(Self::TTL, |oldest| oldest.duration_since(now));
            return Err(Error::TooManyTickets { retry_after });
        }
        issued.insert(
            Sha256::digest(text.as_bytes()).into(),
            Ticket {
                user,
                credential,
                method: method.to_owned(),
                path: path.to_owned(),
                expires: now + Self::TTL,
            },
        );
        Ok(text)
    }

    /// The user of a ticket, and the mark of their password when it was issued. It is gone afterwards, also when it was shown with another request:
    /// whoever did that should not have it.
    pub(crate) fn redeem(
        &self,
        text: &str,
        method: &str,
        path: &str,
        now: Instant,
    ) -> Result<(UserId, String)> {
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let ticket = self
            .issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&digest)
            .ok_or(Error::InvalidTicket)?;
        if ticket.expires > now && ticket.method == method && ticket.path == path {
            Ok((ticket.user, ticket.credential))
        } else {
            Err(Error::InvalidTicket)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/bots/1/container/terminal/ws";

    fn of(user: UserId) -> (UserId, String) {
        (user, "mark".to_owned())
    }

    #[test]
    fn a_ticket_works_once_for_its_request() {
        let (tickets, user, now) = (Tickets::default(), UserId::generate(), Instant::now());
        let ticket = tickets.issue(of(user), "GET", PATH, now).unwrap();
        assert_eq!(tickets.redeem(&ticket, "GET", PATH, now).unwrap(), of(user));
        assert!(tickets.redeem(&ticket, "GET", PATH, now).is_err());
    }

    #[test]
    fn a_ticket_shown_with_another_request_is_used_up() {
        let (tickets, user, now) = (Tickets::default(), UserId::generate(), Instant::now());
        for (method, path, at) in [
            ("POST", PATH, now),
            ("GET", "/bots/2/container/terminal/ws", now),
            ("GET", "/bots/1/container/terminal/ws?x=1", now),
            ("GET", PATH, now + Tickets::TTL),
        ] {
            let ticket = tickets.issue(of(user), "GET", PATH, now).unwrap();
            assert!(tickets.redeem(&ticket, method, path, at).is_err());
            assert!(tickets.redeem(&ticket, "GET", PATH, now).is_err());
        }
    }

    #[test]
    fn unused_tickets_are_bounded_per_user_and_expire() {
        let (tickets, user, now) = (Tickets::default(), UserId::generate(), Instant::now());
        for _ in 0..Tickets::MAX_PER_USER {
            tickets.issue(of(user), "GET", PATH, now).unwrap();
        }
        let error = tickets.issue(of(user), "GET", PATH, now).unwrap_err();
        assert_eq!(error.retry_after(), Some(Tickets::TTL));
        assert!(
            tickets
                .issue(of(UserId::generate()), "GET", PATH, now)
                .is_ok()
        );
        let later = now + Tickets::TTL;
        assert!(tickets.issue(of(user), "GET", PATH, later).is_ok());
        assert_eq!(tickets.issued.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_request_gets_no_ticket() {
        let (tickets, user, now) = (Tickets::default(), UserId::generate(), Instant::now());
        for (method, path) in [
            ("get", PATH),
            ("", PATH),
            ("GET", "bots"),
            ("GET", "/bots#x"),
            ("GET", "/a\nb"),
        ] {
            assert!(
                tickets.issue(of(user), method, path, now).is_err(),
                "{method} {path}"
            );
        }
    }
}
