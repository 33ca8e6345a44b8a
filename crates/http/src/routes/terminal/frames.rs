//! The text frames of a terminal's WebSocket: JSON both ways.

use botstead_workspace::TerminalSize;
use serde::{Deserialize, Serialize};

/// What a client says in a text frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFrame {
    /// The terminal has another size.
    Resize(TerminalSize),
    /// Something of a newer client, to be passed over.
    Unknown,
}

/// A text frame that is none: JSON with a `type` was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFrame;

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Resize {
    cols: u32,
    rows: u32,
}

/// Reads a client's text frame. A size outside of what terminals have is brought within it.
///
/// # Errors
/// When it is no JSON object with a `type`, or a `resize` without a size.
pub fn decode(text: &[u8]) -> Result<ClientFrame, BadFrame> {
    let tag: Tag = serde_json::from_slice(text).map_err(|_| BadFrame)?;
    if tag.kind != "resize" {
        return Ok(ClientFrame::Unknown);
    }
    let size: Resize = serde_json::from_slice(text).map_err(|_| BadFrame)?;
    let size = TerminalSize::new(size.cols.clamp(1, 1000), size.rows.clamp(1, 500));
    size.map(ClientFrame::Resize).map_err(|_| BadFrame)
}

/// What the server says in a text frame.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ServerFrame<'a> {
    /// The terminal's id.
    Session { id: &'a str },
    /// The shell ended.
    Exit { code: u32 },
}

impl ServerFrame<'_> {
    pub(super) fn encode(&self) -> String {
        // Strings and numbers always are JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read() {
        let resize = |cols, rows| Ok(ClientFrame::Resize(TerminalSize::new(cols, rows).unwrap()));
        for (text, expected) in [
            (r#"{"type":"resize","cols":120,"rows":40}"#, resize(120, 40)),
            (
                r#"{"type":"resize","cols":0,"rows":99999,"x":1}"#,
                resize(1, 500),
            ),
            (r#"{"type":"later"}"#, Ok(ClientFrame::Unknown)),
            (r#"{"type":"resize","cols":-1,"rows":2}"#, Err(BadFrame)),
            (r#"{"type":"resize"}"#, Err(BadFrame)),
            (r#"{"cols":1}"#, Err(BadFrame)),
            ("ls\n", Err(BadFrame)),
            ("", Err(BadFrame)),
        ] {
            assert_eq!(decode(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn frames_are_written() {
        let session = ServerFrame::Session { id: "a" }.encode();
        assert_eq!(session, r#"{"type":"session","id":"a"}"#);
        assert_eq!(
            ServerFrame::Exit { code: 7 }.encode(),
            r#"{"type":"exit","code":7}"#
        );
    }
}
