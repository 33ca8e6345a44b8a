//! The first names of files that have several, for the others to be written as links to them.
//!
//! On a workspace whose layers were merged every file may seem to have several names (see
//! `botstead_overlay`), so this is kept small: some 40 bytes for each and its last part.

use botstead_overlay::tree::Id;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

/// The most files and the most bytes of names: half a gigabyte of memory in all.
const MOST: usize = 8 << 20;
const MOST_BYTES: usize = 256 << 20;

struct Link {
    id: Id,
    /// In `bytes`: its directory and its last part.
    directory: (u32, u32),
    start: u32,
    length: u8,
}

pub(super) struct Links {
    links: Vec<Link>,
    table: HashTable<u32>,
    hasher: RandomState,
    bytes: Vec<u8>,
    /// The present directory, if it has a link already.
    directory: Option<(u32, u32)>,
}

impl Links {
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            bytes: Vec::new(),
            directory: None,
        }
    }

    /// Another directory is read from here on.
    pub(super) fn enter(&mut self) {
        self.directory = None;
    }

    /// The path of a file that was added.
    pub(super) fn find(&self, id: Id) -> Option<Vec<u8>> {
        let hash = self.hasher.hash_one(id);
        let found = self
            .table
            .find(hash, |link| self.links[*link as usize].id == id);
        let link = &self.links[*found? as usize];
        let part = |start: u32, length: u32| &self.bytes[start as usize..][..length as usize];
        let name = part(link.start, link.length.into());
        Some(match part(link.directory.0, link.directory.1) {
            b"" => name.to_vec(),
            directory => [directory, name].join(&b'/'),
        })
    }

    /// Adds a file of the present directory, if there is room.
    pub(super) fn add(&mut self, id: Id, directory: &[u8], name: &[u8]) -> Result<(), ()> {
        let directory = match self.directory {
            Some(directory) => directory,
            None => self.store(directory)?,
        };
        let (start, _) = self.store(name)?;
        let number = u32::try_from(self.links.len()).map_err(|_| ())?;
        if self.links.len() == MOST {
            return Err(());
        }
        self.directory = Some(directory);
        self.links.push(Link {
            id,
            directory,
            start,
            // No filesystem has longer ones.
            length: u8::try_from(name.len()).map_err(|_| ())?,
        });
        let (links, hasher) = (&self.links, &self.hasher);
        self.table
            .insert_unique(hasher.hash_one(id), number, |link| {
                hasher.hash_one(links[*link as usize].id)
            });
        Ok(())
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(u32, u32), ()> {
        if self.bytes.len() + bytes.len() > MOST_BYTES {
            return Err(());
        }
        let start = u32::try_from(self.bytes.len()).map_err(|_| ())?;
        let length = u32::try_from(bytes.len()).map_err(|_| ())?;
        self.bytes.extend_from_slice(bytes);
        Ok((start, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_names_are_found_by_inode() {
        let mut links = Links::new();
        for inode in 0..1000 {
            if inode % 10 == 0 {
                links.enter();
            }
            let directory = match inode {
                0..10 => String::new(),
                _ => format!("d/{}", inode / 10),
            };
            let name = inode.to_string();
            links
                .add((8, 1, inode), directory.as_bytes(), name.as_bytes())
                .unwrap();
        }
        assert_eq!(links.find((8, 1, 7)).as_deref(), Some(b"7".as_slice()));
        assert_eq!(
            links.find((8, 1, 999)).as_deref(),
            Some(b"d/99/999".as_slice())
        );
        assert_eq!(links.find((8, 2, 7)), None);
        links.enter();
        assert_eq!(links.add((9, 9, 9), &vec![b'd'; MOST_BYTES], b"x"), Err(()));
    }
}
