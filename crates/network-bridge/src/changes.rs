//! Tells when somebody may have changed what this driver set up on the host: firewall rules, forwarding,
//! addresses. What to do about it, if anything, is the caller's.
//!
//! The kernel multicasts every change of nftables, and with it of the iptables that is built on it, and
//! of addresses and forwarding. The older iptables tells nobody. Nothing here says who made a change: the
//! driver's own lead to one more look, which finds nothing to do.

use crate::config::{BridgeConfig, TABLE_PREFIX};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};
use std::io;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

// linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
/// Tables, chains and rules have the messages up to this; the rest are sets, objects and counters.
const NFT_MSG_DELRULE: u16 = 8;
// linux/rtnetlink.h.
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTM_DELADDR: u16 = 21;
const RTM_NEWNETCONF: u16 = 80;
// linux/netconf.h.
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_IFINDEX_ALL: i32 = -1;

const NETLINK_HEADER: usize = 16;
const NFNETLINK_HEADER: usize = 4;
const NETCONF_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// A reload of a large firewall is a flood; what does not fit leads to a look as well.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The kernel sends at most a page or two in one message.
const LONGEST_MESSAGE: usize = 64 << 10;

/// So many changes are looked at at once, and then one in each such time. A repair is a change too.
const BURST: u32 = 8;
const EVERY: Duration = Duration::from_millis(400);

/// The kernel's messages about the host's network.
#[derive(Debug)]
pub(crate) struct Changes {
    firewall: AsyncFd<Socket>,
    links: AsyncFd<Socket>,
    own_table: String,
    seen: Seen,
    pace: Pace,
    /// A flood of other changes does not delay the look at a table that is gone.
    pace_when_gone: Pace,
}

/// What was seen and not told yet.
#[derive(Debug, Default)]
struct Seen {
    /// Something that matters.
    change: bool,
    /// The own table went, and did not come back.
    gone: bool,
}

impl Seen {
    fn take(&mut self, message: &[u8], own_table: &str) {
        if !firewall_matters(message, own_table) {
            return;
        }
        self.change = true;
        if table(message) == Some(own_table.as_bytes()) {
            match kind(message) & 0xff {
                NFT_MSG_NEWTABLE => self.gone = false,
                NFT_MSG_DELTABLE => self.gone = true,
                _ => {}
            }
        }
    }
}

impl Changes {
    /// Begins to listen. Call it within a tokio runtime, in the host's namespace.
    pub(crate) fn open(config: &BridgeConfig) -> io::Result<Self> {
        Ok(Self {
            firewall: listen(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])?,
            links: listen(NETLINK_ROUTE, &[RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_NETCONF])?,
            own_table: config.table_name.clone(),
            seen: Seen::default(),
            pace: Pace::default(),
            pace_when_gone: Pace::default(),
        })
    }

    /// Waits for the next change that may matter. Any number of them before the return are one. Tells
    /// whether the driver's table is known to be gone. May be cancelled.
    pub(crate) async fn next(&mut self) -> io::Result<bool> {
        while !self.seen.change {
            tokio::select! {
                ready = self.firewall.readable() => ready?.clear_ready(),
                ready = self.links.readable() => ready?.clear_ready(),
            }
            self.take()?;
        }
        let now = Instant::now();
        let at = match self.seen.gone {
            true => self.pace_when_gone.at(now),
            false => self.pace.at(now),
        };
        if at > now {
            sleep_until(at).await;
            // What came during the pause is looked at by the same look.
            self.take()?;
        }
        Ok(std::mem::take(&mut self.seen).gone)
    }

    /// Takes all messages that are there.
    fn take(&mut self) -> io::Result<()> {
        let seen = &mut self.seen;
        let whole = take_all(self.firewall.get_ref(), |message| {
            seen.take(message, &self.own_table);
        })?;
        if !whole {
            // Nobody knows what.
            *seen = Seen {
                change: true,
                gone: false,
            };
        }
        let whole = take_all(self.links.get_ref(), |message| {
            seen.change |= links_matter(message);
        })?;
        seen.change |= !whole;
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; that of a Socket cannot"
)]
fn listen(protocol: isize, groups: &[u32]) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
    socket.set_non_blocking(true)?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    AsyncFd::with_interest(socket, tokio::io::Interest::READABLE)
}

/// Takes all messages of a socket. Tells whether they are all that there were.
fn take_all(socket: &Socket, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut received = Vec::with_capacity(LONGEST_MESSAGE);
    let mut whole = true;
    loop {
        received.clear();
        match socket.recv(&mut received, 0) {
            Ok(_) => messages(&received).for_each(&mut take),
            // More came than was taken in time.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => whole = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(whole),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The messages of a datagram, headers included, as far as they are whole (netlink(7)).
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = rest.first_chunk::<4>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        let message = rest.get(..length.max(NETLINK_HEADER))?;
        rest = rest
            .get(length.next_multiple_of(4).max(NETLINK_HEADER)..)
            .unwrap_or_default();
        Some(message)
    })
}

fn kind(message: &[u8]) -> u16 {
    message
        .get(4..6)
        .map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]))
}

/// Whether a message is about tables, chains or rules that may stop workspaces' packets or are the
/// driver's. Those of other installations, and the guard, are neither.
fn firewall_matters(message: &[u8], own_table: &str) -> bool {
    let kind = kind(message);
    if kind >> 8 != NFNL_SUBSYS_NFTABLES || kind & 0xff > NFT_MSG_DELRULE {
        return false;
    }
    match table(message) {
        Some(table) => table == own_table.as_bytes() || !table.starts_with(TABLE_PREFIX.as_bytes()),
        None => true,
    }
}

/// The name of the table that a message is about: its first attribute has number 1 in all of them.
fn table(message: &[u8]) -> Option<&[u8]> {
    let (number, name) = attributes(message, NFNETLINK_HEADER).next()?;
    (number == 1).then(|| name.strip_suffix(&[0]).unwrap_or(name))
}

/// Whether an address went, or forwarding was switched off for the whole host. Each interface that comes
/// tells of its own, and every workspace brings one.
fn links_matter(message: &[u8]) -> bool {
    let number = |wanted| {
        attributes(message, NETCONF_HEADER)
            .find(|(number, _)| *number == wanted)
            .and_then(|(_, value)| Some(i32::from_ne_bytes(*value.first_chunk()?)))
    };
    match kind(message) {
        RTM_DELADDR => true,
        RTM_NEWNETCONF => {
            number(NETCONFA_IFINDEX) == Some(NETCONFA_IFINDEX_ALL)
                && number(NETCONFA_FORWARDING) == Some(0)
        }
        _ => false,
    }
}

/// The attributes of a message whose family has a header of this length, as far as they are whole.
fn attributes(message: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(NETLINK_HEADER + header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let number = u16::from_ne_bytes([header[2], header[3]]);
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((number, value))
    })
}

/// When the next look may be.
#[derive(Debug, Default)]
struct Pace {
    /// When as many looks as at the beginning may follow each other again.
    recovered: Option<Instant>,
}

impl Pace {
    /// The moment of the look at a change that is noticed now.
    fn at(&mut self, now: Instant) -> Instant {
        let recovered = self.recovered.map_or(now, |then| then.max(now));
        let ahead = EVERY * (BURST - 1);
        let at = match recovered.saturating_duration_since(now).checked_sub(ahead) {
            Some(pause) => now + pause,
            None => now,
        };
        self.recovered = Some(recovered + EVERY);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, table: Option<&str>) -> Vec<u8> {
        let mut body = vec![1, 0, 0, 0];
        if let Some(table) = table {
            let length = u16::try_from(ATTRIBUTE_HEADER + table.len() + 1).unwrap();
            body.extend(length.to_ne_bytes());
            body.extend(1_u16.to_ne_bytes());
            body.extend(table.as_bytes());
            body.push(0);
        }
        let length = u32::try_from(NETLINK_HEADER + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn what_cannot_matter_leads_to_no_look() {
        let own = "botstead-1";
        let nft = |kind| NFNL_SUBSYS_NFTABLES << 8 | kind;
        for (kind, table, matters) in [
            (nft(2), Some(own), true),
            (nft(8), Some(own), true),
            (nft(3), Some("filter"), true),
            (nft(6), Some("firewalld"), true),
            // Nothing that is known of.
            (nft(6), None, true),
            // Other installations, and the guard.
            (nft(6), Some("botstead-2"), false),
            (nft(2), Some("botstead-1-guard"), false),
            // A set's element, as ban lists have them by the thousand; the end of a transaction.
            (nft(12), Some("filter"), false),
            (nft(15), None, false),
            // Connection tracking.
            (1 << 8, None, false),
        ] {
            let datagram = [message(nft(15), None), message(kind, table)].concat();
            let found = messages(&datagram).any(|message| firewall_matters(message, own));
            assert_eq!(found, matters, "{kind:#x} {table:?}");
        }
        // Loading the table again deletes it first.
        let mut seen = Seen::default();
        for (kind, gone) in [(2, true), (0, false), (2, true), (6, true), (0, false)] {
            seen.take(&message(nft(kind), Some(own)), own);
            assert_eq!(seen.gone, gone, "{kind}");
        }
        // A message of no length, or cut off, ends the datagram and nothing else.
        assert_eq!(messages(&[0; 40]).count(), 2);
        assert_eq!(messages(&message(nft(2), Some(own))[..20]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }

    #[test]
    fn an_interface_that_comes_leads_to_no_look() {
        let conf = |kind: u16, interface: i32, forwarding: i32| {
            let mut message = message(kind, None);
            for (number, value) in [
                (NETCONFA_IFINDEX, interface),
                (NETCONFA_FORWARDING, forwarding),
            ] {
                message.extend(8_u16.to_ne_bytes());
                message.extend(number.to_ne_bytes());
                message.extend(value.to_ne_bytes());
            }
            let length = u32::try_from(message.len()).unwrap();
            message[..4].copy_from_slice(&length.to_ne_bytes());
            message
        };
        for (message, matters) in [
            (conf(RTM_NEWNETCONF, 7, 1), false),
            (conf(RTM_NEWNETCONF, 7, 0), false),
            (conf(RTM_NEWNETCONF, NETCONFA_IFINDEX_ALL, 1), false),
            (conf(RTM_NEWNETCONF, NETCONFA_IFINDEX_ALL, 0), true),
            (message(RTM_NEWNETCONF, None), false),
            (message(RTM_DELADDR, None), true),
        ] {
            assert_eq!(links_matter(&message), matters, "{message:?}");
        }
    }

    #[test]
    fn a_flood_is_looked_at_now_and_then_and_a_single_change_at_once() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let mut now = start;
        let mut looks = 0;
        // A change each millisecond for ten seconds; a look takes no time.
        while now < start + Duration::from_secs(10) {
            now = pace.at(now) + Duration::from_millis(1);
            looks += 1;
        }
        assert!((32..=34).contains(&looks), "{looks}");
        let later = now + EVERY * BURST;
        for _ in 0..BURST {
            assert_eq!(pace.at(later), later);
        }
        assert!(pace.at(later) > later);
    }
}
