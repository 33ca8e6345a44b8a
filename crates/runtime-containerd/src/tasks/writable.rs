//! Whether a task can write to its root. overlayfs mounts one for reading only where it cannot make its
//! working directory, as on a disk that is full to the last block (overlayfs.rst), and tells nobody.

use std::io;

/// Whether the root of a process can be read only.
pub(super) fn is_read_only(pid: u32) -> io::Result<bool> {
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    Ok(root_is_read_only(&mounts))
}

/// From the text of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).
fn root_is_read_only(mounts: &str) -> bool {
    let options =
        |text: Option<&str>| text.is_some_and(|text| text.split(',').any(|one| one == "ro"));
    // The last one that is mounted there is what is seen.
    let root = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some("/"));
    root.is_some_and(|root| {
        let filesystem = root.split_once(" - ").map(|(_, filesystem)| filesystem);
        let its = filesystem.and_then(|filesystem| filesystem.split(' ').nth(2));
        options(root.split(' ').nth(5)) || options(its)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_fell_back_to_reading_is_told_apart() {
        let mounts = |its: &str, own: &str| {
            format!(
                "700 650 0:60 / / {own} master:1 - overlay overlay {its},lowerdir=/a\n\
                 701 700 0:61 / /sys ro,nosuid - sysfs sysfs ro\n"
            )
        };
        assert!(!root_is_read_only(&mounts("rw", "rw,relatime")));
        assert!(root_is_read_only(&mounts("ro", "rw,relatime")));
        assert!(root_is_read_only(&mounts("rw", "ro,relatime")));
        assert!(!root_is_read_only(""));
        assert!(!is_read_only(std::process::id()).unwrap());
    }
}
