//! Permission bits as everybody writes them: octal, as text.

use botstead_types::InvalidValue;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

/// Permission bits, 0 to 0o7777.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Octal(pub(super) u32);

const RULE: &str = "must be octal text from \"0\" to \"7777\", such as \"0755\"";

impl Octal {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let bits = u32::from_str_radix(digits, 8).ok();
        bits.filter(|bits| octal && *bits <= 0o7777)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("mode", text, RULE))
    }
}

impl<'de> Deserialize<'de> for Octal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Octal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("octal text such as \"0755\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Octal, E> {
                Octal::parse(text).map_err(|_| E::custom(format!("{text:?} {RULE}")))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_octal_text() {
        for (text, bits) in [
            ("0755", 0o755),
            ("755", 0o755),
            ("0o644", 0o644),
            ("7777", 0o7777),
            ("0", 0),
        ] {
            assert_eq!(Octal::parse(text), Ok(Octal(bits)), "{text}");
        }
        for bad in ["", "0o", "+7", "10000", "8", "rwx", " 7", "77777777777777"] {
            assert!(Octal::parse(bad).is_err(), "{bad}");
        }
        let number = serde_json::from_str::<Octal>("420")
            .unwrap_err()
            .to_string();
        assert!(number.contains("octal text such as"), "{number}");
    }
}
