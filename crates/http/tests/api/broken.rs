//! Archives that fail on their way: every program notices, and the connection goes on.

use crate::support::Api;
use botstead_runtime_testing::ImageContent;
use bytes::Bytes;
use rand::RngCore;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

const PATIENCE: Duration = Duration::from_secs(30);

/// A connection whose replies are read by hand.
pub(crate) struct Raw(BufReader<TcpStream>);

impl Raw {
    pub(crate) async fn connect(api: &Api) -> Self {
        let address = api.base.strip_prefix("http://").unwrap().parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // So that an archive waits for whoever reads it.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        Self(BufReader::new(socket.connect(address).await.unwrap()))
    }

    pub(crate) async fn ask(&mut self, api: &Api, method: &str, path: &str) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-length: 0\r\n\r\n",
            api.member
        );
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await;
        assert_ne!(read.unwrap().unwrap(), 0, "the connection was cut");
        line.trim_end().to_owned()
    }

    /// Status and headers.
    pub(crate) async fn head(&mut self) -> (u16, Vec<String>) {
        let status = self
            .line()
            .await
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            match self.line().await {
                line if line.is_empty() => return (status, headers),
                line => headers.push(line.to_lowercase()),
            }
        }
    }

    /// So many bytes.
    pub(crate) async fn text(&mut self, length: usize) -> String {
        let mut text = vec![0; length];
        let read = self.0.read_exact(&mut text);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    /// A chunked body up to the chunk that ends it.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line().await, 16).unwrap();
            let begin = body.len();
            body.resize(begin + length, 0);
            let read = self.0.read_exact(&mut body[begin..]);
            tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
            assert_eq!(self.line().await, "");
            if length == 0 {
                return body;
            }
        }
    }
}

/// That nothing here takes a file for an archive.
pub(crate) fn check_nobody_takes(file: &Path, packing: &str) {
    let name = file.to_str().unwrap();
    let python = "import sys, tarfile; tarfile.open(sys.argv[1]).getnames()";
    let mut programs = vec![vec!["tar", packing, "-tf", name], vec!["tar", "-tf", name]];
    // Python's knows no zstd, and says so of any.
    if packing == "--gzip" {
        programs.push(vec!["python3", "-c", python, name]);
    }
    if Command::new("bsdtar").arg("--version").output().is_ok() {
        programs.push(vec!["bsdtar", "-tf", name]);
    }
    for program in programs {
        let output = Command::new(program[0]).args(&program[1..]).output();
        assert!(!output.unwrap().status.success(), "{program:?} takes it");
    }
}

/// Where somebody has a file of this name open.
async fn opened(name: &str) -> PathBuf {
    let begun = Instant::now();
    loop {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let mut open = all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        if let Some(found) = open.find(|path| path.ends_with(name)) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody has {name} open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_fails_in_the_middle_is_no_archive_and_its_connection_goes_on() {
    let api = Api::start().await;
    // More than what sockets hold, and not to be compressed.
    let mut noise = vec![0; 24 << 20];
    rand::rng().fill_bytes(&mut noise);
    let noise = Bytes::from(noise);
    for (format, packing) in [("tar.gz", "--gzip"), ("tar.zst", "--zstd")] {
        let big = format!("noise-{format}");
        let layer = BTreeMap::from([
            (format!("data/{big}"), Some(noise.clone())),
            ("data/later/file".to_owned(), Some(Bytes::from_static(b"x"))),
        ]);
        let content = ImageContent {
            layers: vec![layer],
            ..ImageContent::default()
        };
        let image = format!("localhost/noise:{format}");
        api.runtime.add_image(&image.parse().unwrap(), content);
        let bot = api.bot_with(json!({"image": image})).await;
        let mut raw = Raw::connect(&api).await;
        let path = format!("{bot}/container/data/export?format={format}");
        raw.ask(&api, "POST", &path).await;
        let (status, headers) = raw.head().await;
        assert_eq!(status, 200);
        assert!(
            headers
                .iter()
                .any(|line| line == "transfer-encoding: chunked")
        );
        // The folder is listed when the file is open: what goes before that is not missing in the archive.
        let file = opened(&big).await;
        std::fs::remove_dir_all(file.with_file_name("later")).unwrap();
        // How much comes depends on what was still being compressed.
        let archive = raw.body().await;

        // The same connection.
        raw.ask(&api, "GET", &format!("{bot}/container")).await;
        assert_eq!(raw.head().await.0, 200);

        let file = api.directory.path().join(format!("broken.{format}"));
        std::fs::write(&file, &archive).unwrap();
        check_nobody_takes(&file, packing);
        let form = Form::new().part("file", Part::bytes(archive));
        let path = format!("{bot}/container/data/import");
        let import = api
            .request(&api.member, Method::POST, &path)
            .multipart(form);
        let refused = api.send(import).await;
        let refused = refused.expect_problem(422, "archive_refused");
        let words = refused["detail"].as_str().unwrap();
        assert!(words.contains("cut off"), "{words}");
    }
}
