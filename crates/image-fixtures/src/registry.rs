//! The real registry: Debian's `docker-registry` on a free loopback port, perhaps with sign-in and TLS.

use crate::{Authority, Image, Index};
use bytes::Bytes;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, StatusCode, header};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a registry may take to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The user, as `htpasswd -B` writes it.
const USERS: &str = "bot:$2b$04$abcdefghijklmnopqrstuuBAengQJ/OjVsZd5I/lIf/IsSdfp6Xj6\n";

/// A running registry with its storage in a temporary directory. It ends, and its storage goes, when this
/// is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    scheme: &'static str,
    client: Client,
    _dir: TempDir,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access<'a> {
    /// Only by [`Registry::USERNAME`] with [`Registry::PASSWORD`].
    pub sign_in: bool,
    /// Over HTTPS, with a certificate of this authority for 127.0.0.1.
    pub authority: Option<&'a Authority>,
}

/// What can be pushed under a tag: an image or an index with its images.
#[derive(Debug, Clone, Copy)]
pub enum Tagged<'a> {
    /// One image for one platform.
    Image(&'a Image),
    /// Images for several platforms.
    Index(&'a Index),
}

impl<'a> From<&'a Image> for Tagged<'a> {
    fn from(image: &'a Image) -> Self {
        Self::Image(image)
    }
}

impl<'a> From<&'a Index> for Tagged<'a> {
    fn from(index: &'a Index) -> Self {
        Self::Index(index)
    }
}

impl Registry {
    /// Who may use a registry that wants a sign-in.
    pub const USERNAME: &str = "bot";
    /// That user's password.
    pub const PASSWORD: &str = "pass-of-the-registry";
    /// Both as `auth` of docker's `config.json`.
    pub const AUTH: &str = "Ym90OnBhc3Mtb2YtdGhlLXJlZ2lzdHJ5";

    /// Starts `docker-registry` (Debian package `docker-registry`) without sign-in over plain HTTP, and
    /// waits until it answers.
    ///
    /// # Errors
    /// When the binary is not installed, or does not answer within 20 seconds.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Access::default())
    }

    /// The same for a registry that is spoken to in another way.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_with(access: Access<'_>) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir()?;
        let (tls, sign_in) = access.write(dir.path())?;
        // Another process can take the port between this choice and the registry's bind: then the
        // registry ends at once, and another port is tried.
        for _ in 0..5 {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let config = dir.path().join("config.yml");
            std::fs::write(
                &config,
                format!(
                    "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
                     storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
                     http:\n  addr: {address}\n{tls}{sign_in}",
                    dir.path().join("data").display()
                ),
            )?;
            let child = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("cannot start docker-registry (apt-get install docker-registry): {error}"),
                    )
                })?;
            let mut registry = ChildGuard(Some(child));
            if registry.answers(address)? {
                return Ok(Self {
                    // Just started, so the guard still holds it.
                    child: registry.0.take().ok_or(io::ErrorKind::NotFound)?,
                    address,
                    scheme: access.authority.map_or("http", |_| "https"),
                    client: access.client()?,
                    _dir: dir,
                });
            }
        }
        Err(io::Error::other("docker-registry does not stay up"))
    }

    /// Its address, such as `127.0.0.1:34567`: the first part of image references.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The reference of an image in it.
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.address)
    }

    /// Pushes an image or an index with its images, and returns its reference. Blobs that the
    /// registry has are not sent again.
    ///
    /// # Errors
    /// When the registry refuses a part.
    pub async fn push<'a>(
        &self,
        name: &str,
        tag: &str,
        what: impl Into<Tagged<'a>>,
    ) -> io::Result<String> {
        let client = &self.client;
        let base = format!("{}://{}/v2/{name}", self.scheme, self.address);
        match what.into() {
            Tagged::Image(image) => push_image(client, &base, tag, image).await?,
            Tagged::Index(index) => {
                for image in &index.images {
                    push_image(client, &base, &image.digest(), image).await?;
                }
                put_manifest(client, &base, tag, index.media_type, &index.bytes).await?;
            }
        }
        Ok(self.reference(name, tag))
    }
}

impl Access<'_> {
    /// Writes what the registry needs, and returns the parts of its configuration for TLS and sign-in.
    fn write(&self, dir: &Path) -> io::Result<(String, String)> {
        let mut parts = (String::new(), String::new());
        if let Some(authority) = self.authority {
            let (certificate, key) = authority.certify("127.0.0.1")?;
            let paths = [dir.join("certificate.pem"), dir.join("key.pem")];
            std::fs::write(&paths[0], certificate)?;
            std::fs::write(&paths[1], key)?;
            let [certificate, key] = paths.each_ref().map(|path| path.display());
            parts.0 = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
        }
        if self.sign_in {
            let users = dir.join("users");
            std::fs::write(&users, USERS)?;
            let users = users.display();
            parts.1 = format!("auth:\n  htpasswd:\n    realm: test\n    path: {users}\n");
        }
        Ok(parts)
    }

    fn client(&self) -> io::Result<Client> {
        let mut client = Client::builder().no_proxy();
        if let Some(authority) = self.authority {
            let pem = authority.pem().as_bytes();
            let certificate = Certificate::from_pem(pem).map_err(io::Error::other)?;
            client = client.tls_certs_merge([certificate]);
        }
        if self.sign_in {
            let signed_in = HeaderValue::from_static("Basic Ym90OnBhc3Mtb2YtdGhlLXJlZ2lzdHJ5");
            client =
                client.default_headers([(header::AUTHORIZATION, signed_in)].into_iter().collect());
        }
        client.build().map_err(io::Error::other)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; waiting takes its zombie away either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a registry that did not come up.
struct ChildGuard(Option<Child>);

impl ChildGuard {
    /// Waits until it answers; `false` when it ended.
    fn answers(&mut self, address: SocketAddr) -> io::Result<bool> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(child) = &mut self.0
                && child.try_wait()?.is_some()
            {
                return Ok(false);
            }
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "docker-registry does not answer",
        ))
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn push_image(client: &Client, base: &str, tag: &str, image: &Image) -> io::Result<()> {
    for layer in &image.layers {
        put_blob(client, base, &layer.digest, &layer.blob).await?;
    }
    put_blob(client, base, &image.config_digest(), &image.config).await?;
    put_manifest(client, base, tag, image.media_type, &image.manifest).await
}

/// OCI distribution specification, "Pushing a blob monolithically": POST then PUT.
async fn put_blob(client: &Client, base: &str, digest: &str, blob: &Bytes) -> io::Result<()> {
    let there = client
        .head(format!("{base}/blobs/{digest}"))
        .send()
        .await
        .map_err(io::Error::other)?;
    if there.status().is_success() {
        return Ok(());
    }
    let upload = client
        .post(format!("{base}/blobs/uploads/"))
        .send()
        .await
        .map_err(io::Error::other)?;
    expect(&upload, StatusCode::ACCEPTED)?;
    let location = upload
        .headers()
        .get(header::LOCATION)
        .and_then(|location| location.to_str().ok())
        .ok_or_else(|| io::Error::other("the registry names no upload location"))?;
    let mut location = upload.url().join(location).map_err(io::Error::other)?;
    location.query_pairs_mut().append_pair("digest", digest);
    let done = client
        .put(location)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(blob.clone())
        .send()
        .await
        .map_err(io::Error::other)?;
    expect(&done, StatusCode::CREATED)
}

async fn put_manifest(
    client: &Client,
    base: &str,
    tag: &str,
    media_type: &str,
    bytes: &Bytes,
) -> io::Result<()> {
    let done = client
        .put(format!("{base}/manifests/{tag}"))
        .header(header::CONTENT_TYPE, media_type)
        .body(bytes.clone())
        .send()
        .await
        .map_err(io::Error::other)?;
    expect(&done, StatusCode::CREATED)
}

fn expect(response: &reqwest::Response, status: StatusCode) -> io::Result<()> {
    if response.status() == status {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the registry answered {} to {}",
        response.status(),
        response.url()
    )))
}
