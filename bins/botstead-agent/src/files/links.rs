//! Which files with several names a walk has met, and under which name, in bounded memory.

use super::root::Id;
use std::collections::HashMap;

/// Names that are remembered, and their bytes; files that come later are files of their own.
const MOST: usize = 100_000;
const MOST_BYTES: usize = 16 << 20;

/// The first names of files that have several.
#[derive(Debug, Default)]
pub(crate) struct Links {
    names: HashMap<Id, Vec<u8>>,
    bytes: usize,
}

impl Links {
    /// The name that a file had first.
    pub(crate) fn first(&self, file: Id) -> Option<&[u8]> {
        self.names.get(&file).map(Vec::as_slice)
    }

    pub(crate) fn remember(&mut self, file: Id, name: Vec<u8>) {
        let bytes = self.bytes + name.len();
        if self.names.len() < MOST && bytes <= MOST_BYTES {
            self.bytes = bytes;
            self.names.insert(file, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::root::stat_at;
    use rustix::fs::CWD;

    #[test]
    fn memory_is_bounded() {
        let id = |path: &[u8]| Id::of(&stat_at(CWD, path).unwrap());
        let (one, other) = (id(b"/"), id(b"/proc"));
        let mut links = Links::default();
        links.remember(one, vec![b'x'; MOST_BYTES]);
        links.remember(other, b"y".to_vec());
        assert_eq!(links.first(one).map(<[u8]>::len), Some(MOST_BYTES));
        assert_eq!(links.first(other), None);
    }
}
