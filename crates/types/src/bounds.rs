//! What an operator lets workspaces be made from and use, whoever asks.

use crate::{CdiDevice, ImageRef, InvalidValue, Limits};
use std::fmt;
use std::str::FromStr;

/// The bounds of every workspace. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The images that may be used; all when empty.
    pub images: Vec<ImagePattern>,
    /// The devices that may be used; none when empty.
    pub devices: Vec<DevicePattern>,
    /// The most that a workspace's limits may be. An absent field, and 0, stand for no maximum.
    pub max_limits: Limits,
}

/// What is outside of the bounds, with the key of the server's configuration that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfBounds {
    /// The image is none of those that are allowed.
    #[error("image {0} is not allowed on this server (workspace.allowed_images)")]
    Image(ImageRef),
    /// The device is none of those that are allowed.
    #[error("device {0} is not allowed on this server (workspace.allowed_devices)")]
    Device(CdiDevice),
    /// The limit is above the maximum, or none where there is one.
    #[error(
        "{name} must be at most {most} on this server, not {} (workspace.max_limits.{name})",
        if *value == 0 { "0, which is no limit".to_owned() } else { value.to_string() }
    )]
    Limit {
        /// The limit's name.
        name: &'static str,
        /// What was asked for.
        value: u64,
        /// The maximum.
        most: u64,
    },
}

impl OutOfBounds {
    /// A stable machine word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Image(_) => "image_not_allowed",
            Self::Device(_) => "device_not_allowed",
            Self::Limit { .. } => "limit_too_high",
        }
    }
}

impl Bounds {
    /// Refuses an image that is not allowed.
    ///
    /// # Errors
    /// [`OutOfBounds::Image`].
    pub fn check_image(&self, image: &ImageRef) -> Result<(), OutOfBounds> {
        if self.images.is_empty() || self.images.iter().any(|pattern| pattern.fits(image)) {
            return Ok(());
        }
        Err(OutOfBounds::Image(image.clone()))
    }

    /// Refuses devices of which one is not allowed.
    ///
    /// # Errors
    /// [`OutOfBounds::Device`].
    pub fn check_devices(&self, devices: &[CdiDevice]) -> Result<(), OutOfBounds> {
        let allowed = |device: &&CdiDevice| self.devices.iter().any(|pattern| pattern.fits(device));
        match devices.iter().find(|device| !allowed(device)) {
            Some(device) => Err(OutOfBounds::Device(device.clone())),
            None => Ok(()),
        }
    }

    /// Refuses limits of which one is above its maximum. An absent one is the server's default, which
    /// its operator chose.
    ///
    /// # Errors
    /// [`OutOfBounds::Limit`].
    pub fn check_limits(&self, limits: &Limits) -> Result<(), OutOfBounds> {
        for (name, value, most) in self.pairs(limits) {
            if let (Some(value), Some(most)) = (value, most)
                && (value == 0 || value > most)
            {
                return Err(OutOfBounds::Limit { name, value, most });
            }
        }
        Ok(())
    }

    /// The limits with those above their maximum brought down to it: for what was recorded while the
    /// maximum was another one.
    pub fn within(&self, limits: Limits) -> Limits {
        let [memory_bytes, pids, cpu_millis] =
            self.pairs(&limits)
                .map(|(_, value, most)| match (value, most) {
                    (Some(0), Some(most)) => Some(most),
                    (Some(value), Some(most)) => Some(value.min(most)),
                    (value, _) => value,
                });
        Limits {
            memory_bytes,
            pids,
            cpu_millis,
        }
    }

    /// Each limit's name, its value and its maximum.
    fn pairs(&self, limits: &Limits) -> [(&'static str, Option<u64>, Option<u64>); 3] {
        let most = |value: Option<u64>| value.filter(|value| *value != 0);
        let max = &self.max_limits;
        [
            ("memory_bytes", limits.memory_bytes, most(max.memory_bytes)),
            ("pids", limits.pids, most(max.pids)),
            ("cpu_millis", limits.cpu_millis, most(max.cpu_millis)),
        ]
    }
}

/// An image reference, or the beginning of some: `ghcr.io/acme/*`.
///
/// A `*` behind a letter or digit of a name stays with that name: whoever may use `ghcr.io/acme*` may use
/// what `acme` has and not what `acme-evil` has, which belongs to somebody else. Behind a separator, and
/// within a tag, it stands for anything: `ghcr.io/acme/bot-*`, `ghcr.io/acme/bot:1*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePattern {
    /// This reference alone.
    Exact(ImageRef),
    /// Every reference that begins so.
    Prefix(String),
}

impl ImagePattern {
    fn fits(&self, image: &ImageRef) -> bool {
        match self {
            Self::Exact(exact) => exact == image,
            Self::Prefix(prefix) => begins_with(image.as_str(), prefix, is_in_tag(prefix)),
        }
    }
}

/// Whether a prefix goes on behind the name of an image: a ':' before the last '/' is a port.
fn is_in_tag(prefix: &str) -> bool {
    let name = prefix.rfind('/').map_or(0, |slash| slash + 1);
    prefix[name..].contains([':', '@'])
}

/// Whether it begins so, and the name that the prefix ends in is not a longer one, unless it is `open`.
fn begins_with(text: &str, prefix: &str, open: bool) -> bool {
    let Some(rest) = text.strip_prefix(prefix) else {
        return false;
    };
    let whole = |byte: u8| !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'_' | b'-');
    let in_name = prefix.ends_with(|last: char| last.is_ascii_alphanumeric());
    open || !in_name || rest.bytes().next().is_none_or(whole)
}

impl FromStr for ImagePattern {
    type Err = InvalidValue;

    /// `*` alone is every image. Any other prefix names its registry whole: `ghcr.io*` would also be
    /// `ghcr.io.example.org`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let Some(prefix) = text.strip_suffix('*') else {
            return text.parse().map(Self::Exact);
        };
        if prefix.is_empty() || (prefix.contains('/') && !prefix.contains(['*', ' '])) {
            return Ok(Self::Prefix(prefix.to_owned()));
        }
        let reason = "expected a registry and '/' before the '*', such as ghcr.io/acme/*";
        Err(InvalidValue::new("image pattern", text, reason))
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(image) => write!(f, "{image}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// A CDI device, or the beginning of some: `nvidia.com/gpu=*`. A `*` behind a letter or digit of a class
/// stays with that class, as in [`ImagePattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevicePattern {
    /// This device alone.
    Exact(CdiDevice),
    /// Every device whose name begins so.
    Prefix(String),
}

impl DevicePattern {
    fn fits(&self, device: &CdiDevice) -> bool {
        match self {
            Self::Exact(exact) => exact == device,
            Self::Prefix(prefix) => begins_with(device.as_str(), prefix, prefix.contains('=')),
        }
    }
}

impl FromStr for DevicePattern {
    type Err = InvalidValue;

    /// `*` alone is every device. Any other prefix names its vendor whole.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let Some(prefix) = text.strip_suffix('*') else {
            return text.parse().map(Self::Exact);
        };
        if prefix.is_empty() || (prefix.contains('/') && !prefix.contains(['*', ' '])) {
            return Ok(Self::Prefix(prefix.to_owned()));
        }
        let reason = "expected a vendor and '/' before the '*', such as nvidia.com/gpu=*";
        Err(InvalidValue::new("device pattern", text, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_allowed_by_name_or_by_prefix() {
        let bounds = Bounds {
            images: ["debian:12", "ghcr.io/acme/*"]
                .map(|pattern| pattern.parse().unwrap())
                .into(),
            ..Bounds::default()
        };
        for (image, allowed) in [
            ("debian:12", true),
            ("docker.io/library/debian:12", true),
            ("debian", false),
            ("ghcr.io/acme/bot:1", true),
            ("ghcr.io/acmee/bot:1", false),
            ("ghcr.io.example.org/acme/bot", false),
            ("localhost:5000/debian:12", false),
        ] {
            let image: ImageRef = image.parse().unwrap();
            assert_eq!(bounds.check_image(&image).is_ok(), allowed, "{image}");
        }
        let any = "evil.example/a".parse().unwrap();
        assert!(Bounds::default().check_image(&any).is_ok());
    }

    #[test]
    fn a_prefix_that_ends_in_a_name_is_no_longer_name() {
        for (pattern, image, allowed) in [
            ("ghcr.io/acme*", "ghcr.io/acme/bot:1", true),
            ("ghcr.io/acme*", "ghcr.io/acme:1", true),
            ("ghcr.io/acme*", "ghcr.io/acme-evil/x", false),
            ("ghcr.io/acme*", "ghcr.io/acme.evil/x", false),
            ("ghcr.io/acme*", "ghcr.io/acme_evil/x", false),
            ("ghcr.io/acme*", "ghcr.io/acme2/x", false),
            ("ghcr.io/acme/bot*", "ghcr.io/acme/bot:1", true),
            ("ghcr.io/acme/bot*", "ghcr.io/acme/bot2", false),
            ("ghcr.io/acme/bot-*", "ghcr.io/acme/bot-x", true),
            ("ghcr.io/acme/bot:1*", "ghcr.io/acme/bot:1.2", true),
            ("ghcr.io/acme/bot:1*", "ghcr.io/acme/bot:12", true),
            ("a.example:5000/acme*", "a.example:5000/acme-evil/x", false),
            ("*", "evil.example/a", true),
        ] {
            let bounds = Bounds {
                images: vec![pattern.parse().unwrap()],
                ..Bounds::default()
            };
            let image: ImageRef = image.parse().unwrap();
            assert_eq!(
                bounds.check_image(&image).is_ok(),
                allowed,
                "{pattern} {image}"
            );
        }
        for (pattern, device, allowed) in [
            ("nvidia.com/gpu*", "nvidia.com/gpu=0", true),
            ("nvidia.com/gpu*", "nvidia.com/gpu-raw=0", false),
            ("nvidia.com/gpu=1*", "nvidia.com/gpu=1:0", true),
            ("nvidia.com/gpu=1*", "nvidia.com/gpu=12", true),
        ] {
            let bounds = Bounds {
                devices: vec![pattern.parse().unwrap()],
                ..Bounds::default()
            };
            let device: CdiDevice = device.parse().unwrap();
            let judged = bounds.check_devices(std::slice::from_ref(&device));
            assert_eq!(judged.is_ok(), allowed, "{pattern} {device}");
        }
    }

    #[test]
    fn a_prefix_names_its_registry_or_vendor_whole() {
        for bad in ["ghcr.io*", "gh*", "a/*b*", "a b/*"] {
            assert!(bad.parse::<ImagePattern>().is_err(), "{bad}");
        }
        for bad in ["nvidia*", "nvidia.com*", "gpu"] {
            assert!(bad.parse::<DevicePattern>().is_err(), "{bad}");
        }
        assert!("*".parse::<ImagePattern>().is_ok());
        assert!("*".parse::<DevicePattern>().is_ok());
    }

    #[test]
    fn devices_are_refused_unless_they_are_allowed() {
        let device: CdiDevice = "nvidia.com/gpu=0".parse().unwrap();
        let refused = Bounds::default().check_devices(std::slice::from_ref(&device));
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), "device_not_allowed");
        assert!(refused.to_string().contains("workspace.allowed_devices"));
        assert!(Bounds::default().check_devices(&[]).is_ok());
        let bounds = Bounds {
            devices: vec!["nvidia.com/gpu=*".parse().unwrap()],
            ..Bounds::default()
        };
        assert!(bounds.check_devices(std::slice::from_ref(&device)).is_ok());
        let other = "nvidia.com/nic=0".parse().unwrap();
        assert!(bounds.check_devices(&[device, other]).is_err());
    }

    #[test]
    fn limits_stay_below_their_maximum_and_no_limit_is_above_any() {
        let bounds = Bounds {
            max_limits: Limits {
                memory_bytes: Some(1 << 30),
                pids: Some(100),
                cpu_millis: Some(0),
            },
            ..Bounds::default()
        };
        let memory = |bytes| Limits {
            memory_bytes: Some(bytes),
            ..Limits::default()
        };
        assert!(bounds.check_limits(&Limits::default()).is_ok());
        assert!(bounds.check_limits(&memory(1 << 30)).is_ok());
        for bytes in [0, (1 << 30) + 1] {
            let refused = bounds.check_limits(&memory(bytes)).unwrap_err();
            assert_eq!(refused.code(), "limit_too_high");
            let text = refused.to_string();
            assert!(text.contains("1073741824"), "{text}");
            assert!(text.contains("workspace.max_limits.memory_bytes"), "{text}");
        }
        let cpu = Limits {
            cpu_millis: Some(0),
            ..Limits::default()
        };
        assert!(bounds.check_limits(&cpu).is_ok());
        let recorded = Limits {
            memory_bytes: Some(0),
            pids: Some(4000),
            cpu_millis: Some(0),
        };
        let held = bounds.within(recorded);
        assert_eq!((held.memory_bytes, held.pids), (Some(1 << 30), Some(100)));
        assert_eq!(held.cpu_millis, Some(0));
        assert_eq!(bounds.within(Limits::default()), Limits::default());
    }
}
