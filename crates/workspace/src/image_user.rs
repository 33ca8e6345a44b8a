//! The user that an image names: one that its files do not have is refused, instead of being taken for root.

use crate::replace::blocking;
use crate::service::Inner;
use crate::{Error, Result};
use botstead_overlay::{beneath, tree};
use botstead_runtime::Access;
use botstead_types::{LeaseId, ResolvedImage, SnapshotKey};
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags};
use std::fs::File;
use std::io::Read;

/// More of a file is not read, as the agent does not either.
const MOST_BYTES: u64 = 1 << 20;

/// A name that has to be in a file for an image's user, with the file.
type Named<'a> = (&'a str, &'static str);

/// Numbers need no entry.
fn names(user: &str) -> Vec<Named<'_>> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let all = [(user, "etc/passwd"), (group, "etc/group")];
    let is_name = |name: &str| !name.is_empty() && name.parse::<u32>().is_err();
    all.into_iter().filter(|(name, _)| is_name(name)).collect()
}

/// The beginning of a regular file of a workspace, which is hostile; nothing where there is none.
pub(crate) fn text(root: impl AsFd, path: &str) -> String {
    let read = || -> std::io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = beneath::open_in_root(root, path.as_bytes(), flags)?;
        if tree::kind(&tree::stat_fd(&file)?) != FileType::RegularFile {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::new();
        File::from(file).take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// Whether a name is at the beginning of a line (passwd(5), group(5)).
fn has(root: impl AsFd, (name, path): Named<'_>) -> bool {
    let text = text(root, path);
    let mut lines = text.lines();
    lines.any(|line| line.split(':').next() == Some(name))
}

impl Inner {
    /// Refuses an image whose user is a name that these files do not have.
    pub(crate) async fn check_user(
        &self,
        lease: &LeaseId,
        image: &ResolvedImage,
        files: &SnapshotKey,
    ) -> Result<()> {
        let user = image.config.user.clone();
        if names(&user).is_empty() || !self.runtime.backend.capabilities().files {
            return Ok(());
        }
        let tree = self
            .runtime
            .snapshots
            .open(lease, files, Access::Read)
            .await?;
        let reference = image.reference.clone();
        blocking(move || {
            let missing = names(&user)
                .into_iter()
                .find(|named| !has(tree.root(), *named));
            match missing {
                None => Ok(()),
                Some((name, path)) => Err(Error::ImageUnusable {
                    image: reference,
                    reason: format!(
                        "its USER is {user:?}, and its /{path} has no {name:?}; build the image again with \
                         that entry, or with a number"
                    ),
                }),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_be_there_and_numbers_need_not() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0\nbot:x:1:1\n").unwrap();
        let open = || File::open(root.path()).unwrap();
        let there = |user| names(user).into_iter().all(|named| has(open(), named));
        for (user, expected) in [
            ("", true),
            ("1000", true),
            ("1000:1000", true),
            ("bot", true),
            ("bot:7", true),
            ("bo", false),
            ("nobody", false),
            ("bot:wheel", false),
            ("0:wheel", false),
        ] {
            assert_eq!(there(user), expected, "{user}");
        }
    }
}
