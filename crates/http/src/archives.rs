//! Archives on their way to a client, and the end of one that is not whole.
//!
//! HTTP/1.1 has trailers to say so, which the framework does not send; a connection that is cut says so too,
//! and takes the requests behind it along. So the reply ends as any other, and what was sent ends within what
//! packs the archive: no program takes that for complete, whatever it unpacks it with (ADR 0026).

use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::convert::Infallible;
use std::fmt::Display;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/gzip",
            Self::Zstd => "application/zstd",
        }
    }

    /// The beginning of packed data, and then a block of the type that is reserved: RFC 1952, section 2.3,
    /// and RFC 1951, section 3.2.3; RFC 8878, sections 3.1.1 and 3.1.1.2. An empty reply would be an empty
    /// archive to some programs.
    fn broken(self) -> &'static [u8] {
        match self {
            Self::Gzip => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0b111],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0b111, 0, 0],
        }
    }
}

/// Replies with an archive, packed as it comes.
pub(crate) fn send<E: Display + 'static>(
    reply: &mut HttpResponseBuilder,
    packing: Packing,
    archive: impl Stream<Item = Result<Bytes, E>> + 'static,
) -> HttpResponse {
    reply
        .content_type(packing.media_type())
        .streaming(visibly_broken(packing, archive).map(Ok::<_, Infallible>))
}

/// The archive; where it fails, without its end. The last piece waits for what comes after it: an archive may
/// fail when all of it is written.
fn visibly_broken<E: Display>(
    packing: Packing,
    archive: impl Stream<Item = Result<Bytes, E>>,
) -> impl Stream<Item = Bytes> {
    async_stream::stream! {
        let mut archive = std::pin::pin!(archive);
        let mut held: Option<Bytes> = None;
        let mut sent = 0_u64;
        while let Some(piece) = archive.next().await {
            match piece {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => {
                    if let Some(before) = held.replace(piece) {
                        sent += before.len() as u64;
                        yield before;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, sent, "an archive ends before it is whole");
                    held = (sent == 0).then(|| Bytes::from_static(packing.broken()));
                    break;
                }
            }
        }
        if let Some(last) = held {
            yield last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    async fn sent(packing: Packing, pieces: Vec<Result<&'static [u8], &'static str>>) -> Vec<u8> {
        let pieces = pieces
            .into_iter()
            .map(|piece| piece.map(Bytes::from_static));
        let sent: Vec<Bytes> = visibly_broken(packing, futures_util::stream::iter(pieces))
            .collect()
            .await;
        sent.concat()
    }

    /// Whether a program takes this on its input.
    fn takes(program: &[&str], input: &[u8]) -> bool {
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program[0]));
        // One that refuses may not read all of it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait().unwrap().success()
    }

    #[tokio::test]
    async fn a_whole_one_is_sent_as_it_is_and_a_failed_one_without_its_end() {
        for packing in [Packing::Gzip, Packing::Zstd] {
            let whole = sent(packing, vec![Ok(b"a"), Ok(b""), Ok(b"b"), Ok(b"c")]).await;
            assert_eq!(whole, b"abc");
            assert_eq!(sent(packing, vec![]).await, b"");
            let failed = sent(packing, vec![Ok(b"a"), Ok(b"b"), Ok(b"c"), Err("x")]).await;
            assert_eq!(failed, b"ab");
            for pieces in [vec![Err("x")], vec![Ok(&b"all"[..]), Err("x")]] {
                assert_eq!(sent(packing, pieces).await, packing.broken());
            }
        }
    }

    #[test]
    fn nothing_but_a_failure_is_no_empty_archive() {
        let gzip = Packing::Gzip.broken();
        assert!(!takes(&["gzip", "-t"], gzip));
        assert!(!takes(&["tar", "-tzf", "-"], gzip));
        let zstd = Packing::Zstd.broken();
        assert!(!takes(&["zstd", "-tq"], zstd));
        assert!(!takes(&["tar", "--zstd", "-tf", "-"], zstd));
        let python =
            "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|*').getnames()";
        for broken in [gzip, zstd] {
            assert!(!takes(&["python3", "-c", python], broken));
        }
    }
}
