//! What a workspace may use of the host.

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Limits of a workspace. An absent field means the server's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory in bytes, page cache included; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Processor time in thousandths of a core; 0 means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
}

impl Limits {
    /// The smallest memory limit that is accepted: below it the agent itself may not start.
    pub const MIN_MEMORY_BYTES: u64 = 16 << 20;
    /// The smallest limit of processes and threads: below it the agent itself may not start.
    pub const MIN_PIDS: u64 = 16;
    /// The largest values that any kernel takes: more is a mistake, and would not fit where it goes.
    const LARGEST: [u64; 3] = [1 << 50, 1 << 22, 1 << 20];

    /// These limits, with `defaults` where a field is absent.
    pub fn or(self, defaults: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.or(defaults.memory_bytes),
            pids: self.pids.or(defaults.pids),
            cpu_millis: self.cpu_millis.or(defaults.cpu_millis),
        }
    }

    /// Refuses limits under which no workspace can start.
    ///
    /// # Errors
    /// Names the field and the least value.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let [memory, pids, cpu] = Self::LARGEST;
        let between = |what, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if value != 0 && !(least..=most).contains(&value) => {
                let bound = if value < least { least } else { most };
                let word = if value < least { "least" } else { "most" };
                let reason = format!("at {word} {bound}, or 0 for no limit");
                Err(InvalidValue::new(what, &value.to_string(), reason))
            }
            _ => Ok(()),
        };
        between(
            "memory_bytes",
            self.memory_bytes,
            Self::MIN_MEMORY_BYTES,
            memory,
        )?;
        between("pids", self.pids, Self::MIN_PIDS, pids)?;
        between("cpu_millis", self.cpu_millis, 10, cpu)
    }
}

/// A fully qualified CDI device, `vendor/class=name`, such as `nvidia.com/gpu=0`
/// (Container Device Interface specification, "Kind and device names").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CdiDevice(String);

impl CdiDevice {
    /// The device's qualified name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CdiDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CdiDevice {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for CdiDevice {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        let part = |part: &str, extra: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        let valid = text.len() <= 256
            && text
                .split_once('=')
                .and_then(|(kind, name)| {
                    let (vendor, class) = kind.split_once('/')?;
                    Some(part(vendor, "-_.") && part(class, "-_") && part(name, "-_.:"))
                })
                .unwrap_or(false);
        if valid {
            Ok(Self(text))
        } else {
            Err(InvalidValue::new(
                "device",
                &text,
                "expected a CDI name such as nvidia.com/gpu=0",
            ))
        }
    }
}

impl From<CdiDevice> for String {
    fn from(device: CdiDevice) -> String {
        device.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_vendor_class_and_name() {
        assert!("nvidia.com/gpu=0".parse::<CdiDevice>().is_ok());
        assert!("vendor.com/net-card=eth0:1".parse::<CdiDevice>().is_ok());
        for bad in [
            "",
            "gpu",
            "nvidia.com/gpu",
            "/gpu=0",
            "a/b=",
            "a/b=c d",
            "a/b/c=0",
        ] {
            assert!(bad.parse::<CdiDevice>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn limits_too_small_to_start_are_refused() {
        let limits = Limits {
            memory_bytes: Some(1),
            ..Limits::default()
        };
        assert!(
            limits
                .check()
                .unwrap_err()
                .to_string()
                .contains("at least 16777216")
        );
        let endless = Limits {
            pids: Some(u64::MAX),
            ..Limits::default()
        };
        assert!(endless.check().is_err());
        let unlimited = Limits {
            memory_bytes: Some(0),
            pids: Some(0),
            cpu_millis: Some(0),
        };
        assert!(unlimited.check().is_ok());
    }
}
