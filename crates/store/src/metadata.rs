//! What clients keep with a bot.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What clients keep with a bot: a JSON object. It is held as its text: every call to a bot reads it, few
/// look into it, and the values of it can take many times as much memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct Metadata(Box<RawValue>);

impl Metadata {
    /// The object as JSON.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// All of it.
    ///
    /// # Errors
    /// When it is nested too deeply to be read.
    pub fn to_map(&self) -> serde_json::Result<Map<String, Value>> {
        serde_json::from_str(self.text())
    }

    /// All of it after a change of its keys, where `null` removes one.
    ///
    /// # Errors
    /// When it is nested too deeply to be read.
    pub fn changed(&self, keys: &Map<String, Value>) -> serde_json::Result<Map<String, Value>> {
        let mut map = self.to_map()?;
        for (key, value) in keys {
            match value {
                Value::Null => map.remove(key),
                value => map.insert(key.clone(), value.clone()),
            };
        }
        Ok(map)
    }

    /// What it has under `workspace`, `null` for nothing: the workspace's preferences.
    ///
    /// # Errors
    /// When that is nested too deeply to be read.
    pub fn workspace(&self) -> serde_json::Result<Value> {
        #[derive(Deserialize)]
        struct Part {
            #[serde(default)]
            workspace: Value,
        }
        let part: Part = serde_json::from_str(self.text())?;
        Ok(part.workspace)
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self::from(Map::new())
    }
}

impl From<Map<String, Value>> for Metadata {
    fn from(map: Map<String, Value>) -> Self {
        let text = Value::Object(map).to_string();
        Self(RawValue::from_string(text).unwrap_or_else(|_| unreachable!("a value is JSON")))
    }
}

impl TryFrom<Box<RawValue>> for Metadata {
    type Error = &'static str;

    fn try_from(value: Box<RawValue>) -> Result<Self, Self::Error> {
        match value.get().starts_with('{') {
            true => Ok(Self(value)),
            false => Err("an object is expected"),
        }
    }
}

/// Equal as texts.
impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_an_object_and_stays_as_it_is() {
        let text = r#"{"b":{"c":[1,null]},"workspace":{"image":"debian"}}"#;
        let metadata: Metadata = serde_json::from_str(text).unwrap();
        assert_eq!(metadata.text(), text);
        assert_eq!(metadata.workspace().unwrap(), json!({"image": "debian"}));
        assert_eq!(Metadata::from(metadata.to_map().unwrap()), metadata);
        assert_eq!(serde_json::to_string(&metadata).unwrap(), text);
        assert_eq!(Metadata::default().text(), "{}");
        assert_eq!(Metadata::default().workspace().unwrap(), Value::Null);
        let deep = format!("{{\"workspace\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let deep: Metadata = serde_json::from_str(&deep).unwrap();
        assert!(deep.to_map().is_err() && deep.workspace().is_err());
        for other in ["[]", "null", "1", "{", ""] {
            assert!(serde_json::from_str::<Metadata>(other).is_err(), "{other}");
        }
    }
}
