//! Signing in at a registry (the Docker registry's token authentication, and RFC 7617).
//!
//! A registry names its token service itself, so a hostile one could name a service that gives tokens to
//! whoever can reach it, and would then be sent that token. So a token goes to a registry only from a
//! service of the registry's own domain, or from one that the operator listed; and a user's sign-in goes
//! to the registry that it is for, and to such a service.

use super::hosts::{HostPattern, same_domain};
use super::http::{Http, not_sent};
use super::reach::{Refused, authority};
use super::retry::Fault;
use crate::op::Op;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use botstead_runtime::{Credentials, ErrorKind};
use bytes::BytesMut;
use http_auth::ChallengeRef;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

/// A token service's answer has a token of some kilobytes.
const MAX_ANSWER: usize = 256 << 10;

/// Somebody who signs in at one registry.
pub(super) struct SignIn<'a> {
    pub(super) op: &'a Op,
    pub(super) http: &'a Http,
    /// `https://registry/v2/`.
    pub(super) registry: Url,
    /// What is asked for, such as `repository:library/debian:pull`.
    pub(super) scope: String,
    pub(super) credentials: Option<Credentials>,
    pub(super) token_services: &'a [HostPattern],
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Password,
    Token {
        realm: String,
        service: Option<String>,
    },
}

impl SignIn<'_> {
    /// The header that requests to the registry carry, if any.
    pub(super) async fn authorization(&self) -> Result<Option<HeaderValue>, Fault> {
        let none = HeaderMap::new();
        let asked = self.http.get(self.op, &self.registry, &none, None).await?;
        match wanted(asked.headers()) {
            Wanted::Nothing => Ok(None),
            Wanted::Password => self.basic(),
            Wanted::Token { realm, service } => self.token(&realm, service.as_deref()).await,
        }
    }

    /// The sign-in itself as a header.
    fn basic(&self) -> Result<Option<HeaderValue>, Fault> {
        let (username, password) = match &self.credentials {
            None => return Ok(None),
            Some(Credentials::Password { username, password }) => (username, password),
            Some(Credentials::IdentityToken(_)) => {
                let reason =
                    "the registry wants a password, and its sign-in here is an identity token";
                return Err(self.op.fail(ErrorKind::PermissionDenied, reason).into());
            }
        };
        let encoded = BASE64.encode(format!("{username}:{password}"));
        self.secret(&format!("Basic {encoded}")).map(Some)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
    ) -> Result<Option<HeaderValue>, Fault> {
        let malformed = |_| {
            let reason = "the registry names a token service that is not a URL";
            self.op.corrupt(reason)
        };
        let mut url = Url::parse(realm).map_err(malformed)?;
        self.require_trusted(&url)?;
        let mut asked = vec![("scope", self.scope.as_str())];
        asked.extend(service.map(|service| ("service", service)));
        let answer = match &self.credentials {
            // The Docker registry's token authentication with OAuth 2.
            Some(Credentials::IdentityToken(token)) => {
                asked.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "botstead"),
                    ("refresh_token", token.as_str()),
                ]);
                self.http.post(self.op, &url, &asked).await?
            }
            _ => {
                url.query_pairs_mut().extend_pairs(&asked);
                let none = HeaderMap::new();
                self.http.get(self.op, &url, &none, self.basic()?).await?
            }
        };
        // It may have led to another one.
        self.require_trusted(answer.url())?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let reason = format!("the registry's token service answered {status}");
            return Err(Fault::transient(
                self.op.fail(ErrorKind::Unavailable, reason),
            ));
        }
        if !status.is_success() {
            return Err(self.refused().into());
        }
        let token = self.read(answer).await?;
        self.secret(&format!("Bearer {token}")).map(Some)
    }

    /// Refuses a token service that is none of the registry's.
    fn require_trusted(&self, service: &Url) -> Result<(), Fault> {
        let listed = || self.token_services.iter().any(|host| host.fits(service));
        if same_domain(&self.registry, service) || listed() {
            return Ok(());
        }
        let refused = Refused::TokenService(authority(service));
        Err(not_sent(self.op, refused))
    }

    async fn read(&self, answer: Response) -> Result<String, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let url = answer.url().clone();
        let mut bytes = BytesMut::new();
        let mut body = self.http.read(answer);
        while let Some(chunk) = body.chunk(self.op, &url).await? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                let reason = "the registry's token service sent too much";
                return Err(self.op.corrupt(reason).into());
            }
            bytes.extend_from_slice(&chunk);
        }
        let read: Option<Answer> = serde_json::from_slice(&bytes).ok();
        read.and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(|| {
                let reason = "the registry's token service sent no token";
                self.op.corrupt(reason).into()
            })
    }

    fn secret(&self, text: &str) -> Result<HeaderValue, Fault> {
        let mut value = HeaderValue::from_str(text).map_err(|_| {
            let reason = "the sign-in cannot stand in a header";
            self.op.corrupt(reason)
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The failure of whoever is not let in.
    pub(super) fn refused(&self) -> botstead_runtime::Error {
        let reason = match &self.credentials {
            None => "the registry wants a sign-in, or does not have it",
            Some(_) => "the registry refused the sign-in, or access to this image",
        };
        self.op.fail(ErrorKind::PermissionDenied, reason)
    }
}

/// What the challenges of an answer ask for: a token, where that is one of the ways.
fn wanted(headers: &HeaderMap) -> Wanted {
    let mut wanted = Wanted::Nothing;
    for challenge in headers.get_all(WWW_AUTHENTICATE) {
        if wanted == Wanted::Nothing {
            wanted = Wanted::Password;
        }
        let Ok(text) = challenge.to_str() else {
            continue;
        };
        let challenges = http_auth::parse_challenges(text).unwrap_or_default();
        if let Some(token) = challenges.iter().find_map(token_challenge) {
            return token;
        }
    }
    wanted
}

fn token_challenge(challenge: &ChallengeRef<'_>) -> Option<Wanted> {
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameter = |name: &str| {
        let mut parameters = challenge.params.iter();
        let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    Some(Wanted::Token {
        realm: parameter("realm")?,
        service: parameter("service"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_wanted_where_one_of_the_challenges_says_so() {
        let headers = |challenges: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for challenge in challenges {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            headers
        };
        assert_eq!(wanted(&HeaderMap::new()), Wanted::Nothing);
        assert_eq!(wanted(&headers(&["Basic realm=\"x\""])), Wanted::Password);
        assert_eq!(wanted(&headers(&["%%%"])), Wanted::Password);
        let token = Wanted::Token {
            realm: "https://a/token".to_owned(),
            service: Some("a".to_owned()),
        };
        let bearer = "Bearer realm=\"https://a/token\",service=\"a\"";
        assert_eq!(wanted(&headers(&[bearer])), token);
        assert_eq!(wanted(&headers(&["Basic realm=\"x\"", bearer])), token);
    }
}
