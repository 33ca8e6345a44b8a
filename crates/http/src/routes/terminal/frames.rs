//! The text frames of a terminal's WebSocket: JSON both ways.

use crate::plain::Plain;
use botstead_workspace::TerminalSize;
use serde::Serialize;
use serde_json::{Map, Value};

/// What a client says in a text frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientFrame {
    /// The terminal has another size.
    Resize(TerminalSize),
    /// Something of a newer client, to be passed over.
    Unknown,
}

/// A text frame that is none: JSON with a `type` was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadFrame;

/// Reads a client's text frame. A size outside of what terminals have is brought within it.
///
/// # Errors
/// When it is no JSON object with a `type`, or a `resize` without a size.
pub(super) fn decode(text: &[u8]) -> Result<ClientFrame, BadFrame> {
    let _: Plain = serde_json::from_slice(text).map_err(|_| BadFrame)?;
    let frame: Map<String, Value> = serde_json::from_slice(text).map_err(|_| BadFrame)?;
    if frame.get("type").and_then(Value::as_str).ok_or(BadFrame)? != "resize" {
        return Ok(ClientFrame::Unknown);
    }
    let number = |key, most: u32| {
        let number = frame.get(key).and_then(Value::as_u64).ok_or(BadFrame)?;
        Ok(u32::try_from(number).unwrap_or(most).clamp(1, most))
    };
    let size = TerminalSize::new(number("cols", 1000)?, number("rows", 500)?);
    size.map(ClientFrame::Resize).map_err(|_| BadFrame)
}

/// What the server says in a text frame.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ServerFrame<'a> {
    /// The terminal's id.
    Session { id: &'a str },
    /// The terminal has another size than the client said, or was told last.
    Resize { cols: u32, rows: u32 },
    /// So many bytes that the client sent were not passed on.
    InputRefused { bytes: u64 },
    /// The shell ended.
    Exit { code: u32 },
}

impl ServerFrame<'_> {
    pub(super) fn encode(&self) -> String {
        // Strings and numbers always are JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What fuzzing runs: `decode` with the rules that must hold for whatever a client sends.
///
/// # Panics
/// When a rule is broken.
pub fn fuzz(data: &[u8]) {
    let Ok(frame) = decode(data) else {
        return;
    };
    // What is accepted is JSON, and written anew it means the same.
    let value: Value = serde_json::from_slice(data).expect("JSON");
    assert_eq!(decode(value.to_string().as_bytes()), Ok(frame));
    let is_resize = matches!(frame, ClientFrame::Resize(_));
    assert_eq!(value["type"] == "resize", is_resize);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_frame_breaks_a_rule(
            frame in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                r#"\{"type":"(resize|x|)"(,"(cols|rows|type)":(-?[0-9]{0,12}|"a"|null|\[1\])){0,4}\}?"#
                    .prop_map(String::into_bytes),
            ],
        ) {
            fuzz(&frame);
        }

        #[test]
        fn sizes_are_brought_within_their_bounds(cols: u64, rows: u64) {
            let within = |value: u64, most| value.clamp(1, most) as u32;
            let size = TerminalSize::new(within(cols, 1000), within(rows, 500)).unwrap();
            let text = format!(r#"{{"type":"resize","cols":{cols},"rows":{rows}}}"#);
            prop_assert_eq!(decode(text.as_bytes()), Ok(ClientFrame::Resize(size)));
        }
    }

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
        assert_eq!(
            ServerFrame::InputRefused { bytes: 1 << 20 }.encode(),
            r#"{"type":"input_refused","bytes":1048576}"#
        );
    }
}
