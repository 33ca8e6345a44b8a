//! A container's link: a veth pair, one end a port of the bridge, the other `eth0` inside. And the
//! bridge itself.
//!
//! A workspace may run hostile code as root, so its port is *isolated* (frames go to the host only,
//! never to another isolated port), *locked* (frames count only with the hardware address that the
//! driver gave it) and learns nothing; the two ends know each other's hardware address from permanent
//! entries instead of asking. Kernels before 5.18 ignore the lock.

use crate::config::{OWN_MAC, mac};
use crate::netlink::{CHANGE, CREATE, Link, Netlink, Request, SET, is};
use ipnet::Ipv4Net;
use nix::libc::{EEXIST, ENETDOWN, ENODEV, ENOENT};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// The workspace's link, inside.
pub(crate) const INSIDE: &str = "eth0";

/// The kernel reports a link's changes at least once a second.
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

/// What a container's link is to be.
#[derive(Debug, Clone)]
pub(crate) struct Wiring {
    /// The names that the host's end may have; the first one that is free or its own is taken.
    pub(crate) names: Vec<String>,
    pub(crate) container: String,
    pub(crate) bridge: String,
    pub(crate) address: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u32,
}

impl Wiring {
    /// Tells whose link it is: names are short hashes, and two containers may share one.
    fn alias(&self) -> String {
        format!("{}@{}", self.container, self.address.addr())
    }
}

/// The container and address in an alias that [`Wiring::alias`] made.
fn owner(link: &Link) -> Option<(&str, Option<Ipv4Addr>)> {
    let (container, address) = link.alias.as_deref()?.split_once('@')?;
    Some((container, address.parse().ok()))
}

pub(crate) fn loopback_up(inside: &mut Netlink) -> io::Result<()> {
    // The loopback link is the first one of every namespace.
    inside.all(vec![change(LinkUnspec::new_with_index(1).up().build())])
}

/// Refuses a bridge's name that another link of the host has: nothing may happen to that.
pub(crate) fn refuse_foreign(host: &mut Netlink, name: &str, address: Ipv4Net) -> io::Result<()> {
    let Some(link) = host.link(name)? else {
        return Ok(());
    };
    // Others may have changed the hardware address of our own.
    if is_own(&link) || (link.is_bridge && host.addresses(Some(link.index))?.contains(&address)) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!(
            "the host has another link with the name {name}: configure another bridge, or remove \
             that link"
        ),
    ))
}

fn is_own(bridge: &Link) -> bool {
    bridge.is_bridge && bridge.mac.starts_with(&OWN_MAC)
}

/// Makes the bridge with its address, or mends it. The hardware address is set, because a bridge
/// without one takes that of a port and changes it when the port goes.
pub(crate) fn ensure_bridge(
    host: &mut Netlink,
    name: &str,
    address: Ipv4Net,
    mtu: u32,
) -> io::Result<()> {
    let hardware = mac(address.addr()).to_vec();
    let bridge = match host.link(name)? {
        Some(bridge) => bridge,
        None => {
            let message = LinkBridge::new(name)
                .address(hardware.clone())
                .mtu(mtu)
                .mcast_snooping(false)
                .build();
            match host.all(vec![(RouteNetlinkMessage::NewLink(message), CREATE)]) {
                Err(error) if !is(&error, EEXIST) => return Err(error),
                _ => {}
            }
            host.link(name)?.ok_or_else(missing)?
        }
    };
    let mut requests = Vec::new();
    if bridge.mac != hardware || bridge.mtu != Some(mtu) {
        let message = LinkUnspec::new_with_index(bridge.index)
            .address(hardware)
            .mtu(mtu);
        requests.push(change(message.build()));
    }
    let addresses = host.addresses(Some(bridge.index))?;
    for other in addresses.iter().filter(|found| **found != address) {
        let message = address_message(bridge.index, *other);
        requests.push((RouteNetlinkMessage::DelAddress(message), CHANGE));
    }
    if !addresses.contains(&address) {
        let message = address_message(bridge.index, address);
        requests.push((RouteNetlinkMessage::NewAddress(message), SET));
    }
    if !bridge.up {
        requests.push(change(
            LinkUnspec::new_with_index(bridge.index).up().build(),
        ));
    }
    if requests.is_empty() {
        return Ok(());
    }
    host.all(requests)
}

/// Connects a namespace, or mends its connection. The host's socket, the namespace and a socket in
/// it.
pub(crate) fn connect(
    host: &mut Netlink,
    namespace: &File,
    inside: &mut Netlink,
    wiring: &Wiring,
) -> io::Result<()> {
    let bridge = host.link(&wiring.bridge)?.ok_or_else(missing)?;
    if !bridge.up {
        return Err(io::Error::from_raw_os_error(ENETDOWN));
    }
    let (port, eth0) = ensure_pair(host, namespace, inside, wiring, bridge.index)?;
    configure_inside(inside, &eth0, wiring)?;
    let address = wiring.address.addr();
    host.all(vec![
        (
            RouteNetlinkMessage::NewNeighbour(forwarding_entry(port.index, address)),
            SET,
        ),
        (
            RouteNetlinkMessage::NewNeighbour(arp_entry(bridge.index, address)),
            SET,
        ),
    ])?;
    wait_until_running(inside, eth0.index)?;
    wait_until_running(host, port.index)?;
    // It stops with its last port and starts again with its first.
    wait_until_running(host, bridge.index)
}

/// Waits until a link passes packets. The kernel notices later that the other end is up, and until
/// then a new link, its port and the bridge drop what they get: a workspace's first connection
/// would take a second longer. From Linux 6.8 on asking makes it notice.
fn wait_until_running(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let deadline = Instant::now() + LONGEST_WAIT;
    while !netlink.link_by_index(index)?.ok_or_else(missing)?.running {
        if Instant::now() > deadline {
            // It may still come; whether it did, `examine` tells.
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn ensure_pair(
    host: &mut Netlink,
    namespace: &File,
    inside: &mut Netlink,
    wiring: &Wiring,
    bridge: u32,
) -> io::Result<(Link, Link)> {
    for name in &wiring.names {
        // Almost always the pair is new: try that before looking.
        let mut created = create_pair(host, namespace, name, wiring, bridge);
        if matches!(&created, Err(error) if is(error, EEXIST)) {
            // The name of either end is taken.
            let existing = host.link(name)?;
            let other = existing.as_ref().and_then(owner);
            if other.is_some_and(|(container, _)| container != wiring.container) {
                continue;
            }
            let eth0 = inside.link(INSIDE)?;
            match (existing, eth0) {
                (Some(port), Some(eth0))
                    if eth0.peer == Some(port.index) && port.peer == Some(eth0.index) =>
                {
                    // Down while it moves: it must not pass frames before it is isolated again.
                    if port.controller != Some(bridge) {
                        let message = LinkUnspec::new_with_index(port.index).down();
                        host.all(vec![change(message.controller(bridge).build())])?;
                    }
                    host.all(vec![change(port_settings(port.index, wiring))])?;
                    return Ok((port, eth0));
                }
                (port, eth0) => {
                    // Halves of links whose other end is gone or in a namespace that was replaced.
                    if let Some(port) = port {
                        host.all(vec![delete(port.index)])?;
                    }
                    if let Some(eth0) = eth0 {
                        gone_is_fine(inside.all(vec![delete(eth0.index)]))?;
                    }
                }
            }
            created = create_pair(host, namespace, name, wiring, bridge);
        }
        created?;
        let port = host.link(name)?.ok_or_else(missing)?;
        host.all(vec![change(port_settings(port.index, wiring))])?;
        let eth0 = inside.link(INSIDE)?.ok_or_else(missing)?;
        return Ok((port, eth0));
    }
    Err(io::Error::from_raw_os_error(EEXIST))
}

/// Both ends at once, each in its namespace: moving or renaming a link later would wait for all
/// processors.
fn create_pair(
    host: &mut Netlink,
    namespace: &File,
    name: &str,
    wiring: &Wiring,
    bridge: u32,
) -> io::Result<()> {
    let eth0 = LinkMessageBuilder::<LinkUnspec>::new()
        .name(INSIDE)
        .mtu(wiring.mtu)
        .address(mac(wiring.address.addr()).to_vec())
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let pair = LinkVeth::new(name, INSIDE)
        .mtu(wiring.mtu)
        .controller(bridge)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(eth0)))
        .build();
    host.all(vec![(RouteNetlinkMessage::NewLink(pair), CREATE)])
}

fn port_settings(index: u32, wiring: &Wiring) -> LinkMessage {
    LinkBridgePort::new(index)
        .isolated(true)
        .locked(true)
        .learning(false)
        .flood(false)
        .alias(wiring.alias())
        .up()
        .build()
}

/// Sets hardware address, address and default route, whatever was there.
fn configure_inside(inside: &mut Netlink, eth0: &Link, wiring: &Wiring) -> io::Result<()> {
    let hardware = mac(wiring.address.addr()).to_vec();
    let mut requests = Vec::new();
    // Nothing to look for in a link that was never up.
    if eth0.up {
        for other in inside.addresses(Some(eth0.index))? {
            if other != wiring.address {
                let message = address_message(eth0.index, other);
                requests.push((RouteNetlinkMessage::DelAddress(message), CHANGE));
            }
        }
    }
    if eth0.mac != hardware {
        let message = LinkUnspec::new_with_index(eth0.index).address(hardware);
        requests.push(change(message.build()));
    }
    let address = address_message(eth0.index, wiring.address);
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(wiring.gateway)
        .output_interface(eth0.index)
        .build();
    requests.extend([
        change(LinkUnspec::new_with_index(1).up().build()),
        change(LinkUnspec::new_with_index(eth0.index).up().build()),
        (RouteNetlinkMessage::NewAddress(address), SET),
        (RouteNetlinkMessage::NewRoute(route), SET),
        // What still comes for the address's last owner makes this one ask for the gateway before
        // its port passes packets; the next question would be a second later.
        (
            RouteNetlinkMessage::NewNeighbour(arp_entry(eth0.index, wiring.gateway)),
            SET,
        ),
    ]);
    inside.all(requests)
}

/// What is missing of a container's link, or `None`.
pub(crate) fn examine(
    host: &mut Netlink,
    inside: &mut Netlink,
    wiring: &Wiring,
) -> io::Result<Option<String>> {
    let Some(bridge) = host.link(&wiring.bridge)? else {
        return Ok(Some(format!("the bridge {} is missing", wiring.bridge)));
    };
    let Some(port) = find_port(host, &wiring.names, &wiring.container)? else {
        return Ok(Some("its link on the host is missing".to_owned()));
    };
    let Some(eth0) = inside.link(INSIDE)? else {
        return Ok(Some(format!("its link {INSIDE} is missing")));
    };
    let has_address = inside
        .addresses(Some(eth0.index))?
        .contains(&wiring.address);
    let has_route = inside
        .routes()?
        .iter()
        .any(|route| route.destination.prefix_len() == 0 && route.link == Some(eth0.index));
    let found = [
        (bridge.running, "the bridge is down"),
        (
            port.controller == Some(bridge.index),
            "its link is not on the bridge",
        ),
        (port.running, "its link on the host is down"),
        (
            eth0.peer == Some(port.index),
            "its links do not belong together",
        ),
        (eth0.running, "its link eth0 is down"),
        (has_address, "its address is missing"),
        (has_route, "its default route is missing"),
    ];
    let problem = found.iter().find(|(fine, _)| !fine);
    Ok(problem.map(|(_, problem)| (*problem).to_owned()))
}

/// Removes a container's link, if it has one. The other end goes with it.
///
/// Takes 20 to 40 ms, in which the kernel waits for all processors. Not left to a thread in the
/// background: whoever gets the address next would share it with a link that is going.
pub(crate) fn disconnect(
    host: &mut Netlink,
    names: &[String],
    container: &str,
    bridge: &str,
) -> io::Result<()> {
    let Some(port) = find_port(host, names, container)? else {
        return Ok(());
    };
    let mut requests = vec![delete(port.index)];
    if let Some((_, Some(address))) = owner(&port)
        && let Some(bridge) = host.link(bridge)?
    {
        let entry = arp_entry(bridge.index, address);
        requests.push((RouteNetlinkMessage::DelNeighbour(entry), CHANGE));
    }
    host.batch(requests)?.into_iter().try_for_each(gone_is_fine)
}

fn find_port(host: &mut Netlink, names: &[String], container: &str) -> io::Result<Option<Link>> {
    for name in names {
        if let Some(port) = host.link(name)?
            && owner(&port).is_some_and(|(owner, _)| owner == container)
        {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// Removes the bridge with this name, if there is one.
pub(crate) fn remove_bridge(host: &mut Netlink, name: &str) -> io::Result<()> {
    match host.link(name)? {
        Some(link) if is_own(&link) => gone_is_fine(host.all(vec![delete(link.index)])),
        _ => Ok(()),
    }
}

/// The bridge sends what is for this hardware address to this port only.
fn forwarding_entry(port: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = port;
    entry.header.state = NeighbourState::Noarp;
    entry.header.flags = NeighbourFlags::Controller;
    entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac(address).to_vec())];
    entry
}

/// The hardware address of this address is known on the link and never asked for.
fn arp_entry(link: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Inet;
    entry.header.ifindex = link;
    entry.header.state = NeighbourState::Permanent;
    entry.header.kind = RouteType::Unicast;
    entry.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac(address).to_vec()),
    ];
    entry
}

fn address_message(link: u32, address: Ipv4Net) -> AddressMessage {
    AddressMessageBuilder::<Ipv4Addr>::new()
        .index(link)
        .address(address.addr(), address.prefix_len())
        .build()
}

fn change(message: LinkMessage) -> Request {
    (RouteNetlinkMessage::NewLink(message), CHANGE)
}

fn delete(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    (RouteNetlinkMessage::DelLink(message), CHANGE)
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(ENODEV)
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is(&error, ENODEV) || is(&error, ENOENT) => Ok(()),
        other => other,
    }
}
