//! Processes that change a tree in every way that a bot could, forever, in a random order. Here are those of
//! names and metadata, in `content` those of what files hold.

mod aio;
mod content;

use aio::Aio;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::{Mode as NixMode, SFlag, makedev, mknod};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags, linkat, lremovexattr, lsetxattr,
    openat, utimensat,
};
use rustix::io::write;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folders that mutators change, all of them the same ones.
const FOLDERS: u64 = 6;
/// Names of files in each.
const FILES: u64 = 12;
/// Files and folders of the image.
const LOWER: u64 = 6;

/// The lower layer that [`run`] makes whiteouts and opaque directories of.
pub fn fill_lower(lower: &Path) {
    for folder in 0..LOWER {
        let path = lower.join(format!("image/l{folder}"));
        fs::create_dir_all(path.join("deep")).unwrap();
        for file in 0..4 {
            fs::write(
                path.join(format!("f{file}")),
                format!("lower {folder} {file}"),
            )
            .unwrap();
        }
        fs::write(path.join("deep/f"), vec![7; 5000]).unwrap();
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let (length, fill) = (self.below(most), self.below(256));
        vec![u8::try_from(fill).unwrap(); usize::try_from(length).unwrap()]
    }
}

struct Mutator {
    random: Random,
    /// Descriptors that are written to late.
    kept: VecDeque<File>,
    maps: VecDeque<memmap2::MmapRaw>,
    memory: File,
    sockets: (OwnedFd, OwnedFd),
    in_flight: u32,
    ring: Option<io_uring::IoUring>,
    aio: Option<Aio>,
    made: u64,
}

/// Changes the tree in the present folder until it is killed.
pub fn run(seed: u64) {
    let mut mutator = Mutator::new(seed);
    // Failures are normal: others change the same names.
    loop {
        mutator.step();
        mutator.rest();
    }
}

/// The same without what the change feed is known not to report: inode flags.
pub fn run_with_flags(seed: u64) {
    let mut mutator = Mutator::new(seed);
    loop {
        mutator.step();
        if mutator.random.one_in(30) {
            mutator.flag();
        }
        mutator.rest();
    }
}

impl Mutator {
    fn new(seed: u64) -> Self {
        for folder in 0..FOLDERS {
            let _ = fs::create_dir_all(format!("mu/d{folder}/s"));
        }
        let pair = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
            None,
        );
        Self {
            random: Random(seed.wrapping_mul(7919).wrapping_add(1)),
            kept: VecDeque::new(),
            maps: VecDeque::new(),
            memory: OpenOptions::new()
                .read(true)
                .write(true)
                .open("/proc/self/mem")
                .unwrap(),
            sockets: pair.unwrap(),
            in_flight: 0,
            ring: io_uring::IoUring::new(4).ok(),
            aio: Aio::new(),
            made: 0,
        }
    }

    /// Leaves the processors to the copy for a moment, which else gets nowhere.
    fn rest(&mut self) {
        if self.random.one_in(12) {
            std::thread::sleep(Duration::from_micros(self.random.below(3000)));
        }
    }

    fn folder(&mut self) -> PathBuf {
        let folder = self.random.below(FOLDERS);
        let below = if self.random.one_in(3) { "/s" } else { "" };
        PathBuf::from(format!("mu/d{folder}{below}"))
    }

    fn file(&mut self) -> PathBuf {
        if self.random.one_in(8) {
            let (folder, file) = (self.random.below(LOWER), self.random.below(4));
            return PathBuf::from(format!("image/l{folder}/f{file}"));
        }
        let folder = self.folder();
        folder.join(format!("f{}", self.random.below(FILES)))
    }

    fn open(&mut self) -> Option<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(self.random.one_in(3));
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options
            .open(self.file())
            .ok()
            .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
    }

    fn keep(&mut self, file: File) {
        self.kept.push_back(file);
        if self.kept.len() > 8 {
            self.kept.pop_front();
        }
    }

    /// Like [`fs::write`], but a pipe without a reader does not stop it for good.
    fn write(path: &Path, content: &[u8]) {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.custom_flags(libc::O_NONBLOCK);
        if let Ok(file) = options.open(path) {
            let _ = file.write_all_at(content, 0);
        }
    }

    /// Like [`File::open`], likewise.
    fn read(path: &Path) -> Option<File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options
            .open(path)
            .ok()
            .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
    }

    fn step(&mut self) {
        // Each of them may fail, as names come and go.
        match self.random.below(34) {
            0 | 1 => {
                let path = self.file();
                Self::write(&path, &self.random.bytes(20_000));
            }
            2 => self.append(),
            3 => {
                if let Some(file) = self.open() {
                    let _ = file.set_len(self.random.below(30_000));
                }
            }
            4 | 5 => {
                let (from, to) = (self.file(), self.file());
                let _ = fs::rename(from, to);
            }
            6 => {
                let _ = fs::remove_file(self.file());
            }
            7 => {
                let (from, to) = (self.file(), self.file());
                let _ = fs::hard_link(from, to);
            }
            8 => {
                let goal = format!("t{}", self.random.below(100));
                let _ = symlink(goal, self.file());
            }
            9 => self.metadata(),
            10 => self.attribute(),
            11 | 12 => self.move_folder(),
            13 => self.map(),
            14 | 15 => self.store(),
            16 => {
                if self.maps.len() > 5 || self.random.one_in(3) {
                    self.maps.pop_front();
                }
            }
            17 => self.send_file(),
            18 | 19 => self.write_late(),
            20 => self.holes(),
            21 => self.copy_range(),
            22 => self.asynchronous(),
            23 => self.ring(),
            24 | 25 => self.image(),
            26 => {
                let (one, other) = (self.file(), self.file());
                let _ = renameat2(CWD, &one, CWD, &other, RenameFlags::RENAME_EXCHANGE);
            }
            27 => self.nameless(),
            28 => self.special(),
            29 | 30 => self.replace(),
            31 => self.many(),
            32 => self.pass_descriptor(),
            _ => {
                if !self.kept.is_empty() {
                    self.kept.pop_front();
                }
            }
        }
    }

    fn append(&mut self) {
        let path = self.file();
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(libc::O_NONBLOCK);
        let Ok(mut file) = options.open(path) else {
            return;
        };
        let _ = std::io::Write::write_all(&mut file, b"appended");
        if self.random.one_in(3) {
            self.keep(file);
        }
    }

    fn metadata(&mut self) {
        let path = if self.random.one_in(3) {
            self.folder()
        } else {
            self.file()
        };
        match self.random.below(3) {
            0 => {
                let mode = 0o600 | u32::try_from(self.random.below(64)).unwrap();
                let set_id = if self.random.one_in(4) { 0o4000 } else { 0 };
                let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode | set_id));
            }
            1 => {
                let id = u32::try_from(self.random.below(5)).unwrap();
                let _ = chown(path, Some(id), Some(id + 1));
            }
            _ => {
                let time = Timespec {
                    tv_sec: i64::try_from(self.random.below(1 << 30)).unwrap(),
                    tv_nsec: 123_456_789,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let _ = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
            }
        }
    }

    fn attribute(&mut self) {
        let path = if self.random.one_in(3) {
            self.folder()
        } else {
            self.file()
        };
        // A list with one more user (linux/posix_acl_xattr.h).
        let mut acl = 2_u32.to_le_bytes().to_vec();
        let user = u32::try_from(self.random.below(9)).unwrap();
        for (tag, permission, id) in [
            (1, 6, u32::MAX),
            (2, 7, user),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 4, u32::MAX),
        ] {
            acl.extend_from_slice(&u16::to_le_bytes(tag));
            acl.extend_from_slice(&u16::to_le_bytes(permission));
            acl.extend_from_slice(&u32::to_le_bytes(id));
        }
        let value = self.random.bytes(60);
        let (name, value) = match self.random.below(6) {
            0 => ("system.posix_acl_default", &acl),
            1 => ("system.posix_acl_access", &acl),
            2 => ("trusted.own", &value),
            _ => ("user.own", &value),
        };
        let _ = if self.random.one_in(4) {
            lremovexattr(path, name)
        } else {
            lsetxattr(path, name, value, XattrFlags::empty())
        };
    }

    fn move_folder(&mut self) {
        let (one, other) = (self.random.below(FOLDERS), self.random.below(FOLDERS));
        let (slot, to) = (self.random.below(3), self.random.below(3));
        let moved = format!("mu/d{other}/mv{slot}");
        match self.random.below(6) {
            0 | 1 => {
                let from = format!("mu/d{one}");
                let _ = fs::rename(&from, &moved);
                let _ = fs::create_dir_all(format!("{from}/s"));
            }
            2 => {
                let _ = fs::remove_dir_all(&moved);
            }
            3 => {
                let to = format!("mu/d{one}");
                let _ = renameat2(
                    CWD,
                    moved.as_str(),
                    CWD,
                    to.as_str(),
                    RenameFlags::RENAME_EXCHANGE,
                );
            }
            4 => {
                // A tree turns inside out.
                let _ = fs::rename(format!("{moved}/s"), format!("mu/t{slot}"));
                let _ = fs::rename(&moved, format!("mu/t{slot}/inner"));
                let _ = fs::rename(format!("mu/t{slot}"), format!("mu/d{one}/mv{to}"));
            }
            _ => {
                let _ = fs::rename(&moved, format!("mu/d{one}/mv{to}"));
            }
        }
    }

    /// Whiteouts and opaque directories.
    fn image(&mut self) {
        let folder = PathBuf::from(format!("image/l{}", self.random.below(LOWER)));
        match self.random.below(6) {
            0 => {
                let _ = fs::remove_dir_all(&folder);
            }
            1 => {
                let _ = fs::remove_dir_all(&folder);
                let _ = fs::create_dir(&folder);
                Self::write(&folder.join("f0"), b"opaque");
            }
            2 => {
                let _ = fs::create_dir(&folder);
            }
            3 => {
                let _ = fs::remove_file(folder.join(format!("f{}", self.random.below(4))));
            }
            4 => {
                let _ = fs::remove_dir_all(folder.join("deep"));
            }
            _ => {
                let _ = fs::create_dir_all(folder.join("deep"));
                Self::write(&folder.join("deep/f"), &self.random.bytes(9000));
            }
        }
    }

    fn nameless(&mut self) {
        let folder = self.folder();
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let Ok(file) = openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) else {
            return;
        };
        let _ = write(&file, b"it had no name");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let _ = linkat(CWD, path, CWD, self.file(), AtFlags::SYMLINK_FOLLOW);
        if self.random.one_in(2) {
            self.keep(file.into());
        }
    }

    fn special(&mut self) {
        let path = self.file();
        let mode = NixMode::from_bits_truncate(0o640);
        let _ = match self.random.below(3) {
            0 => mknod(&path, SFlag::S_IFIFO, mode, 0),
            1 => mknod(&path, SFlag::S_IFCHR, mode, makedev(1, 3)),
            _ => {
                let _ = UnixListener::bind(&path);
                Ok(())
            }
        };
    }

    /// As editors and databases do.
    fn replace(&mut self) {
        let path = self.file();
        self.made += 1;
        let temporary = path.with_file_name(format!("tmp{}-{}", std::process::id(), self.made));
        let Ok(file) = File::create(&temporary) else {
            return;
        };
        let _ = file.write_all_at(&self.random.bytes(15_000), 0);
        if self.random.one_in(8) {
            let _ = file.sync_all();
        }
        if fs::rename(&temporary, &path).is_err() {
            let _ = fs::remove_file(&temporary);
        }
        if self.random.one_in(3) {
            self.keep(file);
        }
    }

    fn many(&mut self) {
        let folder = PathBuf::from(format!("mu/many{}", self.random.below(2)));
        if self.random.one_in(2) {
            let _ = fs::remove_dir_all(&folder);
            return;
        }
        for number in 0..20 {
            let path = folder.join(format!("{}/{number}", number % 3));
            let _ = fs::create_dir_all(path.parent().unwrap_or(&folder));
            Self::write(&path, number.to_string().as_bytes());
        }
    }

    fn flag(&mut self) {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        if let Some(file) = self.open()
            && let Ok(flags) = ioctl_getflags(&file)
        {
            let _ = ioctl_setflags(&file, flags ^ IFlags::NODUMP);
        }
    }
}
