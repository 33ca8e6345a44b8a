//! Indexes: lists of images, of which one is for this machine. Some entries are no images, such as
//! attestations and signatures, and some are odd: what can be read is taken.

use super::platform;
use oci_spec::image::{Descriptor, MediaType};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt;

/// More entries than this are not looked at.
const MAX_ENTRIES: usize = 1000;

/// An index, with those of its entries that can be read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    media_type: Option<MediaType>,
    manifests: Entries,
}

impl Index {
    /// What it says that it is.
    pub(super) fn media_type(&self) -> &Option<MediaType> {
        &self.media_type
    }

    /// Its entries.
    pub(super) fn entries(&self) -> &[Descriptor] {
        &self.manifests.read
    }

    /// Those that may be for this machine with their places in it, the best first, and so many at most.
    pub(super) fn candidates(&self, most: usize) -> Vec<(usize, Descriptor)> {
        let chosen = platform::candidates(self.entries()).into_iter().take(most);
        let placed = chosen.map(|chosen| {
            let mut entries = self.entries().iter();
            let position = entries.position(|entry| std::ptr::eq(entry, chosen));
            let place = position.map_or(0, |position| self.manifests.places[position]);
            (place, chosen.clone())
        });
        placed.collect()
    }
}

#[derive(Debug, Default)]
struct Entries {
    read: Vec<Descriptor>,
    places: Vec<usize>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of manifests")
            }

            // One after the other: a value is many times as large as its text.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                let mut place = 0;
                while let Some(value) = list.next_element()? {
                    if entries.read.len() < MAX_ENTRIES
                        && let Some(read) = entry(value)
                    {
                        entries.read.push(read);
                        entries.places.push(place);
                    }
                    place += 1;
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_seq(Reading)
    }
}

/// An entry; one whose platform cannot be read counts as one without. None for what is no entry.
fn entry(mut value: Value) -> Option<Descriptor> {
    serde_json::from_value(value.clone()).ok().or_else(|| {
        value.as_object_mut()?.remove("platform")?;
        serde_json::from_value(value).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_can_be_read_is_taken() {
        let good = |hex: &str, platform: Value| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", hex.repeat(64)), "size": 1, "platform": platform,
            })
        };
        let ours = json!({"os": "linux", "architecture": platform::architecture()});
        let text = json!({
            "schemaVersion": 2,
            "manifests": [
                7,
                {},
                {"digest": "sha256:", "size": -1},
                good("a", json!({"os": "linux"})),
                good("b", json!("linux")),
                good("c", Value::Null),
                good("d", json!({"os": "windows", "architecture": "amd64"})),
                good("e", ours),
            ],
        });
        let index: Index = serde_json::from_str(&text.to_string()).unwrap();
        let found: Vec<_> = index
            .candidates(10)
            .into_iter()
            .map(|(place, entry)| (place, entry.digest().to_string()[7..8].to_owned()))
            .collect();
        let expected = [(7, "e"), (3, "a"), (4, "b"), (5, "c")];
        assert_eq!(found, expected.map(|(place, hex)| (place, hex.to_owned())));
        let many = json!({"manifests": vec![good("a", Value::Null); 2000]});
        let index: Index = serde_json::from_value(many).unwrap();
        assert_eq!(index.entries().len(), MAX_ENTRIES);
        assert!(serde_json::from_str::<Index>(r#"{"manifests": {}}"#).is_err());
    }
}
