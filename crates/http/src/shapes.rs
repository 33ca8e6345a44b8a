//! Shapes that several resources share.

use crate::HttpConfig;
use crate::budget::Budget;
use crate::context::RequestId;
use crate::extract::PageQuery;
use crate::problem::Problem;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use botstead_types::{InvalidValue, Limits, Page};
use botstead_workspace::LayerProgress;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    /// Whether items were left out because there are too many for a reply; absent otherwise.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    pub(crate) truncated: bool,
}

/// For fields that are absent where they say nothing.
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

impl<T: Serialize> List<T> {
    /// A list without pages, as much of it as fits into a reply. `more` says that some was left out
    /// before.
    pub(crate) fn fitting(
        items: impl IntoIterator<Item = T>,
        more: bool,
        config: &HttpConfig,
    ) -> Self {
        let (items, cut) = Budget::new(config.max_reply_bytes).fit(items);
        Self {
            items,
            next_cursor: None,
            truncated: more || cut,
        }
    }
}

/// The cursor of a page, from the key of its last item.
pub(crate) fn to_cursor(key: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// The key that a page goes on after, by its cursor; none for the first page.
pub(crate) fn from_cursor(cursor: Option<&str>) -> Result<Option<Vec<u8>>, InvalidValue> {
    let cursor = cursor.filter(|cursor| !cursor.is_empty());
    cursor
        .map(|cursor| {
            URL_SAFE_NO_PAD
                .decode(cursor)
                .map_err(|_| no_cursor(cursor))
        })
        .transpose()
}

/// The same for a key that was written as JSON.
pub(crate) fn key_of_cursor<K: DeserializeOwned>(
    cursor: Option<&str>,
) -> Result<Option<K>, InvalidValue> {
    let key = from_cursor(cursor)?.map(|key| serde_json::from_slice(&key));
    key.transpose()
        .map_err(|_| no_cursor(cursor.unwrap_or_default()))
}

fn no_cursor(given: &str) -> InvalidValue {
    let rule = "must be the `next_cursor` of a page of this list";
    InvalidValue::new("cursor", given, rule)
}

/// The page of a list that follows a cursor: as many items as were asked for and fit into a reply,
/// and one in any case, so that a list can be read to its end.
pub(crate) struct Paged<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<String>,
}

impl<T: Serialize> Paged<T> {
    /// The list is sorted by `key`; a cursor is the key of the last item before the page, so that
    /// it stands when items come and go.
    pub(crate) fn of<I, K: Ord + Serialize + DeserializeOwned>(
        all: impl IntoIterator<Item = I>,
        key: impl Fn(&I) -> K,
        shape: impl Fn(I) -> T,
        page: &PageQuery,
        config: &HttpConfig,
    ) -> Result<Self, Problem> {
        let limit = page.limit()?.unwrap_or(usize::MAX);
        let after: Option<K> = key_of_cursor(page.cursor())?;
        let mut budget = Budget::new(config.max_reply_bytes);
        let (mut items, mut last) = (Vec::new(), None);
        let rest = all.into_iter().map(|item| (key(&item), item));
        let rest = rest.filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        let mut rest: Vec<_> = rest.collect();
        rest.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (key, item) in rest {
            let item = shape(item);
            let fits = budget.take(&item) || items.is_empty();
            if items.len() == limit || !fits {
                let last = last.map(|key| serde_json::to_vec(&key)).transpose();
                let last = last.map_err(Problem::internal)?;
                return Ok(Self {
                    items,
                    next_cursor: last.map(to_cursor),
                });
            }
            items.push(item);
            last = Some(key);
        }
        Ok(Self {
            items,
            next_cursor: None,
        })
    }
}

impl<T> From<Paged<T>> for List<T> {
    fn from(page: Paged<T>) -> Self {
        Self {
            items: page.items,
            truncated: page.next_cursor.is_some(),
            next_cursor: page.next_cursor,
        }
    }
}

impl<T> From<Page<T>> for List<T> {
    fn from(page: Page<T>) -> Self {
        Self {
            items: page.items,
            next_cursor: page.next_cursor,
            truncated: false,
        }
    }
}

/// How far one layer of an image is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Layer {
    /// The layer's digest.
    #[serde(rename = "ref")]
    digest: String,
    /// Bytes that are here already, at most `total`.
    offset: u64,
    /// The layer's size in bytes.
    total: u64,
}

impl From<&LayerProgress> for Layer {
    fn from(layer: &LayerProgress) -> Self {
        Self {
            digest: layer.digest.clone(),
            offset: layer.offset,
            total: layer.total,
        }
    }
}

/// The last event of a stream that failed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename = "error")]
pub(crate) struct StreamError {
    /// What is wrong, in words for a person.
    message: String,
    /// A stable machine word.
    code: String,
    /// The id under which the server's log has more.
    request_id: String,
}

impl StreamError {
    /// The event that tells of a problem.
    pub(crate) fn new(problem: &Problem, id: &RequestId) -> Self {
        Self {
            message: problem.detail().to_owned(),
            code: problem.code().to_owned(),
            request_id: id.0.clone(),
        }
    }
}

/// What a workspace may use. An absent field means the server's default, 0 no limit, which is refused
/// where the server has a maximum.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Limits)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsShape {
    /// Memory in bytes, page cache included; at least 16777216.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// Processes and threads; at least 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pids: Option<u64>,
    /// Processor time in thousandths of a core; at least 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_millis: Option<u64>,
}

impl LimitsShape {
    /// The limits, unless no workspace can start under them.
    pub(crate) fn check(self) -> Result<Limits, InvalidValue> {
        let limits = Limits {
            memory_bytes: self.memory_bytes,
            pids: self.pids,
            cpu_millis: self.cpu_millis,
        };
        limits.check()?;
        Ok(limits)
    }
}

impl From<Limits> for LimitsShape {
    fn from(limits: Limits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            cpu_millis: limits.cpu_millis,
        }
    }
}

/// The word of an enumeration's value.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_can_be_read_to_its_end_whatever_its_items_take() {
        let config = HttpConfig {
            max_reply_bytes: 8,
            ..HttpConfig::default()
        };
        let all = ["a", "b", "an item that is larger than a reply", "c"];
        let mut read = Vec::new();
        let mut cursor = None;
        loop {
            let query = format!("cursor={}", cursor.unwrap_or_default());
            let page: PageQuery = serde_urlencoded::from_str(&query).unwrap();
            let rank = |item: &&str| all.iter().position(|it| it == item);
            // In whatever order they come.
            let backwards = all.into_iter().rev();
            let page = Paged::of(backwards, rank, |item| item, &page, &config).unwrap();
            read.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(read, all);
    }
}
