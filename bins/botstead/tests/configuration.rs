//! Configuration: what is read, what is refused and with which words, and its documentation.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use botstead_server::config::{Config, ContainerdMode, keys, load, render_documentation};
use serde_json::Value;
use std::collections::BTreeSet;

fn from_toml(text: &str) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(Some(file.path()), []).map_err(|error| error.to_string())
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables.iter().map(|(n, v)| ((*n).into(), (*v).into()));
    load(None, variables).map_err(|error| error.to_string())
}

#[test]
fn without_anything_the_defaults_hold() {
    assert_eq!(load(None, []).unwrap(), Config::default());
    assert_eq!(from_toml("").unwrap(), Config::default());
    let printed = toml::to_string(&Config::default()).unwrap();
    assert_eq!(from_toml(&printed).unwrap(), Config::default());
}

#[test]
fn file_and_environment_are_read_and_the_environment_wins() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "listen = \"0.0.0.0:1\"\n[runtime.containerd]\nmode = \"external\"\n\
                [workspace.limits]\npids = 99\nmemory_bytes = 0\n";
    std::fs::write(file.path(), text).unwrap();
    let environment = [
        ("BOTSTEAD_WORKSPACE__LIMITS__PIDS", "77"),
        (
            "BOTSTEAD_NETWORK__NAMESERVERS",
            "[\"9.9.9.9\", \"1.1.1.1\"]",
        ),
        (
            "BOTSTEAD_REGISTRY__MIRRORS",
            "{\"docker.io\" = [\"a.example\", \"b:5000/hub\"], \"ghcr.io\" = []}",
        ),
        ("BOTSTEAD_NETWORK__SUBNET", "10.9.0.0/16"),
        ("BOTSTEAD_DATABASE__PATH", "/tmp/x.db"),
        ("BOTSTEAD_RUNTIME__CONTAINERD__NAMESPACE", "1234"),
        ("BOTSTEAD_CONFIG", "/elsewhere"),
        ("HOME", "/root"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = load(Some(file.path()), environment).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:1");
    assert_eq!(config.runtime.containerd.mode, ContainerdMode::External);
    assert_eq!(
        (
            config.workspace.limits.pids,
            config.workspace.limits.memory_bytes
        ),
        (77, 0)
    );
    assert_eq!(config.network.nameservers.len(), 2);
    assert_eq!(config.registry.mirrors.len(), 2);
    assert_eq!(
        config.registry.mirrors["docker.io"],
        ["a.example", "b:5000/hub"]
    );
    assert_eq!(config.network.subnet.unwrap().to_string(), "10.9.0.0/16");
    assert_eq!(config.database.path.unwrap().to_str(), Some("/tmp/x.db"));
    assert_eq!(config.runtime.containerd.namespace.as_deref(), Some("1234"));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    for (text, expected) in [
        (
            "lisen = \"x\"",
            "there is no key \"lisen\", did you mean \"listen\"?",
        ),
        (
            "[runtime.containerd]\nmod = 1",
            "did you mean \"runtime.containerd.mode\"?",
        ),
        (
            "[workspace]\nlimit = { pids = 1 }",
            "there is no key \"workspace.limit\"",
        ),
        ("[netwrk]\nmtu = 1400", "there is no key \"netwrk\""),
        ("zzz = 1", "see docs/CONFIGURATION.md"),
    ] {
        let error = from_toml(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = from_environment(&[("BOTSTEAD_NETWORK_MTU", "1400")]).unwrap_err();
    assert!(
        error.contains("BOTSTEAD_NETWORK_MTU") && error.contains("\"BOTSTEAD_NETWORK__MTU\""),
        "{error}"
    );
}

#[test]
fn a_value_of_another_type_is_told_once_and_in_plain_words() {
    for (text, expected) in [
        (
            "auth.token_ttl_seconds = \"soon\"",
            "auth.token_ttl_seconds: expected a whole number that is not negative, found \"soon\"",
        ),
        (
            "auth.token_ttl_seconds = -1",
            "auth.token_ttl_seconds: expected a whole number that is not negative, found -1",
        ),
        ("network = 7", "network: expected a table, found 7"),
        (
            "network.nameservers = 7",
            "network.nameservers: expected a list, found 7",
        ),
        ("data_dir = []", "data_dir: expected a path, found a list"),
    ] {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = load(Some(file.path()), []).unwrap_err();
        // As the program shows it, with what is behind it.
        let shown = format!("{:#}", anyhow::Error::from(error));
        assert_eq!(shown, format!("{}: {expected}", file.path().display()));
    }
    let shown = from_environment(&[("BOTSTEAD_NETWORK__MTU", "wide")]).unwrap_err();
    let expected = "environment variable BOTSTEAD_NETWORK__MTU: network.mtu: expected a whole number \
                    that is not negative, found \"wide\"";
    assert_eq!(shown, expected);
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (text, expected) in [
        ("listen = 8787", "listen: "),
        ("listen = \"localhost\"", "listen: "),
        ("log.format = \"xml\"", "log.format: "),
        ("log.filter = \"botstead=loud\"", "log.filter is not valid"),
        ("data_dir = \"data\"", "data_dir is not valid"),
        (
            "run_dir = \"/run/a-name-that-leaves-no-room-for-the-sockets-in-it\"",
            "run_dir",
        ),
        (
            "auth.token_ttl_seconds = 0",
            "auth.token_ttl_seconds is not valid",
        ),
        ("auth.token_ttl_seconds = -1", "auth.token_ttl_seconds: "),
        (
            "auth.max_concurrent_hashes = 0",
            "auth.max_concurrent_hashes",
        ),
        ("runtime = 5", "runtime"),
        (
            "runtime.cgroup_parent = \"/a/../b\"",
            "runtime.cgroup_parent",
        ),
        (
            "runtime.containerd.namespace = \"a/b\"",
            "runtime.containerd.namespace",
        ),
        (
            "runtime.containerd.binary = \"./containerd\"",
            "runtime.containerd.binary",
        ),
        ("registry.insecure = [\"http://a\"]", "registry.insecure"),
        ("registry.private = [\"10.0.0.0/8\"]", "registry.private"),
        (
            "registry.token_services = [\"*\"]",
            "registry.token_services",
        ),
        ("images.max_layers = 1000", "images.max_layers"),
        ("images.max_bytes = 0", "images.max_bytes"),
        ("images.max_config_bytes = 1", "images.max_config_bytes"),
        (
            "network.subnet = \"10.0.0.1/16\"",
            "did you mean 10.0.0.0/16?",
        ),
        (
            "network.nameservers = [\"127.0.0.53\"]",
            "network.nameservers",
        ),
        (
            "network.bridge = \"a-bridge-with-a-long-name\"",
            "network.bridge",
        ),
        ("network.mtu = 100", "network.mtu"),
        (
            "workspace.default_image = \"Not An Image\"",
            "workspace.default_image: ",
        ),
        (
            "workspace.allowed_images = [\"a*b\"]",
            "workspace.allowed_images",
        ),
        (
            "workspace.allowed_images = [\"ghcr.io*\"]",
            "workspace.allowed_images",
        ),
        (
            "workspace.allowed_devices = [\"gpu0\"]",
            "workspace.allowed_devices",
        ),
        (
            "workspace.max_limits.memory_bytes = 1073741824",
            "workspace.limits is not valid: memory_bytes must be at most 1073741824",
        ),
        (
            "workspace.max_limits.cpu_millis = 4000",
            "workspace.max_limits.cpu_millis",
        ),
        ("workspace.max_limits.pids = 3", "workspace.max_limits"),
        ("workspace.limits.pids = 3", "workspace.limits"),
        (
            "registry.mirrors = {\"docker.io\" = [\"https://mirror.internal\"]}",
            "registry.mirrors is not valid: mirror \"https://mirror.internal\"",
        ),
        (
            "registry.mirrors = {\"index.docker.io\" = []}",
            "image references name it docker.io",
        ),
        (
            "registry.mirrors = {\"docker.io\" = \"mirror.internal\"}",
            "expected a list",
        ),
        (
            "registry.certificate_authorities = {\"https://a.example\" = \"/ca\"}",
            "registry.certificate_authorities is not valid: host",
        ),
        (
            "registry.certificate_authorities = {\"*\" = \"ca.pem\"}",
            "\"ca.pem\" is not an absolute path",
        ),
        (
            "registry.credentials_file = \"config.json\"",
            "registry.credentials_file",
        ),
        (
            "workspace.timezone = \"../etc/passwd\"",
            "workspace.timezone",
        ),
        ("limits.min_free_percent = 99", "limits.min_free_percent"),
        ("http.body_limit_bytes = 10", "http.body_limit_bytes"),
        ("listen = ", "is not TOML"),
    ] {
        let error = from_toml(text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = from_environment(&[("BOTSTEAD_NETWORK__MTU", "many")]).unwrap_err();
    assert!(error.contains("BOTSTEAD_NETWORK__MTU"), "{error}");
}

#[test]
fn a_time_zone_is_one_that_the_host_has() {
    assert!(from_toml("workspace.timezone = \"UTC\"").is_ok());
    // Where the host has none at all, every name is taken.
    if std::path::Path::new("/usr/share/zoneinfo").is_dir() {
        let error = from_toml("workspace.timezone = \"Europe/Zuerich\"").unwrap_err();
        assert!(error.contains("no time zone \"Europe/Zuerich\""), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Some("/does/not/exist.toml".as_ref()), []).unwrap_err();
    assert!(error.to_string().contains("/does/not/exist.toml"));
}

/// Names of all values in the default configuration.
fn names(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        // An empty one is a table that an operator fills.
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                let dot = if prefix.is_empty() { "" } else { "." };
                names(&format!("{prefix}{dot}{field}"), value, found);
            }
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

#[test]
fn every_key_is_listed_with_its_default() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let mut found = BTreeSet::new();
    names("", &defaults, &mut found);
    let listed: BTreeSet<_> = keys().into_iter().map(|key| key.name).collect();
    assert_eq!(listed, found);
    for key in keys() {
        assert!(key.description.ends_with(['.', ')']), "{}", key.name);
        let pointer = format!("/{}", key.name.replace('.', "/"));
        assert_eq!(
            defaults.pointer(&pointer),
            Some(&key.default),
            "{}",
            key.name
        );
    }
}

#[test]
fn the_committed_documentation_is_that_of_the_keys() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");
    let rendered = render_documentation();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs")).unwrap();
        std::fs::write(path, &rendered).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        committed, rendered,
        "run UPDATE_DOCS=1 cargo test -p botstead --test configuration, and commit the file"
    );
}

#[test]
fn authorities_for_one_port_come_before_those_for_any() {
    let config = from_toml(
        "[registry.certificate_authorities]\n\"*\" = \"/all\"\n\"a.example:*\" = \"/any\"\n\
         \"a.example:5000\" = \"/one\"\n",
    );
    let trusted = config.unwrap().registry.authorities().unwrap();
    assert_eq!(trusted.of_all.unwrap().to_str(), Some("/all"));
    let hosts = trusted.of_hosts.iter().map(|(host, _)| host.to_string());
    let hosts: Vec<_> = hosts.collect();
    assert_eq!(hosts, ["a.example:5000", "a.example:*"]);
}
