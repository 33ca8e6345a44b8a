//! From what is recorded of a workspace to how its container is run.

use crate::service::Inner;
use botstead_runtime::{ContainerSpec, Mount, Process};
use botstead_store::ContainerRecord;
use botstead_types::{BotId, CdiDevice, ContainerId};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the agent is inside a workspace. The adapter keeps `/run/botstead` out of the writable
/// layer.
pub(crate) const AGENT_PATH: &str = "/run/botstead/agent";

/// Where a bot's own files live inside.
pub(crate) const DATA_PATH: &str = "/data";

pub(crate) const LABEL_BOT: &str = "botstead.bot_id";
pub(crate) const LABEL_WORKSPACE: &str = "botstead.workspace";
pub(crate) const LABEL_DEVICES: &str = "botstead.workspace.cdi_devices";

impl Inner {
    /// How the workspace of that record is run.
    pub(crate) fn spec(
        &self,
        record: &ContainerRecord,
        address: Ipv4Addr,
        network_namespace: PathBuf,
    ) -> ContainerSpec {
        ContainerSpec {
            id: record.container.clone(),
            image: record.image.clone(),
            snapshot: record.snapshot.clone(),
            process: Process {
                args: vec![AGENT_PATH.to_owned()],
                env: vec![
                    format!("HOME={DATA_PATH}"),
                    format!("BOTSTEAD_BOT_ID={}", record.bot),
                ],
                cwd: "/".to_owned(),
            },
            hostname: hostname(record.bot),
            hosts: Vec::new(),
            dns: self.runtime.network.info().dns.clone(),
            timezone: self.config.timezone.clone(),
            mounts: vec![Mount {
                source: self.config.agent.clone(),
                destination: AGENT_PATH.to_owned(),
                read_only: true,
            }],
            network_namespace: Some(network_namespace),
            address: Some(address.into()),
            limits: record.limits.or(self.config.default_limits),
            devices: record.devices.clone(),
            labels: labels(record.bot, &record.devices),
        }
    }
}

/// The host name inside: short, and no two bots' are likely to be the same. The end of a UUIDv7
/// is random where its beginning is the time.
fn hostname(bot: BotId) -> String {
    let hex = bot.as_uuid().as_simple().to_string();
    format!("bot-{}", &hex[20..])
}

fn labels(bot: BotId, devices: &[CdiDevice]) -> BTreeMap<String, String> {
    let devices: Vec<_> = devices.iter().map(CdiDevice::as_str).collect();
    let mut labels = BTreeMap::from([
        (LABEL_BOT.to_owned(), bot.to_string()),
        (LABEL_WORKSPACE.to_owned(), "v1".to_owned()),
    ]);
    if !devices.is_empty() {
        labels.insert(LABEL_DEVICES.to_owned(), devices.join(","));
    }
    labels
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
        assert!(is_workspace_of(&labels(bot, &[]), &id));
        assert!(!is_workspace_of(&labels(BotId::generate(), &[]), &id));
        assert!(!is_workspace_of(&BTreeMap::new(), &id));
        let devices = ["a.com/b=0".parse().unwrap(), "a.com/b=1".parse().unwrap()];
        assert_eq!(labels(bot, &devices)[LABEL_DEVICES], "a.com/b=0,a.com/b=1");
    }
}
