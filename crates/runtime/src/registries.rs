//! Registries, as admins set them while the server runs.

use crate::Result;
use async_trait::async_trait;
use botstead_types::{InvalidValue, Mirror, RegistryName};
use std::fmt;

/// Somebody's sign-in at a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's, with a password or what stands for one.
    Password {
        /// The user name.
        username: String,
        /// The password or token.
        password: String,
    },
    /// What a token service gives tokens for in place of a password (OAuth 2's refresh token).
    IdentityToken(String),
}

impl Credentials {
    const MAX_USERNAME: usize = 256;
    /// What clouds give in place of a password has some kilobytes.
    const MAX_SECRET: usize = 16 << 10;

    /// The sign-in that these say together; none where they say nothing.
    ///
    /// # Errors
    /// With what a sign-in is.
    pub fn of(
        username: Option<String>,
        password: Option<String>,
        identity_token: Option<String>,
    ) -> std::result::Result<Option<Self>, InvalidValue> {
        match (username, password, identity_token) {
            (None, None, None) => Ok(None),
            (Some(username), Some(password), None) => {
                Ok(Some(Self::Password { username, password }))
            }
            (None, None, Some(token)) => Ok(Some(Self::IdentityToken(token))),
            _ => {
                let rule = "must be username and password, or identity_token alone";
                Err(InvalidValue::new("sign-in", "", rule))
            }
        }
    }

    /// Refuses what no registry can take.
    ///
    /// # Errors
    /// With the field and the rule, and never with a secret.
    pub fn check(&self) -> std::result::Result<(), InvalidValue> {
        let secret = |field: &'static str, secret: &str| {
            let refused = |why: String| Err(InvalidValue::new(field, "", why));
            match secret {
                "" => refused("must not be empty".to_owned()),
                secret if secret.len() > Self::MAX_SECRET => {
                    refused(format!("must have at most {} bytes", Self::MAX_SECRET))
                }
                secret if secret.contains(char::is_control) => {
                    refused("must have no control characters".to_owned())
                }
                _ => Ok(()),
            }
        };
        let (username, password) = match self {
            Self::IdentityToken(token) => return secret("identity_token", token),
            Self::Password { username, password } => (username, password),
        };
        // RFC 7617, section 2.
        let fits = !username.contains(|c: char| c == ':' || c.is_control());
        if !fits || !(1..=Self::MAX_USERNAME).contains(&username.len()) {
            let rule = format!(
                "must have 1 to {} bytes, without a colon and control characters",
                Self::MAX_USERNAME
            );
            return Err(InvalidValue::new("username", username, rule));
        }
        secret("password", password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
        })
    }
}

/// What is set for one registry. It takes the place of all that the configuration says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// The sign-in for all of its repositories.
    pub credentials: Option<Credentials>,
    /// What is asked before it, in this order.
    pub mirrors: Vec<Mirror>,
    /// Certificates of authorities in PEM, which are trusted for it beside those for all hosts.
    pub certificate_authorities: Option<String>,
}

impl RegistrySettings {
    /// Refuses what can never be set. Whether the certificates are some is not looked at.
    ///
    /// # Errors
    /// With the field and the rule.
    pub fn check(&self) -> std::result::Result<(), InvalidValue> {
        if self.mirrors.len() > Mirror::MOST {
            let count = self.mirrors.len().to_string();
            let rule = format!("must be at most {}", Mirror::MOST);
            return Err(InvalidValue::new("number of mirrors", &count, rule));
        }
        self.credentials.as_ref().map_or(Ok(()), Credentials::check)
    }
}

/// Who said what is known of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegistrySource {
    /// The operator, in the configuration.
    Configuration,
    /// An admin, while the server ran.
    Admin,
}

/// How requests to a registry are signed in, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedInBy {
    /// A user's name and password.
    Password {
        /// The user name.
        username: String,
    },
    /// An identity token.
    IdentityToken,
}

impl From<&Credentials> for SignedInBy {
    fn from(credentials: &Credentials) -> Self {
        match credentials {
            Credentials::Password { username, .. } => Self::Password {
                username: username.clone(),
            },
            Credentials::IdentityToken(_) => Self::IdentityToken,
        }
    }
}

/// What is known of a registry, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Its name; of what the configuration says also a part of one (`host/path`), any port of a host
    /// (`host:*`), or all hosts (`*`).
    pub name: String,
    /// Who said so.
    pub source: RegistrySource,
    /// How requests to it are signed in.
    pub signed_in_by: Option<SignedInBy>,
    /// What is asked before it.
    pub mirrors: Vec<Mirror>,
    /// Whether it has certificate authorities of its own.
    pub has_authorities: bool,
}

impl Registry {
    /// What an admin set.
    pub fn set(name: &RegistryName, settings: &RegistrySettings) -> Self {
        Self {
            name: name.to_string(),
            source: RegistrySource::Admin,
            signed_in_by: settings.credentials.as_ref().map(SignedInBy::from),
            mirrors: settings.mirrors.clone(),
            has_authorities: settings.certificate_authorities.is_some(),
        }
    }
}

/// What is known of registries, kept over restarts and told without secrets.
///
/// What is set for a registry holds for pulls that begin afterwards.
#[async_trait]
pub trait Registries: Send + Sync {
    /// All that are known, by name. What is hidden by what an admin set is left out.
    ///
    /// # Errors
    /// `Unsupported` where the backend asks no registries.
    async fn list(&self) -> Result<Vec<Registry>>;

    /// Sets all of what is said of a registry. Again: no change.
    ///
    /// # Errors
    /// `InvalidArgument` for certificates that are none, or where there would be too many registries or
    /// too much of them; `ResourceExhausted` when the disk is full, `Unsupported`. Nothing is changed then.
    async fn set(&self, name: &RegistryName, settings: RegistrySettings) -> Result<Registry>;

    /// Forgets what was set for a registry; what the configuration says of it holds again. Again:
    /// `NotFound`.
    ///
    /// # Errors
    /// `NotFound`, `ResourceExhausted` when the disk is full, `Unsupported`.
    async fn forget(&self, name: &RegistryName) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn what_no_registry_can_take_is_refused_without_a_secret() {
        let long = "s3cret".repeat(4096);
        for (bad, field) in [
            (password("", "s3cret"), "username"),
            (password("a:b", "s3cret"), "username"),
            (password("a\nb", "s3cret"), "username"),
            (password(&"a".repeat(257), "s3cret"), "username"),
            (password("bot", ""), "password"),
            (password("bot", "s3cret\r\nHost: x"), "password"),
            (password("bot", &long), "password"),
            (Credentials::IdentityToken(String::new()), "identity_token"),
            (Credentials::IdentityToken(long.clone()), "identity_token"),
        ] {
            let told = bad.check().unwrap_err().to_string();
            assert!(told.starts_with(field) && told.contains("must"), "{told}");
            assert!(!told.contains("s3cret"), "{told}");
            assert!(!format!("{bad:?}").contains("s3cret"));
        }
        password("žluť bot", "pass: word").check().unwrap();
        let many = RegistrySettings {
            mirrors: vec!["a.example".parse().unwrap(); Mirror::MOST + 1],
            ..RegistrySettings::default()
        };
        let told = many.check().unwrap_err().to_string();
        assert!(told.contains("mirrors"), "{told}");
    }
}
