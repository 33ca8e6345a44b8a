//! Pseudo-terminals of the container's own devpts.

use botstead_bridge::proto::TerminalSize;
use nix::libc;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Winsize, tcflush,
    tcgetattr, tcgetpgrp, tcsetattr, tcsetwinsize,
};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Columns and rows, within what a terminal can sensibly have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: u16,
    pub(super) rows: u16,
}

impl Size {
    /// The largest terminal. Every cell costs memory in the screen's model.
    pub(super) const MOST: Self = Self {
        columns: 1000,
        rows: 500,
    };
}

impl From<TerminalSize> for Size {
    /// What is not said is 80 columns and 24 rows; what is too large is cut.
    fn from(size: TerminalSize) -> Self {
        let within = |value: u32, default: u16, most: u16| match value {
            0 => default,
            value => u16::try_from(value).map_or(most, |value| value.min(most)),
        };
        Self {
            columns: within(size.columns, 80, Self::MOST.columns),
            rows: within(size.rows, 24, Self::MOST.rows),
        }
    }
}

impl From<Size> for TerminalSize {
    fn from(size: Size) -> Self {
        Self {
            columns: size.columns.into(),
            rows: size.rows.into(),
        }
    }
}

impl Size {
    /// A size that was said, as far as it was.
    pub(super) fn said(size: Option<TerminalSize>) -> Option<Self> {
        size.filter(|size| size.columns > 0 && size.rows > 0)
            .map(Self::from)
    }
}

/// Opens a terminal: the agent's end and the program's.
pub(super) fn open(size: Size) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    // By the descriptor: the name could mean another terminal by now.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    // Backspace takes away a whole character.
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    resize(std::os::fd::AsFd::as_fd(&master), size)?;
    Ok((master, slave))
}

/// Gives it another size. The kernel tells the program in the foreground by SIGWINCH.
pub(super) fn resize(terminal: BorrowedFd<'_>, size: Size) -> rustix::io::Result<()> {
    tcsetwinsize(
        terminal,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}

/// The process group in the foreground.
pub(super) fn foreground(terminal: BorrowedFd<'_>) -> Option<rustix::process::Pid> {
    tcgetpgrp(terminal).ok()
}

/// The character that means the end of the input, as the terminal is set now.
pub(super) fn end_of_input(terminal: BorrowedFd<'_>) -> rustix::io::Result<u8> {
    Ok(tcgetattr(terminal)?.special_codes[SpecialCodeIndex::VEOF])
}

/// A character of an input that the terminal makes a signal of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interrupt {
    /// Where it is in the input.
    pub(super) at: usize,
    /// The signal.
    pub(super) signal: i32,
    /// What was typed before it and is not read yet is discarded with it, as termios(3) has it.
    pub(super) discards: bool,
}

/// The last such character of an input, as the terminal is set now.
pub(super) fn interrupt(terminal: BorrowedFd<'_>, input: &[u8]) -> Option<Interrupt> {
    let modes = tcgetattr(terminal).ok()?;
    if !modes.local_modes.contains(LocalModes::ISIG) {
        return None;
    }
    let signals = [
        (SpecialCodeIndex::VINTR, libc::SIGINT),
        (SpecialCodeIndex::VQUIT, libc::SIGQUIT),
        (SpecialCodeIndex::VSUSP, libc::SIGTSTP),
    ];
    let signal_of = |byte: u8| {
        // 0 stands for a character that there is not.
        let found = signals
            .iter()
            .find(|(index, _)| byte != 0 && modes.special_codes[*index] == byte);
        found.map(|(_, signal)| *signal)
    };
    let mut places = input.iter().enumerate().rev();
    places.find_map(|(at, byte)| {
        Some(Interrupt {
            at,
            signal: signal_of(*byte)?,
            discards: !modes.local_modes.contains(LocalModes::NOFLSH),
        })
    })
}

/// The program's end, opened anew. Whoever has it open for a moment is in nobody's way.
fn peer(terminal: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(terminal, flags)
}

/// Whether there is input that the program has not read.
pub(super) fn has_unread(terminal: BorrowedFd<'_>) -> bool {
    let unread = peer(terminal).and_then(rustix::io::ioctl_fionread);
    unread.is_ok_and(|bytes| bytes > 0)
}

/// Discards all input that the program has not read: what it could read, and what the kernel has not
/// looked at yet.
pub(super) fn discard_input(terminal: BorrowedFd<'_>) -> rustix::io::Result<()> {
    tcflush(terminal, QueueSelector::OFlush)?;
    tcflush(peer(terminal)?, QueueSelector::IFlush)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn sizes_are_cut_to_what_is_sensible() {
        let size = |columns, rows| {
            let Size { columns, rows } = TerminalSize { columns, rows }.into();
            (columns, rows)
        };
        assert_eq!(size(0, 0), (80, 24));
        assert_eq!(size(1, 1), (1, 1));
        assert_eq!(size(120, 40), (120, 40));
        assert_eq!(size(1001, 70_000), (1000, 500));
        assert_eq!(size(u32::MAX, u32::MAX), (1000, 500));
    }

    #[test]
    fn characters_that_send_signals_are_found() {
        let (master, slave) = open(Size::MOST).unwrap();
        let found = |input: &[u8]| {
            let found = interrupt(master.as_fd(), input);
            found.map(|found| (found.at, found.signal, found.discards))
        };
        assert_eq!(found(b"typed"), None);
        assert_eq!(found(b"a\x1a\x03b"), Some((2, libc::SIGINT, true)));
        assert_eq!(found(b"\x1c\0"), Some((0, libc::SIGQUIT, true)));
        let mut modes = tcgetattr(&slave).unwrap();
        modes.local_modes |= LocalModes::NOFLSH;
        modes.special_codes[SpecialCodeIndex::VINTR] = 0;
        tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        assert_eq!(found(b"\x1a\x03\0"), Some((0, libc::SIGTSTP, false)));
        modes.local_modes -= LocalModes::ISIG;
        tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        assert_eq!(found(b"\x1a"), None);
    }

    #[test]
    fn unread_input_is_seen_and_discarded() {
        let (master, slave) = open(Size::MOST).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        assert!(!has_unread(master.as_fd()));
        // Lines until there is no more room anywhere.
        while rustix::io::write(&master, &[b'\n'; 1000]).is_ok() {}
        // The kernel passes it on when it comes to it.
        let began = std::time::Instant::now();
        while !has_unread(master.as_fd()) {
            assert!(began.elapsed().as_secs() < 20, "it never has any");
            std::thread::yield_now();
        }
        discard_input(master.as_fd()).unwrap();
        assert!(!has_unread(master.as_fd()));
        assert_eq!(rustix::io::write(&master, b"new\n"), Ok(4));
        let mut line = [0; 100];
        let read = rustix::io::read(&slave, &mut line).unwrap();
        assert_eq!(&line[..read], b"new\n");
    }

    #[test]
    fn a_terminal_has_its_size_on_both_ends() {
        let size = |columns, rows| Size { columns, rows };
        let (master, slave) = open(size(100, 30)).unwrap();
        let seen = |end: &OwnedFd| {
            let seen = rustix::termios::tcgetwinsize(end).unwrap();
            (seen.ws_col, seen.ws_row)
        };
        assert_eq!(seen(&slave), (100, 30));
        resize(master.as_fd(), size(50, 10)).unwrap();
        assert_eq!(seen(&slave), (50, 10));
        assert_eq!(end_of_input(master.as_fd()).unwrap(), 4);
    }
}
