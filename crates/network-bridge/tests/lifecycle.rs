//! Namespaces and links: made, examined, mended, removed.

mod support;

use botstead_network_bridge::BridgeNetwork;
use botstead_runtime::{Endpoint, EndpointStatus, ErrorKind, Network};
use botstead_types::{BotId, ContainerId};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;
use support::{Workspace, address, dial, is_there, on_own_host, serve, sh, within};

fn new_id() -> ContainerId {
    ContainerId::for_bot(BotId::generate())
}

#[test]
fn a_namespace_is_made_once_and_removed_without_a_trace() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let links = || sh("ip -o link | wc -l");
        let before = links();
        let id = new_id();
        let path = network.create_namespace(&id).await.unwrap();
        let inode = path.metadata().unwrap().ino();
        assert_eq!(network.create_namespace(&id).await.unwrap(), path);
        assert_eq!(path.metadata().unwrap().ino(), inode);
        assert_eq!(network.list().await.unwrap(), std::slice::from_ref(&id));
        let endpoint = Endpoint {
            address: address(&network, 1),
        };
        network.attach(&id, &endpoint).await.unwrap();
        assert_eq!(
            network.status(&id, &endpoint).await.unwrap(),
            EndpointStatus::Up
        );
        assert_ne!(links(), before);

        network.remove(&id).await.unwrap();
        network.remove(&id).await.unwrap();
        assert!(!is_there(&path));
        assert_eq!(network.list().await.unwrap(), []);
        assert_eq!(links(), before);
        let neighbours = sh("ip neigh show nud permanent");
        assert!(
            !neighbours.contains(&endpoint.address.to_string()),
            "{neighbours}"
        );
        let status = network.status(&id, &endpoint).await.unwrap();
        assert!(matches!(status, EndpointStatus::Broken(_)));

        network.teardown_host().await.unwrap();
        network.teardown_host().await.unwrap();
        assert!(!is_there(&network.config().namespace_dir));
    });
}

#[test]
fn many_that_make_the_same_namespace_get_the_same() {
    on_own_host(|lab| async move {
        let network = Arc::new(lab.network().await);
        let id = new_id();
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (network, id) = (Arc::clone(&network), id.clone());
                tokio::spawn(async move { network.create_namespace(&id).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(mounts.matches(id.as_str()).count(), 1, "{mounts}");
        network.remove(&id).await.unwrap();
    });
}

#[test]
fn wrong_requests_are_told_apart() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let id = new_id();
        let kind = async |id: &ContainerId, address| {
            network
                .attach(id, &Endpoint { address })
                .await
                .unwrap_err()
                .kind()
        };
        assert_eq!(kind(&id, address(&network, 1)).await, ErrorKind::NotFound);
        network.create_namespace(&id).await.unwrap();
        for bad in [
            network.info().gateway,
            network.info().subnet.network(),
            network.info().subnet.broadcast(),
            "192.0.2.77".parse().unwrap(),
        ] {
            assert_eq!(kind(&id, bad).await, ErrorKind::InvalidArgument, "{bad}");
        }
        // A plain file where a namespace should be is not one.
        let other = new_id();
        std::fs::write(network.config().namespace_dir.join(other.as_str()), "").unwrap();
        assert_eq!(
            kind(&other, address(&network, 1)).await,
            ErrorKind::NotFound
        );
        network.remove(&other).await.unwrap();
    });
}

#[test]
fn the_subnet_is_checked_and_kept() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let chosen = network.info().subnet;
        // Another installation takes another one; this one keeps it, whatever else comes.
        let mut other = lab.config();
        other.bridge_name = "bs-other".into();
        let next = BridgeNetwork::new(other.clone()).unwrap();
        assert_ne!(next.info().subnet, chosen);
        let around = chosen.supernet().unwrap();
        sh(&format!("ip route add {around} dev up0"));
        assert_eq!(
            BridgeNetwork::new(lab.config()).unwrap().info().subnet,
            chosen
        );
        let problems = network.problems().await.unwrap();
        assert!(
            problems
                .iter()
                .any(|problem| problem.what.contains("overlaps")),
            "{problems:?}"
        );

        other.subnet = Some("192.0.2.0/25".parse().unwrap());
        let error = BridgeNetwork::new(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("192.0.2."), "{error}");
    });
}

#[test]
fn what_breaks_is_seen_and_mended() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let mut workspace = Workspace::connect(&network, 1).await;
        let endpoint = workspace.endpoint();
        let bridge = network.config().bridge_name.clone();
        let gateway = network.info().gateway;
        let port = sh(&format!("ip -br link show master {bridge}"));
        let port = port.split(['@', ' ']).next().unwrap().to_owned();
        let inside = [
            "ip link del eth0".to_owned(),
            "ip link set eth0 down".to_owned(),
            "ip addr flush dev eth0".to_owned(),
            "ip route del default".to_owned(),
            format!(
                "ip addr flush dev eth0; ip addr add 203.0.113.5/24 dev eth0; ip route add default via {gateway} onlink dev eth0"
            ),
            "ip link set eth0 down; ip link set eth0 name other".to_owned(),
        ];
        let outside = [
            format!("ip link del {port}"),
            format!("ip link set {port} down"),
            format!("ip link set {port} nomaster"),
            format!("ip link del {bridge}"),
            format!("ip addr flush dev {bridge}; ip link set {bridge} down"),
            format!(
                "umount -l {}",
                network
                    .config()
                    .namespace_dir
                    .join(workspace.id.as_str())
                    .display()
            ),
        ];
        let cases = inside
            .iter()
            .map(|script| (true, script))
            .chain(outside.iter().map(|script| (false, script)));
        for (is_inside, script) in cases {
            if is_inside {
                workspace.run(|| sh(script));
            } else {
                sh(script);
            }
            let status = network.status(&workspace.id, &endpoint).await.unwrap();
            assert!(
                matches!(status, EndpointStatus::Broken(_)),
                "{script} was not seen"
            );
            network.ensure_host().await.unwrap();
            let path = network.create_namespace(&workspace.id).await.unwrap();
            network
                .attach(&workspace.id, &endpoint)
                .await
                .unwrap_or_else(|error| panic!("{script}: {}", error.chain()));
            let status = network.status(&workspace.id, &endpoint).await.unwrap();
            assert_eq!(status, EndpointStatus::Up, "{script}");
            workspace.namespace = File::open(path).unwrap();
            workspace
                .dial(lab.internet_server())
                .unwrap_or_else(|error| panic!("{script}: {error}"));
            let server = workspace.run(|| serve(workspace.address));
            dial(server).unwrap_or_else(|error| panic!("{script}: {error}"));
        }
    });
}

#[test]
fn a_link_name_that_is_taken_is_left_alone() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let workspace = Workspace::connect(&network, 1).await;
        let bridge = &network.config().bridge_name;
        let port = sh(&format!("ip -br link show master {bridge}"));
        let port = port.split(['@', ' ']).next().unwrap().to_owned();
        network.remove(&workspace.id).await.unwrap();
        // Another container whose hash begins alike.
        sh(&format!(
            "ip link add {port} type bridge && ip link set {port} alias workspace-other@10.201.0.9"
        ));
        network.create_namespace(&workspace.id).await.unwrap();
        network
            .attach(&workspace.id, &workspace.endpoint())
            .await
            .unwrap();
        assert_eq!(
            network
                .status(&workspace.id, &workspace.endpoint())
                .await
                .unwrap(),
            EndpointStatus::Up
        );
        network.remove(&workspace.id).await.unwrap();
        let link = sh(&format!("ip -d link show {port}"));
        assert!(
            link.contains("bridge") && link.contains("workspace-other"),
            "{link}"
        );
    });
}

#[test]
fn a_link_of_the_host_is_not_taken_for_the_bridge() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let name = network.config().bridge_name.clone();
        network.teardown_host().await.unwrap();
        let before = sh("nft list ruleset");
        for kind in ["veth", "bridge"] {
            sh(&format!(
                "ip link add {name} type {kind} && ip addr add 10.99.0.1/24 dev {name} && ip link set {name} up"
            ));
            let link = || sh(&format!("ip addr show {name}"));
            let theirs = link();
            let error = network.ensure_host().await.unwrap_err();
            assert!(
                error.chain().to_string().contains("another link"),
                "{error}"
            );
            network.teardown_host().await.unwrap();
            assert_eq!(link(), theirs, "{kind}");
            assert_eq!(sh("nft list ruleset"), before);
            sh(&format!("ip link del {name}"));
        }
        network.ensure_host().await.unwrap();
    });
}

#[test]
fn a_network_that_is_not_set_up_says_so() {
    on_own_host(|lab| async move {
        let network = BridgeNetwork::new(lab.config()).unwrap();
        let id = new_id();
        network.create_namespace(&id).await.unwrap();
        let endpoint = Endpoint {
            address: address(&network, 1),
        };
        let error = network.attach(&id, &endpoint).await.unwrap_err();
        assert!(
            error.to_string().contains("set up the host's network"),
            "{error}"
        );
        let problems = network.problems().await.unwrap();
        assert!(
            problems
                .iter()
                .any(|problem| problem.what.contains("bridge")),
            "{problems:?}"
        );
        network.ensure_host().await.unwrap();
        network.attach(&id, &endpoint).await.unwrap();
        sh(&format!(
            "ip link set {} down",
            network.config().bridge_name
        ));
        let error = network.attach(&id, &endpoint).await.unwrap_err();
        assert!(
            error.to_string().contains("set up the host's network"),
            "{error}"
        );
    });
}

#[test]
fn a_workspace_comes_back_at_once() {
    on_own_host(|lab| async move {
        let network = lab.network().await;
        let server = lab.internet_server();
        let id = new_id();
        let endpoint = Endpoint {
            address: address(&network, 1),
        };
        for _ in 0..20 {
            let path = network.create_namespace(&id).await.unwrap();
            network.attach(&id, &endpoint).await.unwrap();
            let status = network.status(&id, &endpoint).await.unwrap();
            assert_eq!(status, EndpointStatus::Up);
            // A process that outlives the workspace keeps the old namespace.
            let namespace = File::open(path).unwrap();
            within(&namespace, || dial(server)).unwrap();
            network.remove(&id).await.unwrap();
            assert!(within(&namespace, || dial(server)).is_err());
        }
        // And its address serves another one.
        for number in 0..20 {
            let workspace = Workspace::connect(&network, 1).await;
            workspace
                .dial(server)
                .unwrap_or_else(|error| panic!("{number}: {error}"));
            network.remove(&workspace.id).await.unwrap();
        }
    });
}

#[test]
fn fifty_connect_at_once() {
    on_own_host(|lab| async move {
        let network = Arc::new(lab.network().await);
        let server = lab.internet_server();
        let started = Instant::now();
        network.ensure_host().await.unwrap();
        println!("host again: {:?}", started.elapsed());
        let mut alone = Vec::new();
        for number in 101..=120 {
            let started = Instant::now();
            let workspace = Workspace::connect(&network, number).await;
            alone.push(started.elapsed());
            let started = Instant::now();
            network.remove(&workspace.id).await.unwrap();
            println!(
                "create + attach {:?}, remove {:?}",
                alone.last().unwrap(),
                started.elapsed()
            );
        }
        alone.sort();
        println!("create + attach alone: median {:?}", alone[alone.len() / 2]);

        let started = Instant::now();
        let tasks: Vec<_> = (1..=50)
            .map(|number| {
                let network = Arc::clone(&network);
                tokio::spawn(async move { Workspace::connect(&network, number).await })
            })
            .collect();
        let mut workspaces = Vec::new();
        for task in tasks {
            workspaces.push(task.await.unwrap());
        }
        println!("50 at once: {:?}", started.elapsed());
        assert_eq!(network.list().await.unwrap().len(), 50);
        for workspace in &workspaces {
            let status = network
                .status(&workspace.id, &workspace.endpoint())
                .await
                .unwrap();
            assert_eq!(status, EndpointStatus::Up);
            workspace.dial(server).unwrap();
        }
        let started = Instant::now();
        let tasks: Vec<_> = workspaces
            .into_iter()
            .map(|workspace| {
                let network = Arc::clone(&network);
                tokio::spawn(async move { network.remove(&workspace.id).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        println!("50 removed at once: {:?}", started.elapsed());
        assert_eq!(network.list().await.unwrap(), []);
    });
}
