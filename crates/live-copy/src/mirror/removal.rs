//! Removing from the target what the source does not have any more.

use super::{Fault, Mirror};
use crate::halt::Step;
use crate::model::{DirId, Node};
use botstead_overlay::tree::stat_at;
use rustix::io::Errno;
use std::ffi::CStr;

impl Mirror<'_> {
    /// A name that the source does not have.
    pub(super) fn vanish(&mut self, dir: DirId, name: &CStr) -> Step<()> {
        match self.model.child(dir, name) {
            None => Ok(()),
            Some(Node::Dir(id)) => match self.put_into_limbo(id) {
                Ok(()) => Ok(()),
                Err(fault) => self.met(dir, name, fault),
            },
            Some(_) => {
                self.absent.push((dir, name.into()));
                Ok(())
            }
        }
    }

    /// Removes it from the target, unless the source has it again.
    pub(super) fn remove_absent(&mut self, dir: DirId, name: &CStr) -> Step<()> {
        let looked = self
            .copier
            .source
            .open(&self.model, dir)
            .and_then(|source| stat_at(&*source, name));
        match looked {
            Ok(_) => self.reconcile(dir, name, false, false),
            Err(Errno::NOENT) => match self.clear(dir, name) {
                Ok(()) => Ok(()),
                Err(fault) => self.met(dir, name, fault),
            },
            Err(errno) => self.met(dir, name, Fault::Source("look at", errno)),
        }
    }

    /// Takes away what the target has under a name.
    pub(super) fn clear(&mut self, dir: DirId, name: &CStr) -> Result<(), Fault> {
        match self.model.child(dir, name) {
            None => Ok(()),
            Some(Node::Dir(id)) => self.put_into_limbo(id),
            Some(Node::File(_) | Node::Whiteout) => {
                self.unlink(dir, name)?;
                self.model.unlink(dir, name);
                Ok(())
            }
        }
    }
}
