//! What a bot's owner prefers for its workspace: `metadata.workspace`.
//!
//! Read here for those who check it when it is written and for those who use it later, so that the
//! two never differ.

use crate::{CdiDevice, ImageRef, Limits};
use serde::Deserialize;
use serde_json::{Map, Value};

/// More devices or roots than this is a mistake.
const MAX_ITEMS: usize = 64;
const MAX_PATH_LENGTH: usize = 4096;

/// What a bot's owner prefers for its workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspacePreferences {
    /// The image.
    pub image: Option<ImageRef>,
    /// The devices.
    pub devices: Vec<CdiDevice>,
    /// The limits.
    pub limits: Limits,
    /// How many versions are kept.
    pub retention: Option<RetentionPreference>,
}

/// How many of the versions that nobody asked for are kept. An absent field means the usual number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionPreference {
    /// Of those from before a command.
    pub pre_exec: Option<usize>,
    /// Of those from before a rollback.
    pub rollback: Option<usize>,
    /// Of those from before an import.
    pub import: Option<usize>,
    /// Of those from before a change of image.
    pub image: Option<usize>,
}

/// A preference that no workspace could be made from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidPreference {
    /// The field, with dots for nested ones, such as `metadata.workspace.image`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidPreference {
    fn new(field: impl Into<String>, reason: impl ToString) -> Self {
        Self {
            field: field.into(),
            reason: reason.to_string(),
        }
    }
}

type Result<T> = std::result::Result<T, InvalidPreference>;

impl WorkspacePreferences {
    /// Reads `metadata.workspace`. A null stands for an absent field throughout; keys that are not
    /// known here belong to clients.
    ///
    /// # Errors
    /// Names the first field that a workspace could not be made from.
    pub fn read(workspace: &Value) -> Result<Self> {
        let Some(workspace) = object("metadata.workspace", Some(workspace))? else {
            return Ok(Self::default());
        };
        let image = match given(workspace, "image") {
            Some(image) => {
                let field = "metadata.workspace.image";
                let image = text(field, image)?.parse::<ImageRef>();
                Some(image.map_err(|error| InvalidPreference::new(field, error))?)
            }
            None => None,
        };
        let mut devices = Vec::new();
        if let Some(gpu) = object("metadata.workspace.gpu", workspace.get("gpu"))? {
            each(
                "metadata.workspace.gpu.devices",
                given(gpu, "devices"),
                |field, device| {
                    let device = device.parse::<CdiDevice>();
                    devices.push(device.map_err(|error| InvalidPreference::new(field, error))?);
                    Ok(())
                },
            )?;
        }
        let field = "metadata.workspace.limits";
        let limits: Limits = fields(field, workspace.get("limits"))?.unwrap_or_default();
        limits
            .check()
            .map_err(|error| InvalidPreference::new(field, error))?;
        let retention = fields("metadata.workspace.retention", workspace.get("retention"))?;
        each(
            "metadata.workspace.skill_discovery_roots",
            given(workspace, "skill_discovery_roots"),
            check_root,
        )?;
        Ok(Self {
            image,
            devices,
            limits,
            retention,
        })
    }
}

/// A value that is there and no null.
fn given<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn object<'a>(field: &str, value: Option<&'a Value>) -> Result<Option<&'a Map<String, Value>>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(InvalidPreference::new(field, "expected an object")),
    }
}

/// An object with known fields, each of which may be null.
fn fields<'a, T: Deserialize<'a>>(field: &str, value: Option<&'a Value>) -> Result<Option<T>> {
    // A sequence would be read as the fields in their order.
    let Some(object) = object(field, value)? else {
        return Ok(None);
    };
    T::deserialize(object)
        .map(Some)
        .map_err(|error| InvalidPreference::new(field, error))
}

fn text<'a>(field: &str, value: &'a Value) -> Result<&'a str> {
    value
        .as_str()
        .ok_or_else(|| InvalidPreference::new(field, "expected a string"))
}

fn each(
    field: &str,
    list: Option<&Value>,
    mut check: impl FnMut(&str, &str) -> Result<()>,
) -> Result<()> {
    let items = match list {
        None => return Ok(()),
        Some(Value::Array(items)) => items,
        Some(_) => {
            let reason = "expected an array of strings";
            return Err(InvalidPreference::new(field, reason));
        }
    };
    if items.len() > MAX_ITEMS {
        let reason = format!("it has more than {MAX_ITEMS} items");
        return Err(InvalidPreference::new(field, reason));
    }
    for (index, item) in items.iter().enumerate() {
        let field = format!("{field}[{index}]");
        check(&field, text(&field, item)?)?;
    }
    Ok(())
}

/// A directory inside the workspace, named without detours.
fn check_root(field: &str, path: &str) -> Result<()> {
    let plain = path.starts_with('/')
        && path.len() <= MAX_PATH_LENGTH
        && !path.contains('\0')
        && !path.split('/').any(|part| part == "..");
    if plain {
        return Ok(());
    }
    let reason = "expected an absolute path without '..'";
    Err(InvalidPreference::new(field, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_stand_for_absent_fields_at_every_depth() {
        for workspace in [
            json!(null),
            json!({}),
            json!({"image": null, "gpu": null, "limits": null, "retention": null,
                "skill_discovery_roots": null}),
            json!({"gpu": {"devices": null},
                "limits": {"memory_bytes": null, "pids": null, "cpu_millis": null},
                "retention": {"pre_exec": null, "rollback": null, "import": null, "image": null}}),
        ] {
            let read = WorkspacePreferences::read(&workspace);
            let mut read = read.unwrap_or_else(|error| panic!("{workspace}: {error}"));
            read.retention = read
                .retention
                .filter(|rules| *rules != RetentionPreference::default());
            assert_eq!(read, WorkspacePreferences::default(), "{workspace}");
        }
    }

    #[test]
    fn what_is_preferred_is_read() {
        let read = WorkspacePreferences::read(&json!({
            "image": " debian:12 ", "gpu": {"devices": ["nvidia.com/gpu=0"], "color": 1},
            "limits": {"memory_bytes": 1 << 30, "pids": 0}, "retention": {"import": 2},
            "skill_discovery_roots": ["/data/skills", "/opt"], "theme": "dark",
        }));
        let read = read.unwrap();
        let image = read.image.unwrap();
        assert_eq!(image.as_str(), "docker.io/library/debian:12");
        assert_eq!(read.devices[0].as_str(), "nvidia.com/gpu=0");
        assert_eq!(read.limits.memory_bytes, Some(1 << 30));
        assert_eq!(read.retention.unwrap().import, Some(2));
    }

    #[test]
    fn a_bad_preference_is_named() {
        let at = |field: &str| format!("metadata.workspace{field}");
        for (workspace, field) in [
            (json!("debian"), ""),
            (json!([]), ""),
            (json!({"image": 1}), ".image"),
            (json!({"image": ""}), ".image"),
            (json!({"image": "Not An Image"}), ".image"),
            (json!({"gpu": []}), ".gpu"),
            (json!({"gpu": false}), ".gpu"),
            (json!({"gpu": {"devices": "all"}}), ".gpu.devices"),
            (
                json!({"gpu": {"devices": ["a/b=c", "gpu0"]}}),
                ".gpu.devices[1]",
            ),
            (json!({"gpu": {"devices": [null]}}), ".gpu.devices[0]"),
            (json!({"limits": {"memory": 1}}), ".limits"),
            (json!({"limits": {"memory_bytes": -1}}), ".limits"),
            (json!({"limits": {"memory_bytes": 1}}), ".limits"),
            (json!({"limits": {"memory_bytes": 1.5e9}}), ".limits"),
            (json!({"limits": {"memory_bytes": "1g"}}), ".limits"),
            (json!({"limits": {"memory_bytes": u64::MAX}}), ".limits"),
            (json!({"limits": [1 << 30, 64]}), ".limits"),
            (json!({"retention": 5}), ".retention"),
            (json!({"retention": []}), ".retention"),
            (json!({"retention": {"manual": 1}}), ".retention"),
            (json!({"retention": {"image": -1}}), ".retention"),
            (
                json!({"skill_discovery_roots": {}}),
                ".skill_discovery_roots",
            ),
            (
                json!({"skill_discovery_roots": ["a"]}),
                ".skill_discovery_roots[0]",
            ),
            (
                json!({"skill_discovery_roots": ["/a/../b"]}),
                ".skill_discovery_roots[0]",
            ),
            (
                json!({"skill_discovery_roots": vec!["/a"; 65]}),
                ".skill_discovery_roots",
            ),
        ] {
            match WorkspacePreferences::read(&workspace) {
                Err(error) => assert_eq!(error.field, at(field), "{workspace}"),
                Ok(read) => panic!("{workspace}: {read:?}"),
            }
        }
    }
}
