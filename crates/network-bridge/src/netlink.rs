//! A blocking rtnetlink client: sends batches of requests and reads what links, addresses and
//! routes there are. What the requests mean is the caller's.
//!
//! Blocking, because the kernel answers rtnetlink within the `send` call: there is nothing to wait
//! for. It also lets one thread talk to two network namespaces, which an asynchronous connection
//! bound to a runtime's threads cannot. A socket belongs for good to the namespace of the thread
//! that opened it.

use ipnet::Ipv4Net;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// The flags of requests that make something that must not exist yet.
pub(crate) const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// The flags of requests that make something or set it as wanted.
pub(crate) const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
/// The flags of requests that change or delete something that exists.
pub(crate) const CHANGE: u16 = 0;

/// A request with the flags that say whether its subject may exist.
pub(crate) type Request = (RouteNetlinkMessage, u16);

/// A link, as far as this crate cares.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
    /// Whether it passes packets: up, and so is its other end, as far as the kernel has noticed,
    /// and so does its bridge.
    pub(crate) running: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Vec<u8>,
    pub(crate) is_bridge: bool,
    pub(crate) alias: Option<String>,
    /// The bridge that it is a port of.
    pub(crate) controller: Option<u32>,
    /// Of a veth, the index of the other end in its namespace.
    pub(crate) peer: Option<u32>,
}

/// A route of the main or another table.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) link: Option<u32>,
    pub(crate) metric: u32,
}

/// A socket in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

/// The kernel's answers are at most half as large (`netlink_dump` of its sources).
const LONGEST_ANSWER: usize = 64 * 1024;

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            received: Vec::with_capacity(LONGEST_ANSWER),
        })
    }

    /// Sends all requests at once; they run in order, also after one that fails. One result each.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let mut buffer = Vec::new();
        let count = requests.len();
        for (message, flags) in requests {
            self.append(&mut buffer, message, flags | NLM_F_ACK);
        }
        self.socket.send(&buffer, 0)?;
        let mut results: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            self.receive(|sequence, payload| {
                let index = sequence.wrapping_sub(first) as usize;
                if let (Some(slot), NetlinkPayload::Error(error)) =
                    (results.get_mut(index), payload)
                {
                    *slot = Some(match error.code {
                        None => Ok(()),
                        Some(_) => Err(error.to_io()),
                    });
                }
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Sends all requests at once and tells the first failure.
    pub(crate) fn all(&mut self, requests: Vec<Request>) -> io::Result<()> {
        self.batch(requests)?.into_iter().collect()
    }

    /// The link with this name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message)
    }

    /// The link with this index.
    pub(crate) fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message)
    }

    fn one_link(&mut self, mut message: LinkMessage) -> io::Result<Option<Link>> {
        // Counters are most of an answer.
        let brief = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        message.attributes.push(brief);
        let sequence = self.send(RouteNetlinkMessage::GetLink(message), 0)?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|got, payload| {
                if got != sequence {
                    return;
                }
                match payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        answer = Some(Ok(link_of(link)));
                    }
                    NetlinkPayload::Error(error) => answer = Some(Err(error.to_io())),
                    _ => {}
                }
            })?;
        }
        match answer {
            Some(Ok(link)) => Ok(Some(link)),
            Some(Err(error)) if is(&error, nix::libc::ENODEV) => Ok(None),
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    /// The IPv4 addresses of a link, or of all of them.
    pub(crate) fn addresses(&mut self, link: Option<u32>) -> io::Result<Vec<Ipv4Net>> {
        let mut message = AddressMessage::default();
        message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        let mut found = Vec::new();
        self.dump(RouteNetlinkMessage::GetAddress(message), |message| {
            if let RouteNetlinkMessage::NewAddress(address) = message
                && link.is_none_or(|link| link == address.header.index)
            {
                found.extend(address_of(&address));
            }
        })?;
        Ok(found)
    }

    /// The IPv4 routes of all tables, those to local addresses included.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = rtnetlink::packet_route::AddressFamily::Inet;
        let mut found = Vec::new();
        self.dump(RouteNetlinkMessage::GetRoute(message), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                found.extend(route_of(&route));
            }
        })?;
        Ok(found)
    }

    fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let sequence = self.send(message, NLM_F_DUMP)?;
        let mut end = None;
        while end.is_none() {
            self.receive(|got, payload| {
                if got != sequence {
                    return;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => take(message),
                    NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
                    NetlinkPayload::Done(_) => end = Some(Ok(())),
                    _ => {}
                }
            })?;
        }
        end.unwrap_or(Ok(()))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        let mut buffer = Vec::new();
        self.append(&mut buffer, message, flags);
        self.socket.send(&buffer, 0)?;
        Ok(self.sequence)
    }

    fn append(&mut self, buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.sequence_number = self.sequence;
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let start = buffer.len();
        // Messages begin at multiples of four bytes (netlink(7), NLMSG_ALIGN).
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }

    fn receive(
        &mut self,
        mut take: impl FnMut(u32, NetlinkPayload<RouteNetlinkMessage>),
    ) -> io::Result<()> {
        self.received.clear();
        self.socket.recv(&mut self.received, 0)?;
        let mut rest = &self.received[..];
        while rest.len() >= 16 {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            take(message.header.sequence_number, message.payload);
            rest = rest.get(length.max(16)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Whether the error is this errno.
pub(crate) fn is(error: &io::Error, code: i32) -> bool {
    error.raw_os_error() == Some(code)
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        running: false,
        mtu: None,
        mac: Vec::new(),
        is_bridge: false,
        alias: None,
        controller: None,
        peer: None,
    };
    let mut blocked = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::OperState(state) => link.running = state == State::Up,
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                blocked = infos.iter().any(|info| match info {
                    LinkInfo::PortData(InfoPortData::BridgePort(port)) => port.iter().any(|port| {
                        matches!(port, InfoBridgePort::State(state) if *state != BridgePortState::Forwarding)
                    }),
                    _ => false,
                });
            }
            LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            _ => {}
        }
    }
    link.running &= !blocked;
    link
}

fn address_of(message: &AddressMessage) -> Option<Ipv4Net> {
    // On a point-to-point link `Address` is the other end's, so `Local` counts first.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    let address = local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                _ => None,
            })
    })?;
    Ipv4Net::new(address, message.header.prefix_len).ok()
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut link = None;
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => {
                link = link.or(hops.first().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    Some(Route {
        destination: Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?,
        link,
        metric,
    })
}
