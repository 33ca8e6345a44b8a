//! Talking to a registry (OCI distribution specification, "Pulling"). Every answer is read with a limit.

use super::config::RegistryConfig;
use super::http::Http;
use super::pace::Reading;
use super::retry::{Attempts, Fault};
use super::sign_in::SignIn;
use super::tree::{Document, Documents, MAX_DOCUMENT, Role, check_bytes, digest_of, parse};
use crate::op::Op;
use async_trait::async_trait;
use botstead_runtime::{Credentials, ErrorKind, Result};
use botstead_types::ImageRef;
use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use std::time::Duration;
use tokio::sync::Mutex;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The host at which a registry answers.
pub(super) fn answers_at(registry: &str) -> &str {
    match registry {
        "docker.io" => "index.docker.io",
        host => host,
    }
}

/// One repository of a registry, for the time of one pull.
pub(super) struct Repository<'a> {
    op: &'a Op,
    config: &'a RegistryConfig,
    http: &'a Http,
    image: ImageRef,
    attempts: u32,
    sign_in: SignIn<'a>,
    /// How requests are signed in; none before the first one.
    authorization: Mutex<Option<Option<HeaderValue>>>,
}

impl<'a> Repository<'a> {
    pub(super) fn new(
        op: &'a Op,
        config: &'a RegistryConfig,
        http: &'a Http,
        image: ImageRef,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let unusable = || op.invalid("it is not an image reference");
        let plain = config.is_plain_http(image.registry());
        let scheme = if plain { "http" } else { "https" };
        let host = answers_at(image.registry());
        let registry = format!("{scheme}://{host}/v2/");
        let sign_in = SignIn {
            op,
            http,
            registry: Url::parse(&registry).map_err(|_| unusable())?,
            scope: format!("repository:{}:pull", image.repository()),
            credentials,
            token_services: &config.token_services,
        };
        Ok(Self {
            op,
            config,
            http,
            image,
            attempts: config.attempts,
            sign_in,
            authorization: Mutex::new(None),
        })
    }

    /// The same as a mirror, behind which another one can be asked: it is asked twice at most.
    pub(super) fn into_mirror(self) -> Self {
        Self {
            attempts: self.attempts.min(2),
            ..self
        }
    }

    /// The attempts that it is worth.
    pub(super) fn attempts(&self) -> Attempts {
        Attempts::new(self.config, self.attempts)
    }

    /// The address of something in the repository, such as `blobs/sha256:...`.
    fn url(&self, path: &str) -> Result<Url> {
        let path = format!("{}/{path}", self.image.repository());
        let url = self.sign_in.registry.join(&path);
        url.map_err(|_| self.op.invalid("it is not an image reference"))
    }

    /// The index or manifest that the reference names.
    pub(super) async fn top(&self) -> Result<Document> {
        let named = self.image.digest().or(self.image.tag());
        let named = named.unwrap_or("latest");
        let url = self.url(&format!("manifests/{named}"))?;
        let (bytes, headers) = self
            .retrying(|| self.small(&url, MAX_DOCUMENT, Role::Manifest))
            .await?;
        let digest = digest_of(&bytes);
        if let Some(asked) = self.image.digest() {
            check_bytes(self.op, &bytes, asked)?;
            if let Some(tag) = self.image.tag() {
                self.require_tag(tag).await?;
            }
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
        Document::new(self.op, digest, media_type, bytes)
    }

    /// Beside a digest a tag decides nothing, and may have moved; one that is not there is a mistake.
    async fn require_tag(&self, tag: &str) -> Result<()> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let found = self.retrying(|| self.small(&url, MAX_DOCUMENT, Role::Manifest));
        match found.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.op.fail(
                ErrorKind::NotFound,
                format!("the registry has the digest, and no tag {tag:?}; name the digest alone"),
            )),
            found => found.map(drop),
        }
    }

    /// The registry's authority, which keeps its downloads apart from others'.
    pub(super) fn registry(&self) -> &str {
        self.sign_in.registry.authority()
    }

    /// Begins to read a blob at `offset`. The answer says where it really begins: a registry that
    /// cannot serve ranges begins at 0. `size` is what the manifest says; another length is refused.
    pub(super) async fn blob(
        &self,
        digest: &str,
        offset: u64,
        size: u64,
    ) -> Result<(Reading, u64), Fault> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(&url, &headers).await?;
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
        Ok((self.http.read(response), start))
    }

    /// The next piece of a body; none at its end.
    pub(super) async fn chunk(&self, body: &mut Reading) -> Result<Option<Bytes>, Fault> {
        body.chunk(self.op, &self.sign_in.registry).await
    }

    async fn retrying<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut attempts = self.attempts();
        loop {
            match call().await {
                Ok(done) => return Ok(done),
                Err(fault) => attempts.next(self.op, fault).await?,
            }
        }
    }

    /// Reads a whole answer of at most `limit` bytes.
    async fn small(&self, url: &Url, limit: u64, role: Role) -> Result<(Bytes, HeaderMap), Fault> {
        let mut asked = HeaderMap::new();
        match role {
            Role::Manifest => asked.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES)),
            Role::Config => None,
        };
        let mut body = self.http.read(self.get(url, &asked).await?);
        let headers = body.response().headers().clone();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
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
    async fn get(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Fault> {
        let mut fresh = false;
        loop {
            let authorization = self.authorize(fresh).await?;
            let response = self.http.get(self.op, url, headers, authorization).await?;
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
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.sign_in.refused().into(),
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

    async fn authorize(&self, fresh: bool) -> Result<Option<HeaderValue>, Fault> {
        let mut known = self.authorization.lock().await;
        if let Some(known) = &*known
            && !fresh
        {
            return Ok(known.clone());
        }
        let authorization = self.sign_in.authorization().await?;
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
        let url = self.url(&format!("{kind}/{digest}"))?;
        let (bytes, _) = self.retrying(|| self.small(&url, size, role)).await?;
        Ok(bytes)
    }
}
