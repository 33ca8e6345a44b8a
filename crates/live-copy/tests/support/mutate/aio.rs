//! The kernel's asynchronous input and output, by its bare calls.

use rustix::fd::AsRawFd;
use std::fs::File;

/// A context of the kernel's asynchronous input and output (io_submit(2)).
pub(super) struct Aio(u64);

/// `struct iocb` of linux/aio_abi.h, little-endian.
#[repr(C)]
#[derive(Default)]
struct Control {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    result_fd: u32,
}

impl Aio {
    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    pub(super) fn new() -> Option<Self> {
        let mut context = 0_u64;
        // SAFETY: the context is a number that the kernel fills in.
        let answer = unsafe { libc::syscall(libc::SYS_io_setup, 8, &raw mut context) };
        (answer == 0).then_some(Self(context))
    }

    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    pub(super) fn write(&mut self, file: &File, data: &[u8], offset: i64) {
        /// `IOCB_CMD_PWRITE`.
        const WRITE: u16 = 1;
        let mut control = Control {
            opcode: WRITE,
            fd: u32::try_from(file.as_raw_fd()).unwrap(),
            buffer: data.as_ptr() as u64,
            length: data.len() as u64,
            offset,
            ..Control::default()
        };
        let mut list = [&raw mut control];
        let mut events = [0_u64; 4];
        // SAFETY: everything lives until it is complete, which is waited for.
        unsafe {
            if libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_mut_ptr()) == 1 {
                let events = events.as_mut_ptr();
                let forever = std::ptr::null::<libc::timespec>();
                libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, events, forever);
            }
        }
    }
}
