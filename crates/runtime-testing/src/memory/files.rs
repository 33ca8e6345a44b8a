//! Files of layers: what each has, what it hides, and what is seen through all of them.

use super::state::in_snapshot;
use bytes::Bytes;
use std::collections::BTreeMap;

/// What a path of a layer is. Directories are there as far as something is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A regular file.
    File(Bytes),
    /// A symbolic link.
    Link(String),
}

impl Entry {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::File(content) => content.len(),
            Self::Link(target) => target.len(),
        }
    }

    pub(super) fn into_file(self) -> Option<Bytes> {
        match self {
            Self::File(content) => Some(content),
            Self::Link(_) => None,
        }
    }
}

/// A layer: `None` hides what a lower one has at that path and beneath it.
pub(super) type Files = BTreeMap<String, Option<Entry>>;

/// Files as layers of an image have them.
pub(super) fn of_image(layer: BTreeMap<String, Option<Bytes>>) -> Files {
    let entry = |(path, content): (String, Option<Bytes>)| (path, content.map(Entry::File));
    layer.into_iter().map(entry).collect()
}

/// The paths above a path, without the root.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// Whether a layer with these files hides what lower ones have at that path.
pub(super) fn hides(files: &Files, path: &str) -> bool {
    above(path).any(|above| files.contains_key(above))
}

fn remove_beneath<T>(files: &mut BTreeMap<String, T>, path: &str) {
    let beneath = format!("{path}/");
    let gone: Vec<String> = files
        .range(beneath.clone()..)
        .take_while(|(path, _)| path.starts_with(&beneath))
        .map(|(path, _)| path.clone())
        .collect();
    for path in gone {
        files.remove(&path);
    }
}

/// Changes a path of a writable layer, as a process does that makes directories where it needs them.
pub(super) fn put(files: &mut Files, path: &str, entry: Option<Entry>) {
    let path = in_snapshot(path);
    for above in above(path) {
        // A directory takes its place, which shows nothing of lower layers.
        if let Some(in_the_way) = files.get_mut(above) {
            *in_the_way = None;
        }
    }
    remove_beneath(files, path);
    files.insert(path.to_owned(), entry);
}

/// Puts a layer on what is seen through those beneath it.
pub(super) fn lay(seen: &mut BTreeMap<String, Entry>, layer: &Files) {
    for (path, entry) in layer {
        seen.remove(path);
        remove_beneath(seen, path);
        if let Some(entry) = entry {
            for above in above(path) {
                seen.remove(above);
            }
            seen.insert(path.clone(), entry.clone());
        }
    }
}
