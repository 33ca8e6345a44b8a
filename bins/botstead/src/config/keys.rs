//! The list of all keys: their names, environment variables, defaults and documentation.

use super::settings::{
    Auth, Config, Containerd, Database, Http, Images, Log, MaxLimits, Network, Registry, Retention,
    Runtime, ServerLimits, Shutdown, Workspace, WorkspaceLimits,
};
use serde_json::Value;
use std::fmt::Write;

/// What every environment variable begins with.
pub const PREFIX: &str = "BOTSTEAD_";
/// Variables with this beginning tell the tests where things are.
pub(super) const TEST_PREFIX: &str = "BOTSTEAD_TEST_";
/// Other variables that are no keys.
pub(super) const OTHER_VARIABLES: &[&str] = &[
    "BOTSTEAD_CONFIG",
    "BOTSTEAD_FAULT_COMMAND",
    "BOTSTEAD_FAULT_FILE",
    "BOTSTEAD_FAULT_POINT",
    "BOTSTEAD_PASSWORD",
];

/// A field's name and the lines of its documentation.
pub(super) type FieldDoc = (&'static str, &'static [&'static str]);

const SECTIONS: &[(&str, &[FieldDoc])] = &[
    ("", Config::DOCS),
    ("log", Log::DOCS),
    ("auth", Auth::DOCS),
    ("database", Database::DOCS),
    ("runtime", Runtime::DOCS),
    ("runtime.containerd", Containerd::DOCS),
    ("registry", Registry::DOCS),
    ("images", Images::DOCS),
    ("network", Network::DOCS),
    ("workspace", Workspace::DOCS),
    ("workspace.limits", WorkspaceLimits::DOCS),
    ("workspace.max_limits", MaxLimits::DOCS),
    ("workspace.retention", Retention::DOCS),
    ("limits", ServerLimits::DOCS),
    ("http", Http::DOCS),
    ("shutdown", Shutdown::DOCS),
];

/// A key that an operator may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its name in the file, such as `runtime.containerd.mode`.
    pub name: String,
    /// What it means.
    pub description: String,
    /// Its default, `null` when it is not set by default.
    pub default: Value,
}

impl Key {
    /// Its environment variable, such as `BOTSTEAD_RUNTIME__CONTAINERD__MODE`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "__").to_uppercase())
    }
}

/// Every key, in the order of the documentation.
pub fn keys() -> Vec<Key> {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut keys = Vec::new();
    for (section, docs) in SECTIONS {
        for (field, lines) in *docs {
            let name = match *section {
                "" => (*field).to_owned(),
                section => format!("{section}.{field}"),
            };
            if SECTIONS.iter().any(|(section, _)| *section == name) {
                continue;
            }
            let pointer = format!("/{}", name.replace('.', "/"));
            let lines = lines.iter().map(|line| line.trim());
            keys.push(Key {
                description: lines.collect::<Vec<_>>().join(" "),
                default: defaults.pointer(&pointer).cloned().unwrap_or_default(),
                name,
            });
        }
    }
    keys
}

/// Whether `name` is a section, such as `runtime.containerd`.
pub(super) fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == name)
}

/// The candidate that is most like `name`, unless none is much like it.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Rendered from bins/botstead/src/config/settings.rs: edit that, then run
     UPDATE_DOCS=1 cargo test -p botstead --test configuration -->

The server reads a TOML file, `--config FILE` or the file that `BOTSTEAD_CONFIG` names, and then the
environment, which wins. Without either the defaults hold. `botstead config print` shows what is in
effect.

A key's variable is its name in capitals behind `BOTSTEAD_`, with `__` for each dot. Lists are
written as in TOML: `BOTSTEAD_NETWORK__NAMESERVERS='[\"9.9.9.9\"]'`; and so are tables:
`BOTSTEAD_REGISTRY__MIRRORS='{\"docker.io\" = [\"mirror.internal:5000\"]}'`.

A key that does not exist, in the file or in the environment, is refused with the nearest name.

```toml
listen = \"0.0.0.0:8787\"
data_dir = \"/srv/botstead\"

[workspace.limits]
memory_bytes = 4294967296
```
";

/// docs/CONFIGURATION.md.
pub fn render_documentation() -> String {
    let mut text = INTRODUCTION.to_owned();
    let keys = keys();
    for (section, _) in SECTIONS {
        let of_section = keys.iter().filter(|key| {
            let parent = key.name.rsplit_once('.').map_or("", |(parent, _)| parent);
            parent == *section
        });
        let mut rows = of_section.peekable();
        if rows.peek().is_none() {
            continue;
        }
        let title = match *section {
            "" => "Top level".to_owned(),
            section => format!("`[{section}]`"),
        };
        let _ = write!(
            text,
            "\n## {title}\n\n| key | default | meaning |\n|---|---|---|\n"
        );
        for key in rows {
            let default = match &key.default {
                Value::Null => "not set".to_owned(),
                value => format!("`{value}`"),
            };
            let (name, meaning, variable) = (&key.name, &key.description, key.variable());
            let _ = writeln!(text, "| `{name}` | {default} | {meaning} `{variable}` |");
        }
    }
    text
}
