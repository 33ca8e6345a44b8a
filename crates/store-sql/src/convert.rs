//! Between the values of the ports and what the tables hold.

use crate::error::unreadable;
use botstead_store::Result;
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::str::FromStr;

/// A time as microseconds since 1970: the same in every database, and it sorts.
pub(crate) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

/// The time now, in the tables' form.
pub(crate) fn now() -> i64 {
    micros(Utc::now())
}

/// Reads the values of one row; its errors name the row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// What is read, as in `read bot`.
    pub(crate) operation: &'static str,
    /// The row's key.
    pub(crate) key: &'a str,
}

impl Row<'_> {
    pub(crate) fn time(self, micros: i64) -> Result<DateTime<Utc>> {
        DateTime::from_timestamp_micros(micros)
            .ok_or_else(|| unreadable(self.operation, self.key, "a time is out of range"))
    }

    pub(crate) fn text<T>(self, text: &str) -> Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        text.parse()
            .map_err(|error| unreadable(self.operation, self.key, error))
    }

    pub(crate) fn number<T>(self, number: i64) -> Result<T>
    where
        T: TryFrom<i64>,
        T::Error: std::error::Error + Send + Sync + 'static,
    {
        number
            .try_into()
            .map_err(|error| unreadable(self.operation, self.key, error))
    }

    pub(crate) fn json<T: DeserializeOwned>(self, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|error| unreadable(self.operation, self.key, error))
    }

    /// A value that serde writes as a word.
    pub(crate) fn word<T: DeserializeOwned>(self, word: &str) -> Result<T> {
        T::deserialize(serde::de::value::StrDeserializer::<serde_json::Error>::new(
            word,
        ))
        .map_err(|error| unreadable(self.operation, self.key, error))
    }
}

/// A value as JSON text.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| unreadable("write", "JSON column", error))
}

/// The word that serde writes for a value.
pub(crate) fn word(value: &impl Serialize) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => Ok(word),
        Ok(other) => Err(unreadable("write", other, "the value is no word")),
        Err(error) => Err(unreadable("write", "word column", error)),
    }
}
