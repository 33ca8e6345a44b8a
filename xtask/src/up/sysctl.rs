//! What the kernel allows to all workspaces together.

use crate::progress::note;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// All workspaces are uid 0 of one user namespace, so that they share one user's inotify instances
/// (inotify(7)), and the kernel's default of 128 is used up by some dozen of them.
pub(crate) const INSTANCES: u32 = 8192;
const VALUE: &str = "/proc/sys/fs/inotify/max_user_instances";
const NAME: &str = "fs.inotify.max_user_instances";
/// Where it is set again after a reboot (sysctl.d(5)).
pub(crate) const FILE: &str = "/etc/sysctl.d/60-botstead.conf";

/// Raises what is too low, also for the time after a reboot where `lasting`. Never lowers anything.
pub(super) fn ensure(lasting: bool) -> Result<()> {
    let file = lasting.then_some(Path::new(FILE));
    if raise(Path::new(VALUE), file)? {
        note(format_args!("{NAME} = {INSTANCES}"));
    }
    Ok(())
}

fn raise(value: &Path, file: Option<&Path>) -> Result<bool> {
    let present =
        fs::read_to_string(value).with_context(|| format!("cannot read {}", value.display()))?;
    if present.trim().parse::<u32>()? >= INSTANCES {
        return Ok(false);
    }
    fs::write(value, format!("{INSTANCES}\n"))
        .with_context(|| format!("cannot write {}", value.display()))?;
    if let Some(file) = file
        && file.parent().is_some_and(Path::is_dir)
    {
        let text = format!("# Written by `cargo xtask up`.\n{NAME} = {INSTANCES}\n");
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_low_is_raised_and_nothing_is_lowered() {
        let folder = tempfile::tempdir().unwrap();
        let (value, file) = (folder.path().join("value"), folder.path().join("conf"));
        fs::write(&value, "128\n").unwrap();
        assert!(raise(&value, Some(&file)).unwrap());
        assert_eq!(fs::read_to_string(&value).unwrap(), "8192\n");
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.ends_with("\nfs.inotify.max_user_instances = 8192\n"));
        fs::remove_file(&file).unwrap();
        fs::write(&value, "65536\n").unwrap();
        assert!(!raise(&value, Some(&file)).unwrap());
        assert_eq!(fs::read_to_string(&value).unwrap(), "65536\n");
        assert!(!file.exists());
    }
}
