//! All the ways to change what is in a file.

use super::Mutator;
use nix::fcntl::{FallocateFlags, fallocate};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{copy_file_range, ftruncate, sendfile};
use rustix::io::{pwrite, write};
use std::os::unix::fs::FileExt;

impl Mutator {
    pub(super) fn map(&mut self) {
        if let Some(file) = self.open()
            && file.set_len(8192).is_ok()
            && let Ok(map) = memmap2::MmapRaw::map_raw(&file)
        {
            self.maps.push_back(map);
            if self.random.one_in(3) {
                self.keep(file);
            }
        }
    }

    pub(super) fn store(&mut self) {
        if self.maps.is_empty() {
            return;
        }
        let map = &self.maps[usize::try_from(self.random.below(self.maps.len() as u64)).unwrap()];
        // By way of the process's memory: another may have cut the file, and a plain store would kill.
        let offset = self.random.below(8192);
        let byte = u8::try_from(self.random.below(256)).unwrap();
        let _ = self.memory.write_at(&[byte], map.as_ptr() as u64 + offset);
    }

    pub(super) fn send_file(&mut self) {
        let path = self.file();
        if let (Some(from), Some(to)) = (Self::read(&path), self.open()) {
            let _ = sendfile(&to, &from, Some(&mut 0), 1000);
            if self.random.one_in(2) {
                self.keep(to);
            }
        }
    }

    pub(super) fn write_late(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(self.kept.len() as u64)).unwrap();
        let _ = write(&self.kept[at], b"late");
    }

    pub(super) fn holes(&mut self) {
        let Some(file) = self.open() else {
            return;
        };
        let (start, length) = (
            self.random.below(5) * 4096,
            (1 + self.random.below(4)) * 4096,
        );
        let (start, length) = (
            i64::try_from(start).unwrap(),
            i64::try_from(length).unwrap(),
        );
        let flags = match self.random.below(4) {
            0 => FallocateFlags::empty(),
            1 => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
            2 => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            _ => FallocateFlags::FALLOC_FL_KEEP_SIZE,
        };
        let _ = fallocate(&file, flags, start, length);
        if self.random.one_in(6) {
            let _ = ftruncate(&file, 3 << 20);
            let _ = pwrite(&file, b"far", 2 << 20);
        }
    }

    pub(super) fn copy_range(&mut self) {
        let path = self.file();
        if let (Some(from), Some(to)) = (Self::read(&path), self.open()) {
            let _ = copy_file_range(&from, Some(&mut 0), &to, Some(&mut 100), 3000);
        }
    }

    pub(super) fn asynchronous(&mut self) {
        let offset = i64::try_from(self.random.below(5000)).unwrap();
        if let Some(file) = self.open()
            && let Some(aio) = &mut self.aio
        {
            aio.write(&file, b"asynchronous", offset);
            if self.random.one_in(2) {
                self.keep(file);
            }
        }
    }

    pub(super) fn ring(&mut self) {
        let (offset, data) = (self.random.below(5000), [5; 16]);
        let Some(file) = self.open() else {
            return;
        };
        let Some(ring) = &mut self.ring else {
            return;
        };
        let fd = io_uring::types::Fd(file.as_raw_fd());
        let entry = io_uring::opcode::Write::new(fd, data.as_ptr(), 16)
            .offset(offset)
            .build();
        #[allow(
            unsafe_code,
            reason = "the ring reads the buffer, which outlives the wait"
        )]
        // SAFETY: `data` and `file` live until it is complete.
        unsafe {
            if ring.submission().push(&entry).is_ok() {
                let _ = ring.submit_and_wait(1);
            }
        }
        ring.completion().for_each(drop);
    }

    /// Sends a descriptor to itself, to be received later.
    pub(super) fn pass_descriptor(&mut self) {
        use rustix::net::{
            RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
            SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
        };
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        if self.in_flight > 0 {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let data = &mut [std::io::IoSliceMut::new(&mut byte)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            if recvmsg(&self.sockets.1, data, &mut control, flags).is_ok() {
                self.in_flight -= 1;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        for fd in descriptors {
                            let _ = write(&fd, b"it was in flight");
                        }
                    }
                }
            }
            return;
        }
        // Rarely: it makes the next copy take the walk.
        if let Some(file) = self.open().filter(|_| self.random.one_in(12)) {
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = [file.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            let data = &[std::io::IoSlice::new(b"x")];
            if sendmsg(&self.sockets.0, data, &mut control, SendFlags::empty()).is_ok() {
                self.in_flight += 1;
            }
        }
    }
}
