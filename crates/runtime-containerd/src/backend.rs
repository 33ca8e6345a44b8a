//! The backend as a whole: all ports on one connection.

use crate::cgroup::{Cgroups, QuickMoves};
use crate::channels::{ContainerdChannels, Folders};
use crate::client::{self, Client, error};
use crate::config::ContainerdConfig;
use crate::containers::ContainerdContainers;
use crate::copies::Copies;
use crate::feed::Feed;
use crate::images::{ContainerdImages, RegistryConfig};
use crate::leases::ContainerdLeases;
use crate::metrics::ContainerdMetrics;
use crate::snapshots::ContainerdSnapshots;
use crate::spec::files::EtcFiles;
use crate::spec::start::KnownStarts;
use crate::tasks::protect::Protection;
use crate::tasks::{ContainerdTasks, FirstProcesses, Starts};
use async_trait::async_trait;
use botstead_runtime::{Backend, Capabilities, Network, Result, Runtime};
use std::sync::Arc;
use std::time::Duration;

/// A containerd namespace as a backend.
#[derive(Debug)]
pub struct Containerd {
    client: Client,
    capabilities: Capabilities,
}

impl Containerd {
    /// The runtime on this containerd. Connects with the first call, and again whenever the
    /// connection broke; so it succeeds also while containerd does not run. Must be called on a
    /// tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` for a namespace that is no name, `Internal` when TLS for registries cannot
    /// be set up.
    pub fn connect(
        config: ContainerdConfig,
        registries: RegistryConfig,
        network: Arc<dyn Network>,
    ) -> Result<Runtime> {
        let channel = client::channel(&config.socket);
        let client = Client::new(channel.clone(), &config.namespace, &config.snapshotter)?;
        let images =
            ContainerdImages::new(channel, &config.namespace, &config.snapshotter, registries)?;
        let images = Arc::new(images);
        let cgroups = Cgroups::detect()
            .inspect_err(
                |error| tracing::warn!(%error, "no cgroups are seen here; containerd is asked"),
            )
            .ok();
        let capabilities = Capabilities {
            backend: "containerd".to_owned(),
            namespace: config.namespace.clone(),
            snapshotter: config.snapshotter.clone(),
            exec: true,
            metrics: true,
            images: true,
            channels: true,
            live_copies: true,
            cdi_devices: true,
            files: true,
            host_mounts: true,
        };
        let config = Arc::new(config);
        let feed = Feed::default();
        feed.try_early(client.clone());
        let known = Arc::<KnownStarts>::default();
        let first = Arc::<FirstProcesses>::default();
        let tasks = Arc::new(ContainerdTasks {
            client: client.clone(),
            config: Arc::clone(&config),
            starts: Starts::default(),
            known: Arc::clone(&known),
            protection: Protection::default(),
            moves: QuickMoves::default(),
            first: Arc::clone(&first),
        });
        Ok(Runtime {
            registries: Arc::clone(&images) as _,
            images,
            containers: Arc::new(ContainerdContainers {
                client: client.clone(),
                config: Arc::clone(&config),
                known,
                first,
            }),
            channels: Arc::new(ContainerdChannels {
                folders: Folders::new(&config.channel_root),
                etc: EtcFiles::new(&config.etc_root),
                tasks: Arc::clone(&tasks),
            }),
            tasks,
            snapshots: Arc::new(ContainerdSnapshots {
                client: client.clone(),
                copies: Copies::new(Arc::clone(&config), feed),
            }),
            leases: Arc::new(ContainerdLeases::new(client.clone())),
            metrics: Arc::new(ContainerdMetrics {
                client: client.clone(),
                config,
                cgroups,
            }),
            network,
            backend: Arc::new(Self {
                client,
                capabilities,
            }),
        })
    }
}

#[async_trait]
impl Backend for Containerd {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn version(&self) -> Result<String> {
        let mut request = self.client.request(());
        request.set_timeout(Duration::from_secs(3));
        let answer = self.client.version().version(request).await;
        let answer =
            answer.map_err(|status| error("ask for the version of", "containerd", status))?;
        let version = answer.into_inner().version;
        // Debian appends what it packaged: `1.6.20~ds1`.
        let end = version.find(['~', '+']).unwrap_or(version.len());
        Ok(version[..end].trim_start_matches('v').to_owned())
    }
}
