//! Passwords: the secret itself, what one must look like, and hashing with argon2id.

use crate::{Error, Result};
use argon2::Argon2;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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

/// Hashes passwords on blocking threads, a bounded number at once.
#[derive(Debug)]
pub(crate) struct Hasher {
    runtime: Handle,
    running: Arc<Semaphore>,
    logins: Arc<Semaphore>,
}

impl Hasher {
    /// So many sign-ins may wait for a hashing slot; more are turned away, so that a flood of them
    /// costs neither memory nor the patience of those who wait.
    const WAITING_LOGINS: usize = 64;

    pub(crate) fn new(runtime: Handle, max_concurrent: usize) -> Self {
        Self {
            runtime,
            running: Arc::new(Semaphore::new(max_concurrent.max(1))),
            logins: Arc::new(Semaphore::new(Self::WAITING_LOGINS)),
        }
    }

    /// A place in the queue of sign-ins, held until the sign-in is decided.
    pub(crate) fn admit_login(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.logins)
            .try_acquire_owned()
            .map_err(|_| Error::TooManyAttempts {
                retry_after: Duration::from_secs(2),
            })
    }

    /// The hash of a password in PHC string format, with a random salt.
    pub(crate) async fn hash(&self, password: Password) -> Result<String> {
        self.run(move || {
            Argon2::default()
                .hash_password(password.bytes())
                .map(|hash| hash.to_string())
        })
        .await?
        .map_err(|error| Error::internal("hashing the password", error))
    }

    /// Whether the password has this hash. Without a hash it does the same work and says no, so
    /// that the time taken does not tell which user names exist.
    pub(crate) async fn verify(&self, password: Password, hash: Option<String>) -> Result<bool> {
        let outcome = self
            .run(move || match hash {
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

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|error| Error::internal("waiting to hash the password", error))?;
        self.runtime
            .spawn_blocking(move || {
                // Held by the work and not by the waiter: a caller who leaves does not make room
                // while the hash still takes its core.
                let _permit = permit;
                work()
            })
            .await
            .map_err(|error| Error::internal("hashing the password", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let hasher = Hasher::new(Handle::current(), 2);
        let password = Password::new("correct horse");
        let one = hasher.hash(password.clone()).await.unwrap();
        let two = hasher.hash(password.clone()).await.unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        assert!(
            hasher
                .verify(password.clone(), Some(one.clone()))
                .await
                .unwrap()
        );
        let wrong = Password::new("incorrect horse");
        assert!(!hasher.verify(wrong, Some(one)).await.unwrap());
        assert!(!hasher.verify(password.clone(), None).await.unwrap());
        assert!(hasher.verify(password, Some("plain".into())).await.is_err());
    }

    #[tokio::test]
    async fn a_flood_of_sign_ins_is_turned_away() {
        let hasher = Hasher::new(Handle::current(), 1);
        let held: Vec<_> = (0..Hasher::WAITING_LOGINS)
            .map(|_| hasher.admit_login().unwrap())
            .collect();
        assert_eq!(
            hasher.admit_login().unwrap_err().code(),
            "too_many_attempts"
        );
        drop(held);
        assert!(hasher.admit_login().is_ok());
    }
}
