//! From what is recorded of a workspace to how its container is run.

use crate::Result;
use crate::agent;
use crate::notes::LABEL_BOT;
use crate::service::Inner;
use botstead_runtime::{ContainerSpec, Mount, Process};
use botstead_store::ContainerRecord;
use botstead_types::{BotId, CdiDevice, ContainerId, Limits, ResolvedImage};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the agent is inside a workspace. The adapter keeps `/run/botstead` out of the writable
/// layer.
pub(crate) const AGENT_PATH: &str = "/run/botstead/agent";

/// Where the directory is that the workspace shares with the host for the agent's socket.
pub(crate) const CHANNEL_PATH: &str = "/run/botstead/host";

/// Where template files and the toolkit are, as far as the host has them.
const TEMPLATE_PATH: &str = "/run/botstead/template";
const TOOLKIT_PATH: &str = "/run/botstead/toolkit";

/// Where a bot's own files live inside.
pub(crate) const DATA_PATH: &str = "/data";

const LABEL_WORKSPACE: &str = "botstead.workspace";
const LABEL_DEVICES: &str = "botstead.workspace.cdi_devices";
const LABEL_LIMITS: &str = "botstead.workspace.limits";

impl Inner {
    /// How the workspace of that record is run.
    pub(crate) async fn spec(
        &self,
        record: &ContainerRecord,
        address: Ipv4Addr,
        network_namespace: PathBuf,
    ) -> Result<ContainerSpec> {
        let image = self.resolved(&record.image).await?;
        Ok(self.spec_of(record, image, address, network_namespace))
    }

    /// The same with the record's image.
    pub(crate) fn spec_of(
        &self,
        record: &ContainerRecord,
        image: ResolvedImage,
        address: Ipv4Addr,
        network_namespace: PathBuf,
    ) -> ContainerSpec {
        ContainerSpec {
            id: record.container.clone(),
            snapshot: record.snapshot.clone(),
            process: Process {
                args: self.agent_command(&image.config.user),
                env: vec![
                    format!("HOME={DATA_PATH}"),
                    format!("BOTSTEAD_BOT_ID={}", record.bot),
                ],
                cwd: "/".to_owned(),
                // The last process of a workspace that is killed when its memory runs out.
                oom_score_adj: -998,
            },
            hostname: hostname(record.bot),
            hosts: Vec::new(),
            dns: self.runtime.network.info().dns.clone(),
            timezone: self.config.timezone.clone(),
            mounts: self.mounts(),
            channel: Some(CHANNEL_PATH.to_owned()),
            network_namespace: Some(network_namespace),
            address: Some(address.into()),
            limits: self
                .config
                .bounds
                .within(record.limits.or(self.config.default_limits)),
            shared_memory_bytes: self.config.shared_memory_bytes,
            devices: record.devices.clone(),
            labels: labels(record.bot, &record.devices, &record.limits),
            image,
        }
    }

    /// What PID 1 of a workspace runs.
    fn agent_command(&self, user: &str) -> Vec<String> {
        // The agent's own grace ends before the server kills it.
        let grace = self.config.stop_grace.mul_f32(0.8).as_millis();
        let mut args = vec![
            AGENT_PATH.to_owned(),
            "serve".to_owned(),
            "--socket".to_owned(),
            agent::socket_path(),
            "--grace-ms".to_owned(),
            grace.to_string(),
        ];
        let mut option = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        if !user.is_empty() {
            option("--user", user);
        }
        if let Some(rule) = &self.config.timezone_rule {
            option("--timezone-rule", rule);
        }
        if self.config.template.is_some() {
            option("--template", TEMPLATE_PATH);
        }
        if self.config.toolkit.is_some() {
            option("--toolkit", TOOLKIT_PATH);
        }
        args
    }

    fn mounts(&self) -> Vec<Mount> {
        let wanted = [
            (Some(&self.config.agent), AGENT_PATH),
            (self.config.template.as_ref(), TEMPLATE_PATH),
            (self.config.toolkit.as_ref(), TOOLKIT_PATH),
        ];
        let mount = |(source, destination): (Option<&PathBuf>, &str)| {
            Some(Mount {
                source: source?.clone(),
                destination: destination.to_owned(),
                read_only: true,
            })
        };
        wanted.into_iter().filter_map(mount).collect()
    }
}

/// The host name inside: short, and no two bots' are likely to be the same. The end of a UUIDv7
/// is random where its beginning is the time.
fn hostname(bot: BotId) -> String {
    let hex = bot.as_uuid().as_simple().to_string();
    format!("bot-{}", &hex[20..])
}

fn labels(bot: BotId, devices: &[CdiDevice], limits: &Limits) -> BTreeMap<String, String> {
    let devices: Vec<_> = devices.iter().map(CdiDevice::as_str).collect();
    let mut labels = BTreeMap::from([
        (LABEL_BOT.to_owned(), bot.to_string()),
        (LABEL_WORKSPACE.to_owned(), "v1".to_owned()),
    ]);
    if !devices.is_empty() {
        labels.insert(LABEL_DEVICES.to_owned(), devices.join(","));
    }
    // For a row that has to be written again.
    if *limits != Limits::default()
        && let Ok(limits) = serde_json::to_string(limits)
    {
        labels.insert(LABEL_LIMITS.to_owned(), limits);
    }
    labels
}

/// The devices that a container's labels name.
pub(crate) fn devices_of(labels: &BTreeMap<String, String>) -> Vec<CdiDevice> {
    let names = labels.get(LABEL_DEVICES).map_or("", String::as_str);
    let names = names.split(',').filter(|name| !name.is_empty());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// The limits that a container's labels tell.
pub(crate) fn limits_of(labels: &BTreeMap<String, String>) -> Limits {
    let limits = labels.get(LABEL_LIMITS);
    limits
        .and_then(|limits| serde_json::from_str(limits).ok())
        .unwrap_or_default()
}

/// Whether a container of the runtime is the bot's workspace as this server makes it.
pub(crate) fn is_workspace_of(labels: &BTreeMap<String, String>, id: &ContainerId) -> bool {
    labels
        .get(LABEL_WORKSPACE)
        .is_some_and(|value| value == "v1")
        && id.bot().is_some_and(|bot| {
            labels
                .get(LABEL_BOT)
                .is_some_and(|label| *label == bot.to_string())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_short_and_differ() {
        let (one, other) = (BotId::generate(), BotId::generate());
        assert_eq!(hostname(one).len(), 16);
        assert_ne!(hostname(one), hostname(other));
    }

    #[test]
    fn a_workspace_is_known_by_its_labels_and_id() {
        let bot = BotId::generate();
        let id = ContainerId::for_bot(bot);
        let limits = Limits::default();
        assert!(is_workspace_of(&labels(bot, &[], &limits), &id));
        assert!(!is_workspace_of(
            &labels(BotId::generate(), &[], &limits),
            &id
        ));
        assert!(!is_workspace_of(&BTreeMap::new(), &id));
        let devices = ["a.com/b=0".parse().unwrap(), "a.com/b=1".parse().unwrap()];
        let limits = Limits {
            pids: Some(100),
            ..limits
        };
        let labels = labels(bot, &devices, &limits);
        assert_eq!(labels[LABEL_DEVICES], "a.com/b=0,a.com/b=1");
        assert_eq!(devices_of(&labels), devices);
        assert_eq!(limits_of(&labels), limits);
        assert_eq!(devices_of(&BTreeMap::new()), []);
    }
}
