//! Which image of an index is for this machine.

use oci_spec::image::{Descriptor, ImageConfiguration, Platform};

/// This machine's architecture in Go's words.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "mips64" if cfg!(target_endian = "little") => "mips64le",
        other => other,
    }
}

/// The entries of an index that this machine can run, the best first; entries that name no platform
/// come last, because only their configuration tells.
pub(super) fn candidates(manifests: &[Descriptor]) -> Vec<&Descriptor> {
    let mut ranked: Vec<(u32, &Descriptor)> = manifests
        .iter()
        .filter_map(|descriptor| match descriptor.platform() {
            Some(platform) => rank(platform).map(|rank| (rank, descriptor)),
            None => Some((u32::MAX, descriptor)),
        })
        .collect();
    // Stable: among equals the index's own order counts (OCI image specification, image-index.md).
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
        .into_iter()
        .map(|(_, descriptor)| descriptor)
        .collect()
}

/// Whether a configuration is for this machine. One that does not say is given a chance.
pub(super) fn can_run(config: &ImageConfiguration) -> bool {
    let os = config.os().to_string();
    let arch = config.architecture().to_string();
    (os.is_empty() || os == "linux") && (arch.is_empty() || arch == architecture())
}

/// How well a platform fits, 0 best; none when it does not.
fn rank(platform: &Platform) -> Option<u32> {
    if platform.os().to_string() != "linux" || platform.architecture().to_string() != architecture()
    {
        return None;
    }
    variant_rank(platform.variant().as_deref().unwrap_or_default())
}

#[cfg(target_arch = "x86_64")]
fn variant_rank(variant: &str) -> Option<u32> {
    // The x86-64 psABI's levels; each includes those below, so the highest that runs is best.
    let runs = match variant {
        "" | "v1" => return Some(3),
        "v2" => is_x86_feature_detected!("sse4.2"),
        "v3" => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2"),
        "v4" => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl"),
        _ => false,
    };
    match variant {
        "v4" if runs => Some(0),
        "v3" if runs => Some(1),
        "v2" if runs => Some(2),
        _ => None,
    }
}

#[cfg(target_arch = "arm")]
fn variant_rank(variant: &str) -> Option<u32> {
    match variant {
        "v7" | "" => Some(0),
        "v6" => Some(1),
        "v5" => Some(2),
        _ => None,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "arm")))]
fn variant_rank(variant: &str) -> Option<u32> {
    // arm64: `v8` and nothing mean the same, and every machine runs it; later ones are not assumed.
    match variant {
        "" | "v8" => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(hex: char, platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        let platform = platform.map(|(os, architecture, variant)| {
            serde_json::json!({ "os": os, "architecture": architecture, "variant": variant })
        });
        let mut value = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", String::from(hex).repeat(64)),
            "size": 1,
        });
        if let Some(platform) = platform {
            value["platform"] = platform;
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn other_platforms_and_attestations_are_left_out() {
        let all = [
            descriptor('a', Some(("unknown", "unknown", None))),
            descriptor('b', Some(("windows", architecture(), None))),
            descriptor('c', Some(("linux", "s390x-not", None))),
            descriptor('d', None),
            descriptor('e', Some(("linux", architecture(), None))),
        ];
        let chosen = candidates(&all);
        assert_eq!(chosen, [&all[4], &all[3]]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn an_unknown_level_is_not_run() {
        let all = [
            descriptor('a', Some(("linux", "amd64", Some("v9")))),
            descriptor('b', Some(("linux", "amd64", Some("v1")))),
        ];
        assert_eq!(candidates(&all), [&all[1]]);
    }
}
