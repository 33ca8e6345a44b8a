//! Talking to a registry (OCI distribution specification, "Pulling").
//!
//! `oci-client` does the sign-in. Manifests and blobs are asked for here, because every answer is
//! read with a limit: `oci-client` reads manifests and error texts of any size into memory.

use super::config::RegistryConfig;
use super::retry::{Attempts, Fault};
use super::tree::{Documents, MAX_DOCUMENT, Role, Stored, check_bytes, digest_of, parse};
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{Error, ErrorKind, Result};
use botstead_types::ImageRef;
use bytes::{Bytes, BytesMut};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{ACCEPT, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode};
use std::time::Duration;
use tokio::sync::Mutex;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The HTTP client that all registries share.
pub(super) fn http_client(config: &RegistryConfig) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("botstead/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.read_timeout)
        // A layer's bytes are compared with its digest as they are.
        .redirect(Policy::custom(|attempt| {
            let secure = |url: &reqwest::Url| url.scheme() == "https";
            if attempt.previous().len() > 5 {
                attempt.error("too many redirects")
            } else if attempt.previous().last().is_some_and(secure) && !secure(attempt.url()) {
                attempt.error("a redirect from HTTPS to plain HTTP")
            } else {
                attempt.follow()
            }
        }))
        .build()
        .map_err(|error| {
            Op::new("set up", "the HTTP client").fail_with(
                ErrorKind::Internal,
                "TLS or the resolver cannot be set up",
                error,
            )
        })
}

/// One repository of a registry, for the time of one pull.
pub(super) struct Repository<'a> {
    op: &'a Op,
    config: &'a RegistryConfig,
    http: reqwest::Client,
    reference: Reference,
    base: String,
    sign_in: oci_client::Client,
    credentials: RegistryAuth,
    /// How requests are signed in; none before the first one.
    authorization: Mutex<Option<Authorization>>,
}

#[derive(Clone)]
enum Authorization {
    Anonymous,
    Bearer(String),
    Basic(String, String),
}

impl<'a> Repository<'a> {
    pub(super) fn new(
        op: &'a Op,
        config: &'a RegistryConfig,
        http: reqwest::Client,
        image: &ImageRef,
    ) -> Result<Self> {
        let reference: Reference = image.as_str().parse().map_err(|error| {
            op.fail_with(
                ErrorKind::InvalidArgument,
                "it is not an image reference",
                error,
            )
        })?;
        let registry = reference.resolve_registry().to_owned();
        let plain = config.is_plain_http(image.registry());
        let scheme = if plain { "http" } else { "https" };
        let credentials = match config.credentials.get(image.registry()) {
            Some(named) => RegistryAuth::Basic(named.username.clone(), named.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        let sign_in = oci_client::Client::try_from(ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(config.connect_timeout),
            read_timeout: Some(config.read_timeout),
            ..ClientConfig::default()
        })
        .map_err(|error| op.fail_with(ErrorKind::Internal, "the client failed", error))?;
        Ok(Self {
            op,
            config,
            http,
            base: format!("{scheme}://{registry}/v2/{}", reference.repository()),
            reference,
            sign_in,
            credentials,
            authorization: Mutex::new(None),
        })
    }

    /// The index or manifest that the reference names.
    pub(super) async fn top(&self) -> Result<Stored> {
        let named = self.reference.digest().or(self.reference.tag());
        let named = named.unwrap_or("latest");
        let url = format!("{}/manifests/{named}", self.base);
        let (bytes, headers) = self
            .retrying(|| self.small(&url, MAX_DOCUMENT, Role::Manifest))
            .await?;
        let digest = digest_of(&bytes);
        if let Some(asked) = self.reference.digest() {
            check_bytes(self.op, &bytes, asked)?;
        }
        let promised = headers.get("docker-content-digest");
        if promised.is_some_and(|promised| {
            promised.as_bytes().starts_with(b"sha256:") && promised.as_bytes() != digest.as_bytes()
        }) {
            return Err(self
                .op
                .corrupt("the registry sent another manifest than its digest says"));
        }
        let media_type = parse(self.op, &bytes)?.media_type();
        Ok(Stored {
            digest,
            media_type,
            bytes,
        })
    }

    /// Begins to read a blob at `offset`. The answer says where it really begins: a registry that
    /// cannot serve ranges begins at 0. `size` is what the manifest says; another length is refused.
    pub(super) async fn blob(
        &self,
        digest: &str,
        offset: u64,
        size: u64,
    ) -> Result<(Response, u64), Fault> {
        let url = format!("{}/blobs/{digest}", self.base);
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let response = self
            .get(&url, |request| match &range {
                Some(range) => request.header(RANGE, range),
                None => request,
            })
            .await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT if offset > 0 => offset,
            _ => 0,
        };
        if let Some(length) = response.content_length()
            && length != size - start
        {
            return Err(self
                .op
                .corrupt(format!(
                    "the registry has {length} bytes of the layer {digest} where its manifest says {}",
                    size - start
                ))
                .into());
        }
        Ok((response, start))
    }

    /// Why reading an answer failed; it can succeed later.
    pub(super) fn broken(&self, error: reqwest::Error) -> Fault {
        let reason = if error.is_connect() {
            let hint = if self.base.starts_with("https:") {
                "the registry cannot be reached over HTTPS"
            } else {
                "the registry cannot be reached"
            };
            hint.to_owned()
        } else if error.is_timeout() {
            "the registry does not answer".to_owned()
        } else {
            "the connection to the registry broke".to_owned()
        };
        Fault::transient(
            self.op
                .fail_with(ErrorKind::Unavailable, reason, error.without_url()),
        )
    }

    async fn retrying<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut attempts = Attempts::new(self.config);
        loop {
            match call().await {
                Ok(done) => return Ok(done),
                Err(fault) => attempts.next(self.op, fault).await?,
            }
        }
    }

    /// Reads a whole answer of at most `limit` bytes.
    async fn small(&self, url: &str, limit: u64, role: Role) -> Result<(Bytes, HeaderMap), Fault> {
        let mut response = self
            .get(url, |request| match role {
                Role::Manifest => request.header(ACCEPT, MANIFEST_TYPES),
                Role::Config => request,
            })
            .await?;
        let headers = response.headers().clone();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(self
                    .op
                    .corrupt("the registry sent a manifest or configuration that is too large")
                    .into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes.freeze(), headers))
    }

    /// Sends a request, signing in first, and once more when the sign-in ran out.
    async fn get(
        &self,
        url: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Fault> {
        let mut fresh = false;
        loop {
            let authorization = self.authorize(fresh).await?;
            let request = build(self.http.get(url));
            let request = match authorization {
                Authorization::Anonymous => request,
                Authorization::Bearer(token) => request.bearer_auth(token),
                Authorization::Basic(user, password) => request.basic_auth(user, Some(password)),
            };
            let response = request.send().await.map_err(|error| self.broken(error))?;
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() == StatusCode::UNAUTHORIZED && !fresh {
                fresh = true;
                continue;
            }
            return Err(self.refused(&response));
        }
    }

    /// What an answer other than success means. Its body is not read: it is of any size, and the
    /// status says what callers branch on.
    fn refused(&self, response: &Response) -> Fault {
        let status = response.status();
        let op = self.op;
        match status {
            StatusCode::NOT_FOUND => op
                .fail(ErrorKind::NotFound, "the registry does not have it")
                .into(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.sign_in_wanted().into(),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                self.later(status, response)
            }
            _ if status.is_server_error() => self.later(status, response),
            _ => op
                .fail(
                    ErrorKind::Unavailable,
                    format!("the registry answered {status}"),
                )
                .into(),
        }
    }

    fn later(&self, status: StatusCode, response: &Response) -> Fault {
        let seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Fault {
            retry_after: seconds.map(Duration::from_secs),
            ..Fault::transient(self.op.fail(
                ErrorKind::Unavailable,
                format!("the registry answered {status}"),
            ))
        }
    }

    fn sign_in_wanted(&self) -> Error {
        let reason = match self.credentials {
            RegistryAuth::Anonymous => "the registry wants a sign-in, or does not have it",
            _ => "the registry refused the sign-in, or access to this image",
        };
        self.op.fail(ErrorKind::PermissionDenied, reason)
    }

    async fn authorize(&self, fresh: bool) -> Result<Authorization, Fault> {
        let mut known = self.authorization.lock().await;
        if let Some(known) = &*known
            && !fresh
        {
            return Ok(known.clone());
        }
        let token = self
            .sign_in
            .auth(&self.reference, &self.credentials, RegistryOperation::Pull)
            .await
            .map_err(|error| match error {
                OciDistributionError::RequestError(error) => self.broken(error),
                OciDistributionError::AuthenticationFailure(_) => self.sign_in_wanted().into(),
                error => self
                    .op
                    .fail_with(ErrorKind::Unavailable, "the sign-in failed", error)
                    .into(),
            })?;
        let authorization = match (token, &self.credentials) {
            (Some(token), _) => Authorization::Bearer(token),
            (None, RegistryAuth::Basic(user, password)) => {
                Authorization::Basic(user.clone(), password.clone())
            }
            (None, _) => Authorization::Anonymous,
        };
        *known = Some(authorization.clone());
        Ok(authorization)
    }
}

#[async_trait]
impl Documents for Repository<'_> {
    async fn document(&self, digest: &str, size: u64, role: Role) -> Result<Bytes> {
        let kind = match role {
            Role::Manifest => "manifests",
            Role::Config => "blobs",
        };
        let url = format!("{}/{kind}/{digest}", self.base);
        let (bytes, _) = self.retrying(|| self.small(&url, size, role)).await?;
        Ok(bytes)
    }
}
