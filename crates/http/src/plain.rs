//! JSON in which no key means anything to the library that reads it.
//!
//! serde_json takes an object whose first key is one of its own for something else, a `RawValue` for what
//! its text says, wherever a program of which it is a part asks for that feature. What is in that text has
//! passed no bound: neither of nesting nor of memory.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// How the library's own keys begin.
const OWN: &str = "$serde_json::private::";

/// Any value, looked through and not kept.
pub(crate) struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Plain, A::Error> {
        while items.next_element::<Plain>()?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Plain, A::Error> {
        while let Some(Key(is_own)) = entries.next_key()? {
            if is_own {
                entries.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format_args!(
                    "a key must not begin with `{OWN}`"
                )));
            }
            entries.next_value::<Plain>()?;
        }
        Ok(Plain)
    }
}

/// A key: whether it is one of the library's own.
struct Key(bool);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LookAtKey;
        impl Visitor<'_> for LookAtKey {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key.starts_with(OWN)))
            }
        }
        deserializer.deserialize_str(LookAtKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_library_are_refused_wherever_and_however_they_stand() {
        for plain in [
            "1",
            "-1.5e3",
            "null",
            "true",
            r#""$serde_json::private::RawValue""#,
            r#"[{"a":[{"b":{}}]},"$serde_json::private::RawValue"]"#,
            r#"{"$serde":1,"x$serde_json::private::RawValue":2}"#,
        ] {
            serde_json::from_str::<Plain>(plain).unwrap_or_else(|error| panic!("{plain}: {error}"));
        }
        for own in [
            r#"{"$serde_json::private::RawValue":"[]"}"#,
            r#"[0,{"a":1,"$serde_json::private::Number":"1"}]"#,
            r#"{"a":{"b":[{"\u0024serde_json::private::RawValue":1}]}}"#,
        ] {
            let error = serde_json::from_str::<Plain>(own).err();
            let error = error.expect(own).to_string();
            assert!(error.contains("a key must not begin"), "{error}");
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(serde_json::from_str::<Plain>(&deep).is_err());
    }
}
