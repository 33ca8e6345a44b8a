//! Files that processes have open for writing while everybody stands still: which names of the tree they
//! are, and whether they have to be copied again.
//!
//! A process's own look at a file on an overlay mount shows the size and the times of the file below, but
//! not always its number: a file that was copied up from a lower layer keeps that layer's. So a file is
//! found by number or by path, and is the right one when it looks the same.

use super::Mirror;
use crate::halt::{Halt, Step};
use crate::model::{DirId, Node, Place};
use crate::report::Reason;
use crate::scan::mounts::Mounts;
use crate::scan::{Found, Looks, OpenFile};
use botstead_overlay::tree::stat_at;
use std::ffi::CString;

impl Mirror<'_> {
    /// Copies again what may have changed unseen by way of these files. All names must be up to date.
    ///
    /// Fails with [`Halt::Feed`] when a change may be where only the walk finds it.
    pub(crate) fn check_open(&mut self, found: &Found, mounts: &Mounts) -> Step<()> {
        let mut unknown = false;
        for file in &found.files {
            match self.place_of(file, mounts) {
                Ok(Some(place)) => {
                    // What only is open is copied if it looks different, what is mapped always: stores
                    // need not show.
                    self.reconcile(place.dir, &place.name, file.is_mapped, true)?;
                }
                Ok(None) => {}
                Err(NotFound) => unknown = true,
            }
        }
        self.settle()?;
        self.copy_waiting()?;
        if found.has_hidden {
            return Err(Halt::Feed(Reason::HiddenDescriptors));
        }
        if unknown {
            return Err(Halt::Feed(Reason::UnknownDescriptor));
        }
        Ok(())
    }

    /// A name of the file; none when it is not in the tree.
    fn place_of(&mut self, file: &OpenFile, mounts: &Mounts) -> Result<Option<Place>, NotFound> {
        if let Some(known) = self.model.file(file.stat.ino) {
            let places: Vec<_> = known.places().cloned().collect();
            let place = places
                .into_iter()
                .find(|place| self.is_at(place, &file.stat));
            if place.is_some() {
                return Ok(place);
            }
        }
        if file.is_direct {
            // Every file of the tree is known, so that this one is elsewhere.
            return Ok(None);
        }
        for path in mounts.in_tree(&file.path) {
            if let Some(place) = self.known_at(&path)
                && self.is_at(&place, &file.stat)
            {
                return Ok(Some(place));
            }
        }
        Err(NotFound)
    }

    /// Whether what has a name now looks like it.
    fn is_at(&mut self, place: &Place, looks: &Looks) -> bool {
        if !self.model.is_attached(place.dir) {
            return false;
        }
        let stat = self
            .copier
            .source
            .open(&self.model, place.dir)
            .and_then(|dir| stat_at(&*dir, &place.name));
        stat.is_ok_and(|stat| Looks::new(&stat).may_be(looks))
    }

    /// What the model has at a path.
    fn known_at(&self, path: &[u8]) -> Option<Place> {
        let mut parts = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty());
        let last = parts.next_back()?;
        let mut dir = DirId::ROOT;
        for part in parts {
            match self.model.child(dir, &CString::new(part).ok()?) {
                Some(Node::Dir(child)) => dir = child,
                _ => return None,
            }
        }
        let name = CString::new(last).ok()?;
        matches!(self.model.child(dir, &name), Some(Node::File(_))).then(|| Place {
            dir,
            name: name.as_c_str().into(),
        })
    }
}

struct NotFound;
