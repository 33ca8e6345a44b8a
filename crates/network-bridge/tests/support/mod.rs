//! A host of its own for each test: a network and a mount namespace that vanish with the test's
//! threads, wired to a second namespace that plays the internet. The machine's own network and
//! firewall are never touched.

// Not every test file uses every part, and a test file has nobody to be public for.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use botstead_network_bridge::{BridgeConfig, BridgeNetwork};
use botstead_runtime::{Endpoint, Network};
use botstead_types::{BotId, ContainerId};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The host's address towards the internet.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The address of the internet's only server.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// How long a packet that is dropped is waited for.
pub const PATIENCE: Duration = Duration::from_millis(400);

pub struct Lab {
    pub internet: File,
    pub directory: tempfile::TempDir,
}

/// Runs a test as if on a host of its own.
pub fn on_own_host<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("these tests need root: run them with sudo");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let internet = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        use std::os::fd::AsRawFd;
        let path = format!("/proc/{}/fd/{}", std::process::id(), internet.as_raw_fd());
        sh("ip link set lo up");
        sh(&format!(
            "ip link add up0 mtu 1400 type veth peer name in0 netns {path}"
        ));
        sh(&format!(
            "ip addr add {HOST}/24 dev up0 && ip link set up0 up"
        ));
        within(&internet, || {
            sh(&format!(
                "ip link set lo up; ip link set in0 mtu 1400 up; ip addr add {INTERNET}/24 dev in0"
            ));
        });
        sh(&format!("ip route add default via {INTERNET}"));
        // The kernel notices with a delay that the other end is up.
        sh("until ip link show up0 | grep -q 'state UP'; do sleep 0.01; done");
        within(&internet, || {
            sh("until ip link show in0 | grep -q 'state UP'; do sleep 0.01; done");
        });
        let lab = Lab {
            internet,
            directory: tempfile::tempdir().unwrap(),
        };
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(test(lab));
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

impl Lab {
    pub fn config(&self) -> BridgeConfig {
        BridgeConfig::for_installation("test", self.directory.path().join("netns"))
    }

    pub async fn network(&self) -> BridgeNetwork {
        let network = BridgeNetwork::new(self.config()).unwrap();
        network.ensure_host().await.unwrap();
        network
    }

    /// A server on the internet that answers with the address it sees.
    pub fn internet_server(&self) -> SocketAddr {
        within(&self.internet, || serve(INTERNET))
    }
}

/// A connected workspace.
pub struct Workspace {
    pub id: ContainerId,
    pub address: Ipv4Addr,
    pub namespace: File,
}

impl Workspace {
    /// Connects the workspace with this number to a network.
    pub async fn connect(network: &BridgeNetwork, number: u8) -> Self {
        let id = ContainerId::for_bot(BotId::generate());
        let address = address(network, number);
        let path = network.create_namespace(&id).await.unwrap();
        network.attach(&id, &Endpoint { address }).await.unwrap();
        let namespace = File::open(path).unwrap();
        Self {
            id,
            address,
            namespace,
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.address,
        }
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.namespace, work)
    }

    pub fn dial(&self, to: SocketAddr) -> io::Result<Peer> {
        self.run(|| dial(to))
    }
}

pub fn address(network: &BridgeNetwork, number: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.info().gateway.to_bits() + u32::from(number))
}

/// Runs work in another network namespace.
pub fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub fn try_sh(script: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(stdout)
    } else {
        Err(format!(
            "{stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

#[track_caller]
pub fn sh(script: &str) -> String {
    try_sh(script).unwrap_or_else(|error| panic!("{script}: {error}"))
}

/// Answers every connection with the address it sees, then echoes, in the calling thread's
/// namespace.
pub fn serve(address: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let local = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut greeting = [0; 16];
                let seen = stream.peer_addr().unwrap().ip().to_string();
                greeting[..seen.len()].copy_from_slice(seen.as_bytes());
                stream.write_all(&greeting).unwrap();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    local
}

/// An open connection to a server of [`serve`].
pub struct Peer {
    stream: TcpStream,
    /// The address from which the server saw it come.
    pub seen_as: IpAddr,
}

impl Peer {
    pub fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(&[42])?;
        self.stream.read_exact(&mut [0])
    }
}

/// Connects from the calling thread's namespace.
pub fn dial(to: SocketAddr) -> io::Result<Peer> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; 16];
    stream.read_exact(&mut greeting)?;
    let text = String::from_utf8_lossy(&greeting);
    let seen_as = text.trim_end_matches('\0').parse().unwrap();
    Ok(Peer { stream, seen_as })
}

/// Mends what others break, as the server does, for as long as the runtime lives.
pub fn mend_at_once(network: &Arc<BridgeNetwork>) {
    let network = Arc::clone(network);
    tokio::spawn(async move {
        loop {
            network.host_changed().await.unwrap();
            network.ensure_host().await.unwrap();
        }
    });
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} does not come to hold");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the network's rules are in a table that others cannot flush as well.
pub fn is_guarded(network: &BridgeNetwork) -> bool {
    let guard = format!("{}-guard", network.config().table_name);
    sh("nft list tables").contains(&guard)
}

/// Whether this kernel and `nft` have such tables and show them right.
pub fn can_be_guarded() -> bool {
    let shown = sh(
        "(echo 'table inet probe { flags owner; };'; sleep 5) | HOME=/none nft -i > /dev/null 2>&1 &
         for i in $(seq 300); do nft list table inet probe > /dev/null 2>&1 && break; sleep 0.01; done
         nft -j list table inet probe 2> /dev/null || true
         kill $!",
    );
    shown.contains("owner\"")
}

/// Kills the process that owns the table that others cannot flush, as the kernel would for lack of
/// memory.
pub fn kill_guard() {
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let found = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let namespace = std::fs::read_link(entry.path().join("ns/net"));
        name.trim() == "nft" && namespace.is_ok_and(|namespace| namespace == here)
    });
    let pid = found.expect("no guard").file_name();
    sh(&format!("kill -KILL {}", pid.to_str().unwrap()));
    eventually("the end of the guard", || {
        try_sh("nft list ruleset | grep -q -e -guard").is_err()
    });
}

pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
