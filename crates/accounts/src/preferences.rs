//! The form of `metadata.workspace`: what a bot's owner prefers for its workspace.
//!
//! Checked when it is written, so that creating the workspace finds it readable. Keys that are not
//! known here are kept: they belong to clients.

use crate::{Error, Result};
use botstead_types::{CdiDevice, ImageRef, InvalidValue, Limits};
use serde::Deserialize;
use serde_json::Value;

/// More devices or roots than this is a mistake.
const MAX_ITEMS: usize = 64;
const MAX_PATH_LENGTH: usize = 4096;

/// Refuses a `metadata.workspace` that a workspace could not be made from. `null` removes it.
pub(crate) fn check_workspace(workspace: &Value) -> Result<()> {
    let workspace = match workspace {
        Value::Null => return Ok(()),
        Value::Object(workspace) => workspace,
        _ => return Err(Error::invalid("metadata.workspace", "expected an object")),
    };
    // A null stands for an absent field throughout.
    let given = |key: &str| workspace.get(key).filter(|value| !value.is_null());
    if let Some(image) = given("image") {
        let field = "metadata.workspace.image";
        text(field, image)?
            .parse::<ImageRef>()
            .map_err(|error| refuse(field, &error))?;
    }
    if let Some(gpu) = given("gpu") {
        let Value::Object(gpu) = gpu else {
            return Err(Error::invalid(
                "metadata.workspace.gpu",
                "expected an object",
            ));
        };
        let devices = gpu.get("devices").filter(|devices| !devices.is_null());
        if let Some(devices) = devices {
            each(
                "metadata.workspace.gpu.devices",
                devices,
                |field, device| {
                    let device = device.parse::<CdiDevice>();
                    device.map(drop).map_err(|error| refuse(field, &error))
                },
            )?;
        }
    }
    if let Some(limits) = given("limits") {
        let field = "metadata.workspace.limits";
        let limits = Limits::deserialize(limits)
            .map_err(|error| Error::invalid(field, error.to_string()))?;
        limits.check().map_err(|error| refuse(field, &error))?;
    }
    if let Some(roots) = given("skill_discovery_roots") {
        each(
            "metadata.workspace.skill_discovery_roots",
            roots,
            check_root,
        )?;
    }
    Ok(())
}

fn refuse(field: &str, error: &InvalidValue) -> Error {
    Error::invalid(field, error.to_string())
}

fn text<'a>(field: &str, value: &'a Value) -> Result<&'a str> {
    let text = value.as_str();
    text.ok_or_else(|| Error::invalid(field, "expected a string"))
}

fn each(field: &str, list: &Value, check: impl Fn(&str, &str) -> Result<()>) -> Result<()> {
    let Value::Array(items) = list else {
        return Err(Error::invalid(field, "expected an array of strings"));
    };
    if items.len() > MAX_ITEMS {
        let reason = format!("it has more than {MAX_ITEMS} items");
        return Err(Error::invalid(field, reason));
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
    Err(Error::invalid(
        field,
        "expected an absolute path without '..'",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn good_preferences_are_accepted() {
        for workspace in [
            json!(null),
            json!({}),
            json!({"image": "debian:12", "gpu": {"devices": ["nvidia.com/gpu=0"]},
                "limits": {"memory_bytes": 1 << 30, "pids": 0},
                "skill_discovery_roots": ["/data/skills", "/opt"], "theme": "dark"}),
            json!({"image": null, "gpu": {"devices": null}, "limits": null,
                "skill_discovery_roots": null}),
        ] {
            assert!(check_workspace(&workspace).is_ok(), "{workspace}");
        }
    }

    #[test]
    fn a_bad_preference_is_named() {
        for (workspace, field) in [
            (json!("debian"), "metadata.workspace"),
            (json!({"image": 1}), "metadata.workspace.image"),
            (json!({"image": "Not An Image"}), "metadata.workspace.image"),
            (json!({"gpu": []}), "metadata.workspace.gpu"),
            (
                json!({"gpu": {"devices": "all"}}),
                "metadata.workspace.gpu.devices",
            ),
            (
                json!({"gpu": {"devices": ["a/b=c", "gpu0"]}}),
                "metadata.workspace.gpu.devices[1]",
            ),
            (
                json!({"limits": {"memory": 1}}),
                "metadata.workspace.limits",
            ),
            (
                json!({"limits": {"memory_bytes": -1}}),
                "metadata.workspace.limits",
            ),
            (
                json!({"limits": {"memory_bytes": 1}}),
                "metadata.workspace.limits",
            ),
            (
                json!({"skill_discovery_roots": {}}),
                "metadata.workspace.skill_discovery_roots",
            ),
            (
                json!({"skill_discovery_roots": ["a"]}),
                "metadata.workspace.skill_discovery_roots[0]",
            ),
            (
                json!({"skill_discovery_roots": ["/a/../b"]}),
                "metadata.workspace.skill_discovery_roots[0]",
            ),
            (
                json!({"skill_discovery_roots": vec!["/a"; 65]}),
                "metadata.workspace.skill_discovery_roots",
            ),
        ] {
            match check_workspace(&workspace) {
                Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field, "{workspace}"),
                other => panic!("{workspace}: {other:?}"),
            }
        }
    }
}
