//! What a specification says to this adapter instead of runc, in annotations: what has to be done at
//! every start of a task. And how a specification that an older release recorded is brought up to date.

use super::files::{self, NAMES};
use super::mounts;
use botstead_runtime::ContainerSpec;
use botstead_types::ContainerId;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const OOM_SCORE_ADJ: &str = "botstead.oom-score-adj";
const ETC: &str = "botstead.etc.";
/// What is kept of a file that an older release had on the host's disk, where the root inside may have
/// written anything to it.
const MOST_OF_A_FILE: u64 = 64 << 10;

/// What is done at every start of a task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The files in `/etc`, by name.
    pub(crate) etc: Vec<(String, String)>,
    /// Where something is mounted, beside the kernel's filesystems.
    pub(crate) mounts: Vec<String>,
    /// What the first process gets, and nothing that it starts can take: see
    /// [`crate::tasks::protect`].
    pub(crate) oom_score_adj: i32,
}

/// What the records say that this process wrote, so that a start need not ask for them.
#[derive(Debug, Default)]
pub(crate) struct KnownStarts(Mutex<HashMap<ContainerId, Arc<Start>>>);

impl KnownStarts {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<Start>> {
        self.table().get(id).cloned()
    }

    /// After an answer to writing a record with this specification: only what was certainly written is
    /// known.
    pub(crate) fn written(&self, id: &ContainerId, spec: &[u8], done: bool) {
        let start = serde_json::from_slice(spec).ok();
        let start = start.filter(|_| done).and_then(|document| read(&document));
        match start {
            Some(start) => drop(self.table().insert(id.clone(), Arc::new(start))),
            None => self.forget(id),
        }
    }

    pub(crate) fn forget(&self, id: &ContainerId) {
        self.table().remove(id);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Start>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The annotations of a new specification.
pub(super) fn annotations(spec: &ContainerSpec) -> HashMap<String, String> {
    let contents = NAMES.into_iter().zip(files::contents(spec));
    contents
        .map(|(name, content)| (format!("{ETC}{name}"), content))
        .chain([(
            OOM_SCORE_ADJ.to_owned(),
            spec.process.oom_score_adj.to_string(),
        )])
        .collect()
}

/// What the recorded specification says; `None` for one of an older release.
pub(crate) fn read(document: &Value) -> Option<Start> {
    let annotations = document.get("annotations")?;
    let text = |key: &str| annotations.get(key)?.as_str();
    let etc = NAMES
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), text(&format!("{ETC}{name}"))?.to_owned())))
        .collect();
    let mounts = document.get("mounts").and_then(Value::as_array);
    let mounts = mounts
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["destination"].as_str())
        .filter(|destination| {
            !mounts::is_of_the_kernel(destination.trim_start_matches('/').as_bytes())
        })
        .map(str::to_owned)
        .collect();
    Some(Start {
        etc,
        mounts,
        oom_score_adj: text(OOM_SCORE_ADJ)?.parse().ok()?,
    })
}

/// Limits the terminals of what was recorded before there was a limit; whether there was none.
pub(crate) fn limit_terminals(document: &mut Value) -> bool {
    let all = document.get_mut("mounts").and_then(Value::as_array_mut);
    let mut terminals = all
        .into_iter()
        .flatten()
        .filter(|mount| mount["destination"] == "/dev/pts");
    let options = terminals.next().and_then(|mount| mount.get_mut("options"));
    let Some(Value::Array(options)) = options else {
        return false;
    };
    let limit = json!(mounts::MOST_TERMINALS);
    let missing = !options.contains(&limit);
    if missing {
        options.push(limit);
    }
    missing
}

/// Takes away the mount of a time zone that older releases recorded: it covered a file that a package of the
/// image may replace. Whether there was one.
pub(crate) fn uncover_zone(document: &mut Value) -> bool {
    let Some(Value::Array(mounts)) = document.get_mut("mounts") else {
        return false;
    };
    let before = mounts.len();
    mounts.retain(|mount| mount["destination"] != "/etc/localtime");
    mounts.len() < before
}

/// Brings what an older release recorded up to date: files in `/etc` that are not on the host's disk,
/// below `folder`; a control group namespace; a first process whose protection is its own.
pub(crate) fn renew(document: &mut Value, folder: &Path, cgroup_namespace: bool) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    // Those of others stay.
    let mut annotations = match document.get("annotations") {
        Some(found @ Value::Object(_)) => found.clone(),
        _ => json!({}),
    };
    let process = document.get_mut("process").ok_or_else(invalid)?;
    let score = process.get("oomScoreAdj").and_then(Value::as_i64);
    let score = score.unwrap_or(0);
    if score < 0 {
        process["oomScoreAdj"] = json!(0);
    }
    annotations[OOM_SCORE_ADJ] = json!(score.to_string());
    let all = document.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in all.ok_or_else(invalid)? {
        let destination = mount["destination"].as_str().unwrap_or_default();
        let Some(name) = NAMES
            .into_iter()
            .find(|name| destination == format!("/etc/{name}"))
        else {
            continue;
        };
        let mut content = Vec::new();
        match File::open(mount["source"].as_str().unwrap_or_default()) {
            Ok(source) => {
                source.take(MOST_OF_A_FILE).read_to_end(&mut content)?;
            }
            // Better empty than no workspace.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut text = String::from_utf8_lossy(&content).into_owned();
        // What is no UTF-8 takes more room as text than as bytes.
        text.truncate(text.floor_char_boundary(MOST_OF_A_FILE as usize));
        annotations[format!("{ETC}{name}")] = json!(text);
        *mount = json!({"destination": destination, "type": "bind", "source": folder.join(name),
            "options": mounts::ETC_OPTIONS});
    }
    document["annotations"] = annotations;
    let namespaces = document
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut);
    let namespaces = namespaces.ok_or_else(invalid)?;
    if cgroup_namespace
        && !namespaces
            .iter()
            .any(|namespace| namespace["type"] == "cgroup")
    {
        namespaces.push(json!({"type": "cgroup"}));
    }
    Ok(())
}
