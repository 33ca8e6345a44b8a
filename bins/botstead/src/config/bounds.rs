//! What workspaces may be made from and use, from the keys that say so.

use super::validate::invalid;
use super::{Config, ConfigError};
use botstead_types::{Bounds, ImagePattern, Limits};
use std::str::FromStr;

/// The maximum of processes and threads where none is set.
const USUAL_PIDS: u64 = 8192;

impl Config {
    /// The bounds of every workspace.
    ///
    /// # Errors
    /// `Invalid` for a pattern that is none, and for a default limit above its maximum.
    pub fn bounds(&self) -> Result<Bounds, ConfigError> {
        let workspace = &self.workspace;
        let mut images = patterns("workspace.allowed_images", &workspace.allowed_images)?;
        if !images.is_empty() {
            images.push(ImagePattern::Exact(workspace.default_image.clone()));
        }
        let (limits, most) = (&workspace.limits, &workspace.max_limits);
        let bounds = Bounds {
            images,
            devices: patterns("workspace.allowed_devices", &workspace.allowed_devices)?,
            max_limits: Limits {
                memory_bytes: Some(or_usual(
                    most.memory_bytes,
                    limits.memory_bytes,
                    host_memory() / 2,
                )),
                pids: Some(or_usual(most.pids, limits.pids, USUAL_PIDS)),
                cpu_millis: Some(most.cpu_millis),
            },
        };
        let defaults = Limits {
            memory_bytes: Some(limits.memory_bytes),
            pids: Some(limits.pids),
            cpu_millis: Some(limits.cpu_millis),
        };
        bounds
            .max_limits
            .check()
            .map_err(|error| invalid("workspace.max_limits", error.to_string()))?;
        bounds
            .check_limits(&defaults)
            .map_err(|error| invalid("workspace.limits", error.to_string()))?;
        Ok(bounds)
    }
}

fn patterns<T>(key: &'static str, texts: &[String]) -> Result<Vec<T>, ConfigError>
where
    T: FromStr<Err = botstead_types::InvalidValue>,
{
    let parse = |text: &String| text.parse().map_err(|error: T::Err| error.to_string());
    let parsed: Result<_, _> = texts.iter().map(parse).collect();
    parsed.map_err(|reason| invalid(key, reason))
}

/// The maximum that was set, or the usual one, which is never below the default; a default of no limit
/// has no maximum.
fn or_usual(most: Option<u64>, default: u64, usual: u64) -> u64 {
    match most {
        Some(most) => most,
        None if default == 0 || usual == 0 => 0,
        None => usual.max(default),
    }
}

/// The host's memory in bytes; 0 where the kernel does not tell (proc_meminfo(5)).
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_anything_members_get_no_device_and_not_the_whole_host() {
        let bounds = Config::default().bounds().unwrap();
        assert!(bounds.images.is_empty() && bounds.devices.is_empty());
        let memory = bounds.max_limits.memory_bytes.unwrap();
        assert!(memory >= 2 << 30, "{memory}");
        assert!(memory <= (host_memory() / 2).max(2 << 30), "{memory}");
        assert_eq!(bounds.max_limits.pids, Some(USUAL_PIDS));
    }

    #[test]
    fn a_larger_default_raises_the_usual_maximum_and_not_one_that_was_set() {
        let mut config = Config::default();
        config.workspace.limits.pids = 10_000;
        assert_eq!(config.bounds().unwrap().max_limits.pids, Some(10_000));
        config.workspace.limits.pids = 0;
        assert_eq!(config.bounds().unwrap().max_limits.pids, Some(0));
        config.workspace.max_limits.pids = Some(100);
        let error = config.bounds().unwrap_err().to_string();
        assert!(error.contains("workspace.limits"), "{error}");
    }

    #[test]
    fn the_default_image_is_always_allowed() {
        let mut config = Config::default();
        config.workspace.allowed_images = vec!["ghcr.io/acme/*".to_owned()];
        let bounds = config.bounds().unwrap();
        assert!(bounds.check_image(&config.workspace.default_image).is_ok());
        assert!(bounds.check_image(&"debian".parse().unwrap()).is_err());
    }
}
