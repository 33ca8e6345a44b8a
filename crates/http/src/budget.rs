//! How large a reply may get that is built in memory: lists are cut where they would be larger, and
//! say so.

use serde::Serialize;
use std::io;

/// The bytes that are left for a reply's items.
pub(crate) struct Budget {
    bytes: usize,
    left: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes, left: bytes }
    }

    /// The bytes of the items that it has room for already.
    pub(crate) fn taken(&self) -> usize {
        self.bytes - self.left
    }

    /// Takes the room of one more item as JSON; `false` when there is not enough, for this and for
    /// all that follow.
    pub(crate) fn take(&mut self, item: &impl Serialize) -> bool {
        let mut counter = Counter(self.left);
        let fits = serde_json::to_writer(&mut counter, item).is_ok();
        // The comma before the next one.
        self.left = match fits {
            true => counter.0.saturating_sub(1),
            false => 0,
        };
        fits
    }

    /// The items that fit, and whether any had to be left out. One is kept in any case, so that a list in
    /// pages can be read to its end.
    pub(crate) fn fit<T: Serialize>(
        mut self,
        items: impl IntoIterator<Item = T>,
    ) -> (Vec<T>, bool) {
        let mut kept = Vec::new();
        for item in items {
            if !self.take(&item) && !kept.is_empty() {
                return (kept, true);
            }
            kept.push(item);
        }
        (kept, false)
    }
}

/// Counts what is written, and fails when it is too much.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_kept_as_long_as_they_fit() {
        // Each is four bytes with its quotes, and a comma.
        let items = ["ab"; 5];
        for (bytes, expected) in [(0, 1), (3, 1), (4, 1), (8, 1), (9, 2), (25, 5), (24, 5)] {
            let (kept, truncated) = Budget::new(bytes).fit(items);
            assert_eq!(kept.len(), expected, "{bytes}");
            assert_eq!(truncated, expected < items.len(), "{bytes}");
        }
        // Nothing comes after one that did not fit: a list has no gaps.
        let mut budget = Budget::new(6);
        assert!(!budget.take(&"abcdefgh"));
        assert!(!budget.take(&"a"));
    }
}
