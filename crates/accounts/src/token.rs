//! Access tokens (JWT, HS256) and the key that signs them.

use crate::{Error, Result};
use botstead_types::UserId;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::crypto::{CryptoProvider, aws_lc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long after it expired a token tells who had it.
const EARLIER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The key that signs access tokens. Debug does not show it.
#[derive(Clone)]
pub struct TokenKey(Zeroizing<Vec<u8>>);

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("cannot {operation} the signing key {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The key's file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Others could have read or replaced it.
    #[error(
        "the signing key {} is not safe: {reason}; correct that, or remove the file to have a new \
         one made (all tokens become void)",
        path.display()
    )]
    Unsafe {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TokenKey {
    const BYTES: usize = 64;
    const MIN_BYTES: usize = 32;
    const MAX_BYTES: u64 = 4096;

    /// A new random key that is not stored.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; Self::BYTES]);
        OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes))
    }

    /// The key in the file `path`; makes it, with mode 0600 in a directory with mode 0700, where
    /// there is none. Two processes that do so at once get the same key.
    ///
    /// # Errors
    /// `Unsafe` when the file is not a regular one of this user, is open to others or too short.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path).map_err(|source| KeyError::Io {
                    operation: "make",
                    path: path.to_owned(),
                    source,
                })?;
                // Read back rather than kept: another process may have been first.
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let refuse = |reason: String| KeyError::Unsafe {
            path: path.to_owned(),
            reason,
        };
        let read = || {
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(path)?;
            let metadata = file.metadata()?;
            let mut bytes = Zeroizing::new(Vec::new());
            if metadata.is_file() {
                file.take(Self::MAX_BYTES).read_to_end(&mut bytes)?;
            }
            Ok((metadata, bytes))
        };
        let (metadata, bytes) = read().map_err(|source: io::Error| {
            if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                return refuse("it is a symbolic link".into());
            }
            KeyError::Io {
                operation: "read",
                path: path.to_owned(),
                source,
            }
        })?;
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_file() {
            Err(refuse("it is not a regular file".into()))
        } else if metadata.uid() != rustix::process::geteuid().as_raw() {
            Err(refuse(format!("it belongs to user {}", metadata.uid())))
        } else if mode & 0o077 != 0 {
            Err(refuse(format!("its mode is {mode:04o} and not 0600")))
        } else if bytes.len() < Self::MIN_BYTES {
            Err(refuse(format!(
                "it has less than {} bytes",
                Self::MIN_BYTES
            )))
        } else {
            Ok(Self(bytes))
        }
    }

    /// Writes a new key and gives it its name only when it is complete and on the disk.
    fn create(path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let linked = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&Self::generate()?.0)?;
            file.sync_all()?;
            match fs::hard_link(&temporary, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            }
        })();
        fs::remove_file(&temporary)?;
        linked?;
        File::open(directory)?.sync_all()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

const ACCESS: &str = "access";
/// Longer texts are no token of ours and are not decoded.
const MAX_TOKEN_LENGTH: usize = 2048;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    user_id: UserId,
    typ: String,
    iat: i64,
    exp: i64,
    /// The state of the password when the user signed in: a new password voids the tokens.
    ver: String,
}

/// Who a valid token speaks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) user: UserId,
    pub(crate) credential: String,
}

/// Signs and verifies access tokens.
pub(crate) struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    /// The same for who signs in again.
    earlier: Validation,
    ttl: TimeDelta,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(key: &TokenKey, ttl: Duration) -> Self {
        // Explicit, because the crate panics at first use when features of other dependents leave
        // it a choice. An error means that one is installed.
        let _ = CryptoProvider::install_default(&aws_lc::DEFAULT_PROVIDER);
        let mut validation = Validation::new(Algorithm::HS256);
        // One clock signs and verifies.
        validation.leeway = 0;
        let mut earlier = validation.clone();
        earlier.leeway = EARLIER.as_secs();
        Self {
            earlier,
            signing: EncodingKey::from_secret(&key.0),
            verifying: DecodingKey::from_secret(&key.0),
            validation,
            ttl: TimeDelta::from_std(ttl).unwrap_or(TimeDelta::days(3650)),
        }
    }

    /// A token for the user, and when it expires.
    pub(crate) fn issue(
        &self,
        user: UserId,
        password_hash: &str,
        now: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>)> {
        let exp = (now + self.ttl).timestamp();
        let claims = Claims {
            sub: user,
            user_id: user,
            typ: ACCESS.to_owned(),
            iat: now.timestamp(),
            exp,
            ver: credential(password_hash),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(|error| Error::internal("signing the access token", error))?;
        let expires_at = DateTime::from_timestamp(exp, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        Ok((token, expires_at))
    }

    /// Checks signature, type and expiry. Whether the user may still sign in is not known here.
    pub(crate) fn verify(&self, token: &str) -> Result<Verified> {
        self.verify_as(token, &self.validation)
    }

    /// The same for a token that may have expired in the last 30 days: it gives no session, and tells who had
    /// one.
    pub(crate) fn verify_earlier(&self, token: &str) -> Result<Verified> {
        self.verify_as(token, &self.earlier)
    }

    fn verify_as(&self, token: &str, validation: &Validation) -> Result<Verified> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(Error::InvalidToken);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, validation)
            .map_err(|_| Error::InvalidToken)?
            .claims;
        if claims.typ != ACCESS || claims.sub != claims.user_id {
            return Err(Error::InvalidToken);
        }
        Ok(Verified {
            user: claims.user_id,
            credential: claims.ver,
        })
    }
}

/// A short mark of a stored password hash. It changes with every new password, also the same one,
/// because the salt does; and it tells nothing of the hash, which is salted with 128 random bits.
pub(crate) fn credential(password_hash: &str) -> String {
    let digest = Sha256::digest(password_hash.as_bytes());
    hex::encode(&digest[..8])
}

#[cfg(test)]
mod tests;
