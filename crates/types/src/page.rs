//! Pages of lists that can grow.

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// At most this many items, 1 to [`PageRequest::MAX_LIMIT`].
    pub limit: u32,
    /// Where the page before this one ended: the `next_cursor` of that page.
    pub cursor: Option<String>,
}

impl PageRequest {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 100;
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            limit: Self::MAX_LIMIT,
            cursor: None,
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page with every item converted.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(convert).collect(),
            next_cursor: self.next_cursor,
        }
    }
}
