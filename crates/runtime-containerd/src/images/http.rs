//! The HTTP client of all pulls. It follows redirects itself, so that each is judged before it is sent
//! and none carries a sign-in to another host.

use super::authorities::Authorities;
use super::config::RegistryConfig;
use super::hosts::HostPattern;
use super::pace::Reading;
use super::reach::{Reach, Refused, Way, authority};
use super::retry::Fault;
use crate::op::Op;
use botstead_runtime::{ErrorKind, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use std::time::Duration;

const MAX_REDIRECTS: usize = 5;

/// The clients for hosts that may be anywhere and for all others.
#[derive(Debug)]
struct Clients {
    open: Client,
    guarded: Client,
}

/// All clients, by the certificate authorities that they trust.
#[derive(Debug)]
pub(super) struct Http {
    reach: Reach,
    usual: Clients,
    /// Without clients of their own: the usual ones.
    special: Vec<(HostPattern, Option<Clients>)>,
    read_timeout: Duration,
}

impl Http {
    /// With what is set for hosts, in the place of what is configured for the same: their certificate
    /// authorities, or none.
    pub(super) fn new(
        config: &RegistryConfig,
        set: &[(HostPattern, Option<Authorities>)],
    ) -> Result<Self> {
        let reach = Reach::new(config);
        let of_all: Vec<_> = config
            .authorities
            .iter()
            .flat_map(Authorities::certificates)
            .collect();
        let client = || {
            Client::builder()
                .user_agent(concat!("botstead/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.connect_timeout)
                .read_timeout(config.read_timeout)
                .redirect(Policy::none())
                .referer(false)
                .tls_certs_merge(of_all.clone())
        };
        let built = |client: reqwest::Result<Client>| {
            client.map_err(|error| {
                Op::new("set up", "the HTTP client").fail_with(
                    ErrorKind::Internal,
                    "TLS or the resolver cannot be set up",
                    error,
                )
            })
        };
        let clients = |more: Option<&Authorities>| {
            let client = || {
                let more = more.into_iter().flat_map(Authorities::certificates);
                client().tls_certs_merge(more)
            };
            Ok(Clients {
                open: built(client().dns_resolver(reach.anywhere()).build())?,
                guarded: built(client().dns_resolver(reach.resolver()).build())?,
            })
        };
        let set = set.iter().map(|(host, more)| (host, more.as_ref()));
        let configured = config.authorities_of.iter();
        let special = set.chain(configured.map(|(host, more)| (host, Some(more))));
        let special = special.map(|(host, more)| {
            let own = more.map(|more| clients(Some(more)));
            Ok((host.clone(), own.transpose()?))
        });
        Ok(Self {
            usual: clients(None)?,
            special: special.collect::<Result<_>>()?,
            read_timeout: config.read_timeout,
            reach,
        })
    }

    /// An answer's body, to be read.
    pub(super) fn read(&self, answer: Response) -> Reading {
        Reading::of(answer, self.read_timeout)
    }

    /// The client for a URL, which is judged here.
    fn client(&self, op: &Op, url: &Url) -> Result<&Client, Fault> {
        let way = self.reach.way(url);
        let way = way.map_err(|refused| not_sent(op, refused))?;
        let special = self.special.iter().find(|(host, _)| host.fits(url));
        let own = special.and_then(|(_, clients)| clients.as_ref());
        let clients = own.unwrap_or(&self.usual);
        Ok(match way {
            Way::Open => &clients.open,
            Way::Guarded => &clients.guarded,
        })
    }

    /// Sends a form and follows no redirect: what is in it is for this URL alone.
    pub(super) async fn post(
        &self,
        op: &Op,
        url: &Url,
        form: &[(&str, &str)],
    ) -> Result<Response, Fault> {
        // As in a query (WHATWG URL, application/x-www-form-urlencoded).
        let mut encoded = url.clone();
        encoded.query_pairs_mut().clear().extend_pairs(form);
        let body = encoded.query().unwrap_or_default().to_owned();
        let request = self
            .client(op, url)?
            .post(url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        let sent = request.send().await;
        sent.map_err(|error| broken(op, url, error))
    }

    /// Sends a GET and follows redirects. `authorization` reaches the host and port of `url` alone; the
    /// answer's URL tells who answered.
    pub(super) async fn get(
        &self,
        op: &Op,
        url: &Url,
        headers: &HeaderMap,
        mut authorization: Option<HeaderValue>,
    ) -> Result<Response, Fault> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client(op, &at)?;
            let mut request = client.get(at.clone()).headers(headers.clone());
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request
                .send()
                .await
                .map_err(|error| broken(op, &at, error))?;
            let Some(next) = redirect(op, &response)? else {
                return Ok(response);
            };
            if at.scheme() == "https" && next.scheme() == "http" {
                return Err(not_sent(op, Refused::Downgrade));
            }
            if next.origin() != at.origin() {
                authorization = None;
            }
            at = next;
        }
        Err(not_sent(op, Refused::Redirects))
    }
}

/// Where an answer leads on to, if it does.
fn redirect(op: &Op, response: &Response) -> Result<Option<Url>, Fault> {
    let leads_on = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = response.headers().get(LOCATION).filter(|_| leads_on) else {
        return Ok(None);
    };
    let location = location.to_str().ok();
    let next = location.and_then(|location| response.url().join(location).ok());
    let malformed = || op.corrupt("the registry redirects to something that is not a URL");
    next.map(Some).ok_or_else(|| malformed().into())
}

/// A request that was not sent, for good: the configuration does not allow it.
pub(super) fn not_sent(op: &Op, refused: Refused) -> Fault {
    op.fail(ErrorKind::NotAllowed, refused.to_string()).into()
}

/// Why a request failed, or the reading of its answer; mostly it can succeed later.
pub(super) fn broken(op: &Op, url: &Url, error: reqwest::Error) -> Fault {
    if Refused::of(&error).is_some() {
        return not_sent(op, Refused::Address(authority(url)));
    }
    let reason = if error.is_connect() && url.scheme() == "https" {
        format!(
            "the registry cannot be reached over HTTPS: {}",
            root(&error)
        )
    } else if error.is_connect() {
        format!("the registry cannot be reached: {}", root(&error))
    } else if error.is_timeout() {
        "the registry does not answer".to_owned()
    } else {
        "the connection to the registry broke".to_owned()
    };
    Fault::transient(op.fail_with(ErrorKind::Unavailable, reason, error.without_url()))
}

/// What an error came from in the end, such as a certificate that is not trusted.
fn root(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn why_a_registry_cannot_be_reached_is_said() {
        // A port that nothing has: it was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let url: Url = format!("https://{address}/v2/").parse().unwrap();
        let sent = Client::new().get(url.clone()).send().await;
        let fault = broken(&Op::new("pull", "an image"), &url, sent.unwrap_err());
        let told = fault.error.to_string();
        assert!(told.contains("over HTTPS: Connection refused"), "{told}");
    }
}
