//! Where the cgroup hierarchies are mounted.

/// The mount points of what is read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    pub(super) cpuacct: Option<String>,
    pub(super) memory: Option<String>,
    pub(super) pids: Option<String>,
    pub(super) freezer: Option<String>,
    /// Of version 2.
    pub(super) unified: Option<String>,
}

impl Mounts {
    /// From `/proc/<pid>/mountinfo` (`proc_pid_mountinfo(5)`): of several mounts of one hierarchy the
    /// first, as runc does. Controllers stand in the superblock's options.
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            // The number of optional fields varies; a lone hyphen ends them.
            let Some((mount, filesystem)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = mount.split(' ').nth(4) else {
                continue;
            };
            let mut fields = filesystem.split(' ');
            match fields.next() {
                Some("cgroup2") => set(&mut mounts.unified, point),
                Some("cgroup") => {
                    for option in fields.nth(1).unwrap_or_default().split(',') {
                        match option {
                            "cpuacct" => set(&mut mounts.cpuacct, point),
                            "memory" => set(&mut mounts.memory, point),
                            "pids" => set(&mut mounts.pids, point),
                            "freezer" => set(&mut mounts.freezer, point),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        mounts
    }
}

fn set(mount: &mut Option<String>, point: &str) {
    mount.get_or_insert_with(|| unescape(point));
}

/// The kernel writes blanks, tabs, newlines and backslashes as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}
