//! Plain words for what a request's text should have been, in place of the names of Rust's types.

/// The known field that is most like the one that a message of serde's calls unknown.
fn meant(message: &str) -> Option<&str> {
    let (given, known) = message
        .strip_prefix("unknown field `")?
        .rsplit_once("`, expected ")?;
    // Every other part is between backquotes.
    let known = known.split('`').skip(1).step_by(2);
    let likeness = known.map(|known| (strsim::jaro_winkler(given, known), known));
    let likely = likeness.filter(|(likeness, _)| *likeness >= 0.75);
    let best = likely.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, known)| known)
}

/// A reader's message in plain words.
pub(crate) fn plain(message: &str) -> String {
    // What the standard library says of numbers in a query.
    match message {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            return "a whole number is expected".to_owned();
        }
        "number too large to fit in target type" => return "the number is too large".to_owned(),
        _ => {}
    }
    if let Some(meant) = meant(message) {
        return format!("{message}; did you mean `{meant}`?");
    }
    // What is expected comes last: in front of it there may be anything that a client sent.
    let Some((given, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let (expected, place) = match expected.find(" at line ") {
        Some(at) => expected.split_at(at),
        None => (expected, ""),
    };
    let expected = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    let given = match given {
        "invalid type: map" => "invalid type: object",
        "invalid type: sequence" => "invalid type: list",
        given => given,
    };
    format!("{given}, expected {expected}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_rust_become_words() {
        for (message, expected) in [
            (
                r#"invalid type: string "x", expected u64 at line 1 column 9"#,
                r#"invalid type: string "x", expected a whole number that is not negative at line 1 column 9"#,
            ),
            (
                "invalid type: sequence, expected struct Limits",
                "invalid type: list, expected an object",
            ),
            (
                r#"invalid type: string ", expected u8", expected a string"#,
                r#"invalid type: string ", expected u8", expected a string"#,
            ),
            ("missing field `name`", "missing field `name`"),
            (
                "unknown field `memory`, expected one of `memory_bytes`, `pids` at line 1 column 2",
                "unknown field `memory`, expected one of `memory_bytes`, `pids` at line 1 column 2; did you \
                 mean `memory_bytes`?",
            ),
            (
                "unknown field `x`, expected `pids`",
                "unknown field `x`, expected `pids`",
            ),
        ] {
            assert_eq!(plain(message), expected);
        }
    }
}
