//! Passwords: the secret itself, what one must look like, and hashing with argon2id.

use crate::{Error, Result};
use argon2::Argon2;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;

/// A password as the user gave it. Debug does not show it, and its memory is wiped on drop.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    const MIN_CHARS: usize = 8;
    const MAX_CHARS: usize = 256;

    /// Takes a password of any form; the policy is checked where one is set.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Refuses what cannot be set as a password: length is all that helps, so it is all that is
    /// asked for.
    pub(crate) fn check_policy(&self) -> Result<()> {
        match self.0.chars().count() {
            count if count < Self::MIN_CHARS => Err(Error::invalid(
                "password",
                format!("it has less than {} characters", Self::MIN_CHARS),
            )),
            count if count > Self::MAX_CHARS => Err(Error::invalid(
                "password",
                format!("it has more than {} characters", Self::MAX_CHARS),
            )),
            _ => Ok(()),
        }
    }

    /// Whether it could have been set at all; what could not needs no hashing.
    pub(crate) fn may_be_set(&self) -> bool {
        self.check_policy().is_ok()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Whose hash goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Those who are known: they have a slot that nobody else takes.
    Known,
    /// Everybody.
    Open,
}

/// Hashes passwords on threads of its own, a bounded number at once: whatever else the server's
/// threads wait for, somebody can sign in.
#[derive(Debug)]
pub(crate) struct Hasher {
    open: Arc<Semaphore>,
    known: Arc<Semaphore>,
}

impl Hasher {
    pub(crate) fn new(max_concurrent: usize) -> Self {
        Self {
            open: Arc::new(Semaphore::new(max_concurrent.max(1))),
            known: Arc::new(Semaphore::new(1)),
        }
    }

    /// The hash of a password in PHC string format, with a random salt.
    pub(crate) async fn hash(&self, password: Password) -> Result<String> {
        // Only those who are signed in set passwords.
        self.run(Lane::Known, move || {
            Argon2::default()
                .hash_password(password.bytes())
                .map(|hash| hash.to_string())
        })
        .await?
        .map_err(|error| Error::internal("hashing the password", error))
    }

    /// Whether the password has this hash. Without a hash it does the same work and says no, so
    /// that the time taken does not tell which user names exist.
    pub(crate) async fn verify(
        &self,
        lane: Lane,
        password: Password,
        hash: Option<String>,
    ) -> Result<bool> {
        let outcome = self
            .run(lane, move || match hash {
                Some(hash) => Argon2::default().verify_password(password.bytes(), hash.as_str()),
                None => Argon2::default()
                    .hash_password_with_salt(password.bytes(), &[0; 16])
                    .and(Err(password_hash::Error::PasswordInvalid)),
            })
            .await?;
        match outcome {
            Ok(()) => Ok(true),
            Err(password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(Error::internal("checking the password", error)),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let open = Arc::clone(&self.open).acquire_owned();
        let permit = match lane {
            Lane::Open => open.await,
            Lane::Known => {
                let known = Arc::clone(&self.known).acquire_owned();
                tokio::select! { permit = open => permit, permit = known => permit }
            }
        };
        let permit =
            permit.map_err(|error| Error::internal("waiting to hash the password", error))?;
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .name("password".to_owned())
            .spawn(move || {
                // Held by the work and not by the waiter: a caller who leaves does not make room
                // while the hash still takes its core.
                let _permit = permit;
                // Nobody may wait any more.
                let _ = sender.send(work());
            })
            .map_err(|error| Error::internal("starting a thread to hash the password", error))?;
        receiver
            .await
            .map_err(|error| Error::internal("hashing the password", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_length_counts() {
        for good in ["12345678", "ÄÖÜäöüß€", &"x".repeat(256)] {
            assert!(Password::new(good).check_policy().is_ok(), "{good}");
        }
        for bad in ["", "1234567", "€€€€", &"x".repeat(257)] {
            assert!(Password::new(bad).check_policy().is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_hides_it() {
        assert_eq!(format!("{:?}", Password::new("hunter22")), "Password(..)");
    }

    #[tokio::test]
    async fn hashes_are_argon2id_salted_and_verified() {
        let hasher = Hasher::new(2);
        let password = Password::new("correct horse");
        let one = hasher.hash(password.clone()).await.unwrap();
        let two = hasher.hash(password.clone()).await.unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        assert!(
            hasher
                .verify(Lane::Open, password.clone(), Some(one.clone()))
                .await
                .unwrap()
        );
        let wrong = Password::new("incorrect horse");
        assert!(!hasher.verify(Lane::Open, wrong, Some(one)).await.unwrap());
        assert!(
            !hasher
                .verify(Lane::Open, password.clone(), None)
                .await
                .unwrap()
        );
        assert!(
            hasher
                .verify(Lane::Open, password, Some("plain".into()))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_known_user_does_not_wait_for_the_hashes_of_others() {
        let hasher = Hasher::new(1);
        let _all = Arc::clone(&hasher.open).acquire_owned().await.unwrap();
        let hash = hasher.hash(Password::new("correct horse")).await.unwrap();
        let verified = hasher.verify(Lane::Known, Password::new("correct horse"), Some(hash));
        assert!(verified.await.unwrap());
        let waits = hasher.verify(Lane::Open, Password::new("correct horse"), None);
        let waited = tokio::time::timeout(Duration::from_millis(50), waits).await;
        assert!(waited.is_err());
    }
}
