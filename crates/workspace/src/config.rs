//! What an embedder decides.

use botstead_lineage::RetentionRules;
use botstead_types::{Bounds, ImageRef, Limits};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of the use cases. [`WorkspaceConfig::new`] gives defaults that fit a small host.
#[derive(Debug, Clone)]
pub struct WorkspaceConfig {
    /// The agent's binary on this host: PID 1 of every workspace. It must be static, because it
    /// is mounted into images of any kind.
    pub agent: PathBuf,
    /// A directory of the host whose files every new workspace finds in `/data`.
    pub template: Option<PathBuf>,
    /// A directory of the host that is mounted read-only into every workspace and whose `bin` stands
    /// last in its PATH.
    pub toolkit: Option<PathBuf>,
    /// The image of a workspace that nobody chose one for.
    pub default_image: ImageRef,
    /// What workspaces may be made from and use, whoever asks. The default image and limits should be
    /// within it.
    pub bounds: Bounds,
    /// The most bytes that the configuration of an image may have which a workspace is made from: it is
    /// kept in the store.
    pub max_image_config_bytes: u64,
    /// Limits of a workspace where neither the request nor the bot names any.
    pub default_limits: Limits,
    /// How long the agent of a new workspace may take to answer, before its creation is undone. On a slow and
    /// busy host it takes seconds. Zero does not wait for it.
    pub first_answer: Duration,
    /// The most bytes in a workspace's `/dev/shm`.
    pub shared_memory_bytes: u64,
    /// An IANA time zone for workspaces; `None` leaves the image's own.
    pub timezone: Option<String>,
    /// Its rule (tzset(3)), for images without the zone's file.
    pub timezone_rule: Option<String>,
    /// How long a workspace's processes may take to end before they are killed.
    pub stop_grace: Duration,
    /// The budget of one pull. Nothing else shares it.
    pub pull_timeout: Duration,
    /// How long a pull keeps its place in any case. After that one that gets less than 1 MiB in a second is
    /// ended while all places are taken and somebody waits who has fewer of them.
    pub pull_turn: Duration,
    /// How long a mutating call waits for another on the same bot before it is refused.
    pub busy_wait: Duration,
    /// A directory on the filesystem that holds the workspaces, whose free space is watched.
    pub storage_path: PathBuf,
    /// New work is refused when less than this many bytes are free.
    pub min_free_bytes: u64,
    /// The same, as a percentage of that filesystem.
    pub min_free_percent: u8,
    /// A directory for the data of workspaces that were deleted with it preserved; made when missing,
    /// readable by the server only.
    pub preserved_dir: PathBuf,
    /// How many versions that nobody asked for are kept, where the bot has no rules of its own.
    pub retention: RetentionRules,
    /// How many workspaces are created or started at the same time; others wait their turn. One user has
    /// at most half of them. What the server starts by itself has as many places of its own.
    pub max_concurrent_starts: usize,
    /// How many exports may be under way; more are refused. One user has at most half of them.
    pub max_concurrent_exports: usize,
    /// An export of which nothing is taken for this long is ended.
    pub export_patience: Duration,
    /// Calls to a bot's agent that should be short, at once; more wait as long as for a busy bot, and are
    /// refused then.
    pub max_calls_per_bot: usize,
    /// The same for those that last: commands, terminals, watches, searches, and content of files on its
    /// way.
    pub max_streams_per_bot: usize,
    /// How long a workspace's agent may take nothing of what is sent to it, or give nothing of what it was
    /// asked for, before the call is ended. A copy or a removal says nothing until it is done, and may take
    /// sixty times as long.
    pub agent_patience: Duration,
    /// A terminal that nobody is connected to and nothing happens in is ended after this; never when
    /// zero.
    pub terminal_idle: Duration,
    /// How often what should run is compared with what runs, and each workspace that runs is asked
    /// whether it can be reached. Ends of tasks are noticed at once, by events.
    pub reconcile_interval: Duration,
}

impl WorkspaceConfig {
    /// Where preserved data is below the folder of the server's data.
    pub fn preserved_in(storage_path: &Path) -> PathBuf {
        storage_path.join("preserved")
    }

    /// Defaults around the two paths that have none.
    ///
    /// # Panics
    /// Never: the default image reference is a constant.
    pub fn new(agent: PathBuf, storage_path: PathBuf) -> Self {
        Self {
            agent,
            template: None,
            toolkit: None,
            default_image: default_image(),
            bounds: Bounds::default(),
            max_image_config_bytes: 1 << 20,
            default_limits: Limits {
                memory_bytes: Some(2 << 30),
                pids: Some(1024),
                cpu_millis: Some(0),
            },
            first_answer: Duration::from_secs(60),
            shared_memory_bytes: 64 << 20,
            timezone: None,
            timezone_rule: None,
            stop_grace: Duration::from_secs(10),
            pull_timeout: Duration::from_secs(30 * 60),
            pull_turn: Duration::from_secs(60),
            busy_wait: Duration::from_secs(30),
            preserved_dir: Self::preserved_in(&storage_path),
            storage_path,
            retention: RetentionRules::default(),
            min_free_bytes: 2 << 30,
            min_free_percent: 1,
            max_concurrent_starts: 16,
            max_concurrent_exports: 16,
            export_patience: Duration::from_secs(5 * 60),
            max_calls_per_bot: 64,
            max_streams_per_bot: 512,
            agent_patience: Duration::from_secs(60),
            terminal_idle: Duration::from_secs(24 * 3600),
            reconcile_interval: Duration::from_secs(60),
        }
    }
}

#[expect(clippy::expect_used, reason = "a constant that a test parses")]
fn default_image() -> ImageRef {
    "localhost/botstead/workspace"
        .parse()
        .expect("a valid reference")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_image_is_a_reference() {
        assert_eq!(
            super::default_image().as_str(),
            "localhost/botstead/workspace:latest"
        );
    }
}
