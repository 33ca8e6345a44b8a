//! The system calls that no library wraps safely: file handles, writing back a file's pages, comparing
//! the descriptor tables of two tasks. All of this crate's unsafe code but the self-test's mapping.

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};
use std::borrow::Borrow;
use std::ffi::{CStr, c_int};

/// The longest file handle that the kernel makes (`MAX_HANDLE_SZ`).
const MAX_HANDLE: usize = 128;

/// What names an inode for as long as its filesystem lives, also after its number was given to another
/// file: the kernel's file handle. The bytes are its type, then its content, as in `struct file_handle`
/// behind the length, and mean nothing to anyone but the filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Handle(Box<[u8]>);

impl Handle {
    /// From the bytes behind the length.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl Handle {
    /// The number of the inode, as the common filesystems write it (ext4, XFS, btrfs: linux/exportfs.h).
    /// Not to be relied upon before it was right for other handles of the same filesystem.
    pub(crate) fn ino(&self) -> Option<u64> {
        const INO32: i32 = 1;
        const INO64: i32 = 0x81;
        const BTRFS: i32 = 0x4d;
        let (kind, content) = self.0.split_first_chunk::<4>()?;
        match i32::from_ne_bytes(*kind) {
            INO32 => Some(u32::from_ne_bytes(*content.first_chunk()?).into()),
            INO64 | BTRFS => Some(u64::from_ne_bytes(*content.first_chunk()?)),
            _ => None,
        }
    }
}

impl Borrow<[u8]> for Handle {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// `struct file_handle` with room for the longest.
#[repr(C)]
struct RawHandle {
    length: u32,
    kind: i32,
    content: [u8; MAX_HANDLE],
}

impl RawHandle {
    fn with_length(length: usize) -> Self {
        Self {
            // At most MAX_HANDLE.
            length: length as u32,
            kind: 0,
            content: [0; MAX_HANDLE],
        }
    }
}

/// The handle of a name in a directory, of a link itself; of the directory for an empty name.
pub(crate) fn handle_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Handle> {
    let mut raw = RawHandle::with_length(MAX_HANDLE);
    let mut mount_id: c_int = 0;
    let flags = if name.is_empty() {
        libc::AT_EMPTY_PATH
    } else {
        0
    };
    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the name ends with a zero byte; `RawHandle` begins like `struct file_handle` and has the
    // room that its length says; both outlive the call, which keeps neither.
    let answer = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            name.as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount_id,
            flags,
        )
    };
    if answer != 0 {
        return Err(last());
    }
    let length = usize::try_from(raw.length).map_or(MAX_HANDLE, |length| length.min(MAX_HANDLE));
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&raw.kind.to_ne_bytes());
    bytes.extend_from_slice(&raw.content[..length]);
    Ok(Handle(bytes.into()))
}

/// Opens what a handle names, as a mere place. `mount` is any open file of the filesystem.
///
/// Fails with `STALE` when the file is gone. Needs `CAP_DAC_READ_SEARCH`.
pub(crate) fn open_handle(mount: BorrowedFd<'_>, handle: &Handle) -> Result<OwnedFd> {
    let (kind, content) = handle.0.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
    let mut raw = RawHandle::with_length(content.len().min(MAX_HANDLE));
    raw.kind = i32::from_ne_bytes(*kind);
    raw.content
        .get_mut(..content.len())
        .ok_or(Errno::INVAL)?
        .copy_from_slice(content);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: as above; the descriptor that it returns is new and owned by nobody else.
    unsafe {
        let fd = libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags);
        if fd < 0 {
            return Err(last());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Writes back all dirty pages of a file and waits, without a commit of the filesystem's journal.
///
/// Afterwards every page is write-protected again in all mappings, so that the next store through one
/// faults and moves the file's ctime, which a store to a page that is dirty already does not.
pub(crate) fn write_back(file: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if answer != 0 {
        return Err(last());
    }
    Ok(())
}

/// Whether two tasks use the same table of descriptors. `None` where the kernel does not tell.
pub(crate) fn same_descriptors(one: u32, other: u32) -> Option<bool> {
    /// linux/kcmp.h.
    const KCMP_FILES: libc::c_int = 2;
    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    // 1, 2 and 3 are orders of what differs.
    (answer >= 0).then_some(answer == 0)
}

/// One page of a file, mapped shared and writable until dropped.
#[derive(Debug)]
pub(crate) struct SharedPage(std::ptr::NonNull<libc::c_void>);

/// The smallest page that Linux has; a mapping is of whole pages anyway.
const PAGE: usize = 4096;

impl SharedPage {
    /// Maps the beginning of a file that is open for reading and writing.
    pub(crate) fn map(file: BorrowedFd<'_>) -> Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        #[allow(unsafe_code, reason = "a mapping cannot be made safely")]
        // SAFETY: the kernel picks addresses that nothing else uses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(last());
        }
        std::ptr::NonNull::new(address)
            .map(Self)
            .ok_or(Errno::INVAL)
    }

    /// Stores a byte at the beginning. The file must not be shorter than that.
    pub(crate) fn store(&self, byte: u8) {
        #[allow(unsafe_code, reason = "a store to a mapping is the point of it")]
        // SAFETY: the page is mapped for writing until `self` is dropped, and nothing refers to it.
        unsafe {
            self.0.cast::<u8>().write_volatile(byte);
        }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        #[allow(unsafe_code, reason = "what was mapped is to be unmapped")]
        // SAFETY: it was mapped by `map`, and nothing refers to it.
        unsafe {
            libc::munmap(self.0.as_ptr(), PAGE);
        }
    }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::fs;

    #[test]
    fn a_handle_leads_to_the_file_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        let handle = handle_at(root.as_fd(), c"a").unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(handle, handle_at(root.as_fd(), c"b").unwrap());
        let place = open_handle(root.as_fd(), &handle).unwrap();
        let stat = botstead_overlay::tree::stat_fd(&place).unwrap();
        let named = botstead_overlay::tree::stat_at(&root, c"b").unwrap();
        assert_eq!(stat.stx_ino, named.stx_ino);
        drop(place);
        fs::remove_file(dir.path().join("b")).unwrap();
        assert_eq!(
            open_handle(root.as_fd(), &handle).unwrap_err(),
            Errno::STALE
        );
    }

    #[test]
    fn an_empty_name_means_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        let below = fs::File::open(dir.path().join("d")).unwrap();
        let one = handle_at(root.as_fd(), c"d").unwrap();
        assert_eq!(one, handle_at(below.as_fd(), c"").unwrap());
    }

    #[test]
    fn a_store_is_seen_in_the_ctime_after_writing_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("f"))
            .unwrap();
        file.set_len(1).unwrap();
        let ctime = || {
            std::thread::sleep(std::time::Duration::from_millis(25));
            let stat = botstead_overlay::tree::stat_fd(&file).unwrap();
            (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)
        };
        let page = SharedPage::map(file.as_fd()).unwrap();
        page.store(1);
        let first = ctime();
        page.store(2);
        assert_eq!(ctime(), first, "the page was dirty");
        write_back(file.as_fd()).unwrap();
        page.store(3);
        assert!(ctime() > first);
        drop(page);
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), [3]);
    }

    #[test]
    fn threads_share_descriptors_and_processes_do_not() {
        let own = std::process::id();
        assert_eq!(same_descriptors(own, own), Some(true));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert_eq!(same_descriptors(own, child.id()), Some(false));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(same_descriptors(own, u32::MAX >> 1), None);
    }
}
