//! The files of the host that appear inside as `/etc/hosts`, `/etc/hostname` and
//! `/etc/resolv.conf`.

use botstead_runtime::ContainerSpec;
use std::path::Path;

/// Writes the files of the host that appear inside.
pub(crate) fn write(spec: &ContainerSpec, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("hostname"), format!("{}\n", spec.hostname))?;
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let own = spec
        .address
        .map_or("127.0.1.1".to_owned(), |own| own.to_string());
    hosts.push_str(&format!("{own} {}\n", spec.hostname));
    for (address, name) in &spec.hosts {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    std::fs::write(folder.join("hosts"), hosts)?;
    let mut resolv = String::new();
    for server in &spec.dns.nameservers {
        resolv.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [("search", &spec.dns.search), ("options", &spec.dns.options)] {
        if !values.is_empty() {
            resolv.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    std::fs::write(folder.join("resolv.conf"), resolv)
}
