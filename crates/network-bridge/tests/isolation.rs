//! What workspaces reach and what they do not, with real packets.

mod support;

use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use botstead_runtime::Network;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use support::{
    HOST, INTERNET, PATIENCE, Workspace, can_be_guarded, dial, eventually, is_guarded, kill_guard,
    mend_at_once, on_own_host, serve, sh, try_sh, within,
};

#[test]
fn the_internet_is_reached_with_the_hosts_address() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let mut peer = workspace.dial(lab.internet_server()).unwrap();
        assert_eq!(peer.seen_as, HOST);
        peer.echo().unwrap();
        // Its packets are as large as the way out takes.
        assert_eq!(network.info().mtu, 1400);
        let link = workspace.run(|| sh("ip link show eth0"));
        assert!(link.contains("mtu 1400"), "{link}");
    });
}

#[test]
fn the_host_reaches_workspaces_but_other_machines_do_not() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let server = workspace.run(|| serve(workspace.address));
        assert_eq!(dial(server).unwrap().seen_as, network.info().gateway);
        let subnet = network.info().subnet;
        within(&lab.internet, || {
            sh(&format!("ip route add {subnet} via {HOST}"));
            assert!(dial(server).is_err(), "another machine got in");
        });
    });
}

#[test]
fn workspaces_do_not_reach_each_other() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let one = Workspace::connect(&network, 1).await;
        let other = Workspace::connect(&network, 2).await;
        let server = other.run(|| serve(other.address));
        assert!(dial(server).is_ok(), "the server does not work");
        assert!(one.dial(server).is_err(), "over the bridge");
        let gateway = network.info().gateway;
        let address = other.address;
        one.run(|| sh(&format!("ip route add {address} via {gateway}")));
        assert!(one.dial(server).is_err(), "through the gateway");
        // And with the neighbour's hardware address known, so that none has to be asked for.
        let mac = other.run(|| sh("cat /proc/net/arp; ip -br link show eth0 | awk '{print $3}'"));
        let mac = mac.lines().last().unwrap().to_owned();
        one.run(|| {
            sh(&format!("ip route del {address} via {gateway}"));
            sh(&format!("ip neigh replace {address} lladdr {mac} dev eth0"));
        });
        assert!(one.dial(server).is_err(), "with a known hardware address");
    });
}

#[test]
fn installations_do_not_reach_each_others_workspaces() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let namespaces = lab.directory.path().join("second");
        let config = BridgeConfig::for_installation("second", namespaces);
        let second = BridgeNetwork::new(config).unwrap();
        second.ensure_host().await.unwrap();
        // Each has seen the other's rules now.
        network.ensure_host().await.unwrap();
        let one = Workspace::connect(&network, 1).await;
        let other = Workspace::connect(&second, 1).await;
        for (from, to) in [(&one, &other), (&other, &one)] {
            let server = to.run(|| serve(to.address));
            assert!(dial(server).is_ok(), "the server does not work");
            assert!(from.dial(server).is_err(), "it is reached");
        }
        let internet = lab.internet_server();
        assert!(one.dial(internet).is_ok() && other.dial(internet).is_ok());
        second.teardown_host().await.unwrap();
        network.teardown_host().await.unwrap();
    });
}

#[test]
fn services_of_the_host_are_out_of_reach() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let gateway = network.info().gateway;
        for address in [gateway, HOST] {
            let server = serve(address);
            assert!(dial(server).is_ok(), "the server does not work");
            assert!(workspace.dial(server).is_err(), "{server} was reached");
        }
        workspace.run(|| sh(&format!("busybox ping -c 1 -W 1 {gateway}")));
        // No IPv6 on the bridge that could be another way to them.
        let links = sh("ip -6 addr show");
        assert!(!links.contains(&network.config().bridge_name), "{links}");
        let inside = workspace.run(|| sh("ip -6 addr show"));
        assert!(
            inside.contains("::1/128") && !inside.contains("eth0"),
            "{inside}"
        );
    });
}

#[test]
fn a_name_server_on_the_host_answers_and_nothing_else_there_does() {
    on_own_host(|lab| async move {
        let mut config = lab.config();
        config.nameservers = vec![HOST.into()];
        let network = botstead_network_bridge::BridgeNetwork::new(config).unwrap();
        network.ensure_host().await.unwrap();
        let workspace = Workspace::connect(&network, 1).await;
        let ask = |port: u16| {
            let server = UdpSocket::bind((HOST, port)).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            workspace.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"?", (HOST, port)).unwrap();
            });
            server.recv(&mut [0]).is_ok()
        };
        assert!(ask(53));
        assert!(!ask(54));
    });
}

#[test]
fn blocked_networks_are_out_of_reach() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let metadata = Ipv4Addr::new(169, 254, 169, 254);
        let server = within(&lab.internet, || {
            sh(&format!("ip addr add {metadata}/32 dev lo"));
            serve(metadata)
        });
        assert!(dial(server).is_ok(), "the host itself may");
        assert!(workspace.dial(server).is_err());
    });
}

#[test]
fn false_addresses_get_nowhere() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let server = within(&lab.internet, || UdpSocket::bind((INTERNET, 7)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let arrives = |from: &str| {
            workspace.run(|| {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.send_to(b"?", (INTERNET, 7)).unwrap();
            });
            server.recv(&mut [0]).is_ok()
        };
        assert!(arrives(&workspace.address.to_string()));
        workspace.run(|| sh("ip addr add 203.0.113.9/32 dev lo"));
        assert!(!arrives("203.0.113.9"), "a foreign source address");
        workspace.run(|| sh("ip link set eth0 address 02:00:00:00:00:99"));
        assert!(
            !arrives(&workspace.address.to_string()),
            "a foreign hardware address"
        );
    });
}

#[test]
fn the_address_of_another_workspace_gets_nowhere() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let one = Workspace::connect(&network, 1).await;
        // In the same and in another byte of the address.
        let near = Workspace::connect(&network, 2).await;
        let far = Workspace::connect(&network, 255).await;
        let gateway = network.info().gateway;
        let away = within(&lab.internet, || UdpSocket::bind((INTERNET, 7)).unwrap());
        let here = UdpSocket::bind((gateway, 53)).unwrap();
        for (server, address) in [(&away, INTERNET), (&here, gateway)] {
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            let arrives = |workspace: &Workspace, from: Ipv4Addr| {
                workspace.run(|| {
                    let port = server.local_addr().unwrap().port();
                    let socket = UdpSocket::bind((from, 0)).unwrap();
                    socket.send_to(b"?", (address, port)).unwrap();
                });
                server.recv(&mut [0]).is_ok()
            };
            for other in [&near, &far] {
                assert!(arrives(other, other.address) || address == gateway);
                one.run(|| try_sh(&format!("ip addr add {}/32 dev lo", other.address)).ok());
                assert!(
                    !arrives(&one, other.address),
                    "{} to {address}",
                    other.address
                );
            }
            assert!(arrives(&one, one.address) || address == gateway);
        }
        // A question who has an address changes nothing of what the host knows.
        let known = sh(&format!("ip neigh show {}", near.address));
        one.run(|| {
            try_sh(&format!(
                "busybox arping -c 1 -w 1 -U -I eth0 -s {} {gateway}",
                near.address
            ))
            .ok()
        });
        assert_eq!(sh(&format!("ip neigh show {}", near.address)), known);
        assert!(known.contains("PERMANENT"), "{known}");
    });
}

#[test]
fn firewalls_that_drop_let_workspaces_through() {
    let firewalls = [
        ("policy", "iptables -P FORWARD DROP"),
        (
            "docker",
            "iptables -N DOCKER-USER && iptables -A DOCKER-USER -j RETURN && iptables -A FORWARD -j DOCKER-USER && iptables -P FORWARD DROP",
        ),
        (
            "nftables.conf",
            "nft 'table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }'",
        ),
        (
            "reject at the end",
            "nft 'table inet fw { chain sub { reject; }; chain forward { type filter hook forward priority 10; policy accept; iifname lo accept; jump sub; }; }'",
        ),
    ];
    for (name, script) in firewalls {
        on_own_host(move |lab| async move {
            let network = lab.network().await;
            let workspace = Workspace::connect(&network, 1).await;
            let server = lab.internet_server();
            assert!(network.problems().await.unwrap().is_empty());
            sh(script);
            assert!(workspace.dial(server).is_err(), "{name} does not drop");
            let problems = network.problems().await.unwrap();
            assert!(!problems.is_empty(), "{name} was not seen");

            network.ensure_host().await.unwrap();
            workspace
                .dial(server)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(network.problems().await.unwrap(), [], "{name}");
            // Repeating adds nothing.
            let rules = || sh("nft list ruleset | grep -c 'botstead bs-'; iptables -S");
            let before = rules();
            network.ensure_host().await.unwrap();
            assert_eq!(rules(), before, "{name}");
            // What the firewall lets through is still not what the driver's own table drops.
            let other = Workspace::connect(&network, 2).await;
            let server = other.run(|| serve(other.address));
            assert!(workspace.dial(server).is_err(), "{name}");

            network.teardown_host().await.unwrap();
            let left = sh("nft list ruleset; iptables -S; ip link");
            assert!(
                !left.contains("botstead") && !left.contains("bs-"),
                "{name}: {left}"
            );
        });
    }
}

#[test]
fn flushed_rules_are_mended_under_an_open_connection() {
    on_own_host(|lab| async move {
        sh("iptables -P FORWARD DROP");
        let network = lab.network().await;
        let one = Workspace::connect(&network, 1).await;
        let server = lab.internet_server();
        let mut open = one.dial(server).unwrap();
        open.echo().unwrap();
        for flush in [
            format!("nft delete table inet {}", network.config().table_name),
            "iptables -F FORWARD".to_owned(),
            "nft flush ruleset".to_owned(),
            format!(
                "nft flush chain inet {} way_out",
                network.config().table_name
            ),
            "sysctl -q -w net.ipv4.ip_forward=0".to_owned(),
        ] {
            // What is not acknowledged would be sent again while nobody translates addresses.
            eventually("an acknowledgement", || {
                let waiting = within(&lab.internet, || sh("ss -Htn state established"));
                waiting
                    .lines()
                    .all(|line| line.split_whitespace().nth(1) == Some("0"))
            });
            sh(&flush);
            assert!(
                !network.problems().await.unwrap().is_empty() || flush.contains("iptables"),
                "{flush}"
            );
            network.ensure_host().await.unwrap();
            assert_eq!(network.problems().await.unwrap(), [], "{flush}");
            open.echo()
                .unwrap_or_else(|error| panic!("{flush}: {error}"));
            let peer = one
                .dial(server)
                .unwrap_or_else(|error| panic!("{flush}: {error}"));
            assert_eq!(peer.seen_as, HOST, "{flush}");
        }
    });
}

#[test]
fn set_up_again_never_cuts_connections() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let one = Workspace::connect(&network, 1).await;
        let mut open = one.dial(lab.internet_server()).unwrap();
        let before = sh("ip -o link; ip -4 -o addr; ip route");
        for _ in 0..5 {
            network.ensure_host().await.unwrap();
            open.echo().unwrap();
            network.attach(&one.id, &one.endpoint()).await.unwrap();
            open.echo().unwrap();
        }
        assert_eq!(sh("ip -o link; ip -4 -o addr; ip route"), before);
        // Another one's coming and going is not noticed either.
        let other = Workspace::connect(&network, 2).await;
        open.echo().unwrap();
        network.remove(&other.id).await.unwrap();
        open.echo().unwrap();
        assert!(try_sh("nft list ruleset | grep -q masquerade").is_ok());
    });
}

#[test]
fn a_flush_of_all_rules_opens_nothing_and_cuts_nothing() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let other = Workspace::connect(&network, 2).await;
        let internet = lab.internet_server();
        let mut open = workspace.dial(internet).unwrap();
        let host = serve(HOST);
        let neighbour = other.run(|| serve(other.address));
        assert!(dial(host).is_ok() && dial(neighbour).is_ok());
        assert_eq!(is_guarded(&network), can_be_guarded());
        if !is_guarded(&network) {
            // Then the moment is short, which `what_others_break_is_mended_at_once` sees to.
            mend_at_once(&Arc::new(network));
            sh("nft flush ruleset");
            eventually("a closed host", || workspace.dial(host).is_err());
            return;
        }
        // Nobody mends anything here.
        for flush in ["nft flush ruleset", "nft flush ruleset inet"] {
            sh(flush);
            assert!(workspace.dial(host).is_err(), "{flush}: the host is open");
            assert!(
                workspace.dial(neighbour).is_err(),
                "{flush}: a neighbour is open"
            );
            open.echo()
                .unwrap_or_else(|error| panic!("{flush}: {error}"));
            let peer = workspace.dial(internet);
            assert_eq!(peer.unwrap().seen_as, HOST, "{flush}");
        }
        let refused = try_sh(&format!(
            "nft delete table inet {}-guard",
            network.config().table_name
        ));
        assert!(refused.is_err());
        // A firewall's configuration as administrators load it.
        sh("printf 'flush ruleset\\ntable inet filter { }\\n' | nft -f -");
        assert!(workspace.dial(host).is_err());
    });
}

#[test]
fn what_others_break_is_mended_at_once() {
    on_own_host(|lab| async move {
        let network = Arc::new(lab.network().await);
        mend_at_once(&network);
        let workspace = Workspace::connect(&network, 1).await;
        let server = lab.internet_server();
        let table = &network.config().table_name;
        let bridge = &network.config().bridge_name;
        let is_whole = || {
            let whole = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(network.problems())
            });
            whole.unwrap().is_empty()
        };
        for breaking in [
            "nft flush ruleset".to_owned(),
            format!("nft delete table inet {table}"),
            format!("nft flush chain inet {table} to_host"),
            // As many rules as before, which say something else.
            format!("nft insert rule inet {table} to_host accept && nft delete rule inet {table} to_host handle $(nft -a list chain inet {table} to_host | grep echo-request | sed 's/.*handle //')"),
            // Again and again, also between the repair and the look at what it did.
            format!("handle=$(nft -a list chain inet {table} to_host | grep echo-request | sed 's/.*handle //'); for i in $(seq 300); do nft delete rule inet {table} to_host handle $handle 2>/dev/null; done; true"),
            // Docker, ufw, or a firewall that is loaded again, start later than the server.
            "iptables -P FORWARD DROP".to_owned(),
            "nft 'table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }'".to_owned(),
            "nft flush chain inet filter forward".to_owned(),
            "nft 'chain inet filter forward { policy accept; }; add rule inet filter forward drop'".to_owned(),
            "nft flush ruleset".to_owned(),
            "sysctl -q -w net.ipv4.ip_forward=0".to_owned(),
            format!("ip addr flush dev {bridge}"),
        ] {
            sh(&breaking);
            eventually(&format!("after {breaking}, the whole network"), is_whole);
            eventually(&format!("after {breaking}, a way out"), || workspace.dial(server).is_ok());
            eventually(&format!("after {breaking}, the right rules"), || {
                let rules = sh(&format!("nft list chain inet {table} to_host"));
                rules.contains("echo-request") && !rules.contains("\t\taccept\n")
            });
        }
    });
}

#[test]
fn connections_of_an_open_moment_end_with_it() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let host = serve(HOST);
        let server = workspace.run(|| serve(workspace.address));
        let machine = || {
            let subnet = network.info().subnet;
            sh(&format!("ip route replace {subnet} via {HOST}"));
            dial(server)
        };
        let mut allowed = dial(server).unwrap();
        let guarded = is_guarded(&network);
        if guarded {
            kill_guard();
        }
        sh(&format!(
            "nft delete table inet {}",
            network.config().table_name
        ));
        let mut inside = workspace.dial(host).unwrap();
        inside.echo().unwrap();
        // The host's end speaks first when the rules are back.
        let talker = TcpListener::bind((HOST, 0)).unwrap();
        let talking_to = talker.local_addr().unwrap();
        let mut heard = workspace.run(|| TcpStream::connect(talking_to).unwrap());
        let (mut talking, _) = talker.accept().unwrap();
        let mut outside = within(&lab.internet, machine).unwrap();
        outside.echo().unwrap();
        network.ensure_host().await.unwrap();
        talking.write_all(b"push").unwrap();
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(heard.read(&mut [0; 4]).is_err(), "the host's end is heard");
        let _ = heard.write_all(b"more");
        talking.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(talking.read(&mut [0; 4]).is_err(), "the host hears");
        assert!(inside.echo().is_err(), "the host stays open");
        assert!(outside.echo().is_err(), "the workspace stays open");
        allowed.echo().unwrap();
        assert!(workspace.dial(host).is_err());
        assert_eq!(is_guarded(&network), guarded, "the guard is not back");
    });
}

#[test]
fn a_flood_of_changes_is_survived_and_own_changes_lead_to_no_others() {
    on_own_host(|lab| async move {
        let network = Arc::new(lab.network().await);
        // More messages than the socket holds while nobody takes any.
        network.host_changed().await.unwrap();
        let mut rules = String::from("table ip flood { chain c { }; }\n");
        for number in 0..20_000 {
            rules.push_str(&format!(
                "add rule ip flood c ip saddr 10.0.0.1 counter comment \"{number:0100}\"\n"
            ));
        }
        let file = lab.directory.path().join("rules");
        std::fs::write(&file, rules).unwrap();
        sh(&format!("nft -f {}", file.display()));
        network.host_changed().await.unwrap();
        network.ensure_host().await.unwrap();
        // A look at a whole network changes nothing; a repair leads to one more look and to no third.
        sh("nft delete table ip flood");
        mend_at_once(&network);
        sh(&format!(
            "nft delete table inet {}",
            network.config().table_name
        ));
        let handle = || {
            sh(&format!(
                "nft -a list table inet {} 2>&1 || true",
                network.config().table_name
            ))
        };
        eventually("the table", || handle().contains("way_out"));
        let mended = handle();
        sh("for i in 1 2 3; do nft add table ip other; nft delete table ip other; done");
        for _ in 0..3 {
            network.ensure_host().await.unwrap();
        }
        assert_eq!(handle(), mended, "a whole table was replaced");
    });
}
