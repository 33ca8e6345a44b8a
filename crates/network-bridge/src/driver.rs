//! [`BridgeNetwork`]: what the port promises, put together from the other modules.

use crate::changes::Changes;
use crate::config::BridgeConfig;
use crate::host::{self, Problem};
use crate::link::{self, Wiring};
use crate::netlink::{Netlink, Route, is};
use crate::own::OwnTables;
use crate::{dns, namespace, subnet};
use async_trait::async_trait;
use botstead_runtime::{Endpoint, EndpointStatus, Error, ErrorKind, Network, NetworkInfo, Result};
use botstead_types::ContainerId;
use ipnet::Ipv4Net;
use nix::libc::{ENETDOWN, ENFILE, ENODEV, ENOMEM, ENOSPC, EPERM, EXFULL};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How many names a container's link may have. Two containers share a name with a probability of
/// 2^-40, so that one spare would do.
const NAMES: u32 = 4;
/// The largest packet when there is no default route to learn it from.
const DEFAULT_MTU: u32 = 1500;

/// Workspaces as ports of a bridge. See the crate's documentation.
///
/// "The host" is the network namespace of the threads that call it: those of the asynchronous
/// runtime. The namespace of [`BridgeNetwork::new`] must be the same one.
#[derive(Debug)]
pub struct BridgeNetwork {
    config: Arc<BridgeConfig>,
    info: NetworkInfo,
    /// Two set-ups of the host at a time would insert rules twice.
    host: tokio::sync::Mutex<()>,
    /// Used by whoever holds `host`.
    tables: Arc<Mutex<OwnTables>>,
    changes: tokio::sync::Mutex<Option<Changes>>,
    /// The last that was heard of the own table is that it went.
    table_gone: AtomicBool,
}

impl BridgeNetwork {
    /// Reads what the host is like and settles the subnet. Changes nothing. Blocks for about a
    /// millisecond.
    ///
    /// # Errors
    /// `InvalidArgument` for names or values that cannot work, `Conflict` when the configured
    /// subnet overlaps another network of the host, `ResourceExhausted` when no private subnet is
    /// free, `Unavailable` when the kernel does not answer.
    pub fn new(config: BridgeConfig) -> Result<Self> {
        config.check()?;
        let info = plan(&config)?;
        Ok(Self {
            config: Arc::new(config),
            info,
            host: tokio::sync::Mutex::default(),
            tables: Arc::default(),
            changes: tokio::sync::Mutex::default(),
            table_gone: AtomicBool::new(false),
        })
    }

    /// How it was set up.
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Removes what [`Network::ensure_host`] made: rules, table, bridge and, when it is empty, the
    /// namespace directory. Workspaces that are still connected lose their connection. Forwarding
    /// stays on, because others may rely on it by now. Again: no change.
    ///
    /// # Errors
    /// What could not be removed; everything that could be, was.
    pub async fn teardown_host(&self) -> Result<()> {
        let _host = self.host.lock().await;
        let (config, tables) = (Arc::clone(&self.config), Arc::clone(&self.tables));
        namespace::on_thread("tear down", move || {
            let mut tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
            host::teardown(&config, &mut tables)
        })
        .await
    }

    /// What is wrong with the host's part of the network, with advice, for a person. Changes
    /// nothing.
    ///
    /// # Errors
    /// `Unavailable` when the kernel does not answer.
    pub async fn problems(&self) -> Result<Vec<Problem>> {
        let (config, info) = (Arc::clone(&self.config), self.info.clone());
        namespace::on_thread("examine", move || host::problems(&config, &info)).await
    }

    fn names(&self, id: &ContainerId) -> Vec<String> {
        (0..NAMES)
            .map(|attempt| self.config.veth(id, attempt))
            .collect()
    }

    fn wiring(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<Wiring> {
        let subnet = self.info.subnet;
        if !subnet::is_assignable(&subnet, endpoint.address) {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "connect", id).because(format!(
                    "{} is not a workspace's address of {subnet}",
                    endpoint.address
                )),
            );
        }
        Ok(Wiring {
            names: self.names(id),
            container: id.to_string(),
            bridge: self.config.bridge_name.clone(),
            address: Ipv4Net::new_assert(endpoint.address, subnet.prefix_len()),
            gateway: self.info.gateway,
            mtu: self.info.mtu,
        })
    }
}

fn plan(config: &BridgeConfig) -> Result<NetworkInfo> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Unavailable, "examine", "the host's network").with_source(error)
    };
    let mut netlink = Netlink::open().map_err(failed)?;
    let bridge = netlink.link(&config.bridge_name).map_err(failed)?;
    let own = bridge.map(|bridge| bridge.index);
    let routes = netlink.routes().map_err(failed)?;
    let mut taken: Vec<Ipv4Net> = routes
        .iter()
        .filter(|route| own.is_none() || route.link != own)
        .map(|route| route.destination)
        .collect();

    let mut dns = dns::host_dns();
    if !config.nameservers.is_empty() {
        dns.nameservers.clone_from(&config.nameservers);
    }
    let subnet = if let Some(subnet) = config.subnet {
        if let Some(other) = subnet::overlap(&subnet, &taken) {
            return Err(
                Error::new(ErrorKind::Conflict, "use subnet", subnet).because(format!(
                    "this host uses {other}; configure a subnet that it does not use"
                )),
            );
        }
        subnet
    } else if let Some(existing) = match own {
        Some(index) => netlink
            .addresses(Some(index))
            .map_err(failed)?
            .first()
            .copied(),
        None => None,
    } {
        existing.trunc()
    } else {
        // A name server elsewhere must not become a neighbour.
        taken.extend(dns.nameservers.iter().filter_map(|server| match server {
            std::net::IpAddr::V4(server) => Some(Ipv4Net::from(*server)),
            std::net::IpAddr::V6(_) => None,
        }));
        subnet::choose_subnet(&taken, config.subnet_seed()).ok_or_else(|| {
            Error::new(ErrorKind::ResourceExhausted, "choose", "a subnet")
                .because("this host uses all private networks; configure a subnet")
        })?
    };
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => way_out_mtu(&mut netlink, &routes).map_err(failed)?,
    };
    Ok(NetworkInfo {
        subnet,
        gateway: subnet::gateway(&subnet),
        mtu,
        dns,
    })
}

fn way_out_mtu(netlink: &mut Netlink, routes: &[Route]) -> io::Result<u32> {
    let way_out = routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .min_by_key(|route| route.metric)
        .and_then(|route| route.link);
    let link = match way_out {
        Some(index) => netlink.link_by_index(index)?,
        None => None,
    };
    Ok(link.and_then(|link| link.mtu).unwrap_or(DEFAULT_MTU))
}

/// What the kernel refused, about a container.
fn refused(operation: &'static str, id: &ContainerId) -> impl Fn(io::Error) -> Error {
    move |error| {
        let (kind, reason) = match error.raw_os_error() {
            Some(EPERM) => (ErrorKind::PermissionDenied, Some("it needs root's rights")),
            Some(EXFULL) => (
                ErrorKind::ResourceExhausted,
                Some("the bridge has no free port (a Linux bridge has 1023)"),
            ),
            Some(ENFILE | ENOMEM | ENOSPC) => (ErrorKind::ResourceExhausted, None),
            _ => (ErrorKind::Internal, None),
        };
        let text = reason.map_or_else(|| error.to_string(), str::to_owned);
        Error::new(kind, operation, id)
            .because(text)
            .with_source(error)
    }
}

#[async_trait]
impl Network for BridgeNetwork {
    fn info(&self) -> &NetworkInfo {
        &self.info
    }

    async fn ensure_host(&self) -> Result<()> {
        let _host = self.host.lock().await;
        let (config, info) = (Arc::clone(&self.config), self.info.clone());
        let tables = Arc::clone(&self.tables);
        let gone = self.table_gone.swap(false, Ordering::Relaxed);
        namespace::on_thread("set up", move || {
            let mut tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
            host::ensure(&config, &info, &mut tables, gone)
        })
        .await
    }

    async fn host_changed(&self) -> Result<()> {
        let mut changes = self.changes.lock().await;
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, "follow", "the host's network").with_source(error)
        };
        let done = match &mut *changes {
            Some(changes) => changes.next().await.map(|gone| {
                self.table_gone.store(gone, Ordering::Relaxed);
            }),
            // Whatever happened before is not known.
            None => Changes::open(&self.config).map(|opened| *changes = Some(opened)),
        };
        done.map_err(|error| {
            *changes = None;
            failed(error)
        })
    }

    async fn create_namespace(&self, id: &ContainerId) -> Result<PathBuf> {
        let path = self.config.namespace(id);
        let failed = refused("make the network namespace of", id);
        if namespace::is_mounted(&path).map_err(&failed)? {
            return Ok(path);
        }
        let created = path.clone();
        let id = id.clone();
        namespace::on_thread("make a namespace in", move || {
            namespace::create(&created).map_err(refused("make the network namespace of", &id))
        })
        .await?;
        Ok(path)
    }

    async fn attach(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<()> {
        let wiring = self.wiring(id, endpoint)?;
        let path = self.config.namespace(id);
        let id = id.clone();
        namespace::on_thread("connect a container to", move || {
            let failed = refused("connect", &id);
            let Some(namespace) = namespace::open(&path).map_err(&failed)? else {
                return Err(Error::new(ErrorKind::NotFound, "connect", &id)
                    .because("it has no network namespace"));
            };
            (|| {
                let mut host = Netlink::open()?;
                namespace::enter(&namespace)?;
                link::connect(&mut host, &namespace, &mut Netlink::open()?, &wiring)
            })()
            .map_err(|error| {
                if is(&error, ENODEV) || is(&error, ENETDOWN) {
                    failed(error)
                        .because("the bridge is missing or down; set up the host's network again")
                } else {
                    failed(error)
                }
            })
        })
        .await
    }

    async fn status(&self, id: &ContainerId, endpoint: &Endpoint) -> Result<EndpointStatus> {
        let wiring = self.wiring(id, endpoint)?;
        let path = self.config.namespace(id);
        let id = id.clone();
        namespace::on_thread("examine a container of", move || {
            let problem = (|| {
                let Some(namespace) = namespace::open(&path)? else {
                    return Ok(Some("its network namespace is missing".to_owned()));
                };
                let mut host = Netlink::open()?;
                namespace::enter(&namespace)?;
                link::examine(&mut host, &mut Netlink::open()?, &wiring)
            })()
            .map_err(|error: io::Error| {
                Error::new(ErrorKind::Unavailable, "examine the network of", &id)
                    .because(error.to_string())
                    .with_source(error)
            })?;
            Ok(problem.map_or(EndpointStatus::Up, EndpointStatus::Broken))
        })
        .await
    }

    async fn remove(&self, id: &ContainerId) -> Result<()> {
        let (config, names, id) = (Arc::clone(&self.config), self.names(id), id.clone());
        namespace::on_thread("disconnect a container from", move || {
            let link = Netlink::open().and_then(|mut host| {
                link::disconnect(&mut host, &names, id.as_str(), &config.bridge_name)
            });
            let namespace = namespace::remove(&config.namespace(&id));
            let failed = refused("disconnect", &id);
            match (link, namespace) {
                (Ok(()), Ok(())) => Ok(()),
                (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(failed(error)),
                (Err(link), Err(namespace)) => {
                    let reason = format!("link: {link}; namespace: {namespace}");
                    Err(failed(link).because(reason))
                }
            }
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ContainerId>> {
        let directory = self.config.namespace_dir.clone();
        let failed = move |error: io::Error| {
            Error::new(ErrorKind::Internal, "list", "the network namespaces").with_source(error)
        };
        let mut entries = match tokio::fs::read_dir(&directory).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(&failed)? {
            // A file without a namespace is left from a crash: listed, so that it gets removed.
            found.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok()),
            );
        }
        found.sort();
        Ok(found)
    }
}
