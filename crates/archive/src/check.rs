//! The first stage of an import: reading a whole archive and refusing it before anything is touched.

use crate::attributes::{
    ACCESS_LIST, Attribute, CAPABILITY, DEFAULT_LIST, classify, is_access_list, is_capability,
};
use crate::compress::{READ, unpack};
use crate::error::{Entry, Error, Refusal, escape};
use crate::format::{Kind, Member, Reader, Time};
use crate::limits::{Landing, Limit, Limits};
use crate::names::{Implied, Names, Node, ROOT};
use crate::progress::Progress;
use crate::scratch::Scratch;
use botstead_overlay::beneath;
use botstead_overlay::tree::{kind, stat_fd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::io::{BufReader, Read, Seek};
use std::sync::Arc;

/// What an archive is held to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckOptions<'a> {
    /// How large it may be.
    pub limits: Limits,
    /// A folder that may be around everything, such as `data`: its content is taken as the archive's
    /// own. It counts only when it has an entry of its own, everything is in it, and the archive has
    /// no entry `./`. So all of these are taken alike: an export of ours in a folder `data`, one of
    /// `tar -C / -cz data`, one of `tar -C /data -cz .`; and of the last kind, a folder `data` in it
    /// stays a folder.
    pub folder: Option<String>,
    /// The directory to be merged into, whose symbolic links the archive must not reach through. It
    /// is only looked at.
    pub merge_into: Option<BorrowedFd<'a>>,
    /// A directory on the filesystem that the archive shall be applied to, which is asked what it takes:
    /// lengths of files, attributes, targets and numbers of links. Nothing stays in it. Without one, such is refused when it is
    /// applied.
    pub scratch: Option<BorrowedFd<'a>>,
}

impl CheckOptions<'_> {
    /// The default limits, no folder, no destination, no scratch.
    pub fn new() -> Self {
        Self {
            limits: Limits::default(),
            folder: None,
            merge_into: None,
            scratch: None,
        }
    }
}

impl Default for CheckOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Content {
    /// Entries of all kinds.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of files' data that will be written, without holes.
    pub bytes: u64,
    /// What the disk must have free for all of it, see [`Limits::disk_bytes`].
    pub disk_bytes: u64,
    /// How many inodes it needs at most: entries that are no further name of another, and directories that
    /// are only implied.
    pub inodes: u64,
    /// Bytes of the unpacked archive.
    pub unpacked_bytes: u64,
    /// Whether everything was in [`CheckOptions::folder`].
    pub in_folder: bool,
    /// Extended attributes that are not applied because they belong to the host that the archive
    /// came from.
    pub attributes_left_out: u64,
}

/// An archive that was found good, with the file that holds it.
#[derive(Debug)]
pub struct Checked<R> {
    pub(crate) archive: R,
    pub(crate) limits: Limits,
    pub(crate) names: Arc<Names>,
    /// What takes the destination's place.
    pub(crate) top: Node,
    /// Of directories: they can be set only when everything else is done.
    pub(crate) times: Vec<(Node, Time)>,
    content: Content,
}

impl<R> Checked<R> {
    /// What it holds.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Its names, to be held against a destination.
    pub fn outline(&self) -> Outline {
        Outline {
            names: Arc::clone(&self.names),
            top: self.top,
        }
    }

    /// Gives the file back.
    pub fn into_inner(self) -> R {
        self.archive
    }
}

/// The names of an archive.
#[derive(Debug, Clone)]
pub struct Outline {
    names: Arc<Names>,
    top: Node,
}

impl Outline {
    /// Refuses what leads through a symbolic link of a directory that it is to be merged into, as
    /// [`CheckOptions::merge_into`] does. The directory is only looked at.
    ///
    /// # Errors
    /// [`Error::Refused`] with the first such entry; [`Error::Apply`] when the directory cannot be looked at.
    pub fn fits(&self, destination: impl AsFd) -> Result<(), Error> {
        reach(&self.names, self.top, destination.as_fd())
    }
}

/// Reads an archive from its beginning to its end: gzip, zstd, xz, bzip2 or plain tar, whatever it begins with.
/// No destination is touched, and nothing is written anywhere.
///
/// Memory: some 40 bytes for each entry and the last part of its name, and buffers.
///
/// Stricter than most programs, so that nothing has two meanings:
/// - Where a name comes again the later entry wins; a directory with entries stays one. A link's target
///   comes before it.
/// - A type without data has none, a global header gives owners and times at most, names do not
///   contradict.
/// - Two blocks of zeros end the archive, and nothing but zeros follows.
///
/// # Errors
/// [`Error::Refused`] with the first entry that is not acceptable; [`Error::ReadArchive`] when the file
/// itself fails; [`Error::Apply`] when the destination cannot be looked at; [`Error::Cancelled`].
pub fn check<R>(
    mut archive: R,
    options: &CheckOptions<'_>,
    progress: &Progress,
) -> Result<Checked<R>, Error>
where
    R: Read + Seek + Send,
{
    let decoder = unpack(&mut archive).map_err(Error::ReadArchive)?;
    let limits = &options.limits;
    let input = BufReader::with_capacity(READ, decoder);
    let mut reader = Reader::new(input, limits, progress);
    let mut scratch = match options.scratch.map(Scratch::new).transpose() {
        Ok(scratch) => scratch.flatten(),
        Err(errno) => return Err(Error::Destination(errno.into())),
    };
    let mut names = Names::new();
    let mut times = Vec::new();
    let mut content = Content::default();
    let mut landing = Landing::default();
    while let Some(member) = reader.next()? {
        let number = reader.entry().number;
        let node = names
            .add(&member, number, limits)
            .map_err(|reason| reader.refuse(reason))?;
        let kept = attributes(&member).map_err(|reason| reader.refuse(reason))?;
        let kept: Vec<_> = kept.collect();
        content.attributes_left_out += (member.attributes.len() - kept.len()) as u64;
        landing.entry(&member, &kept);
        let implied = names.take_implied();
        landing.directories(implied);
        content.inodes += implied as u64 + u64::from(member.kind != Kind::HardLink);
        content.disk_bytes = landing.bytes();
        if content.disk_bytes > limits.disk_bytes {
            return Err(reader.refuse(Refusal::Limit(Limit::DiskBytes {
                most: limits.disk_bytes,
                needed: content.disk_bytes,
            })));
        }
        if let Some(scratch) = &mut scratch {
            let tried = scratch.length(member.size);
            let tried = tried.and_then(|()| scratch.attributes(kept.iter().copied()));
            let tried = tried.and_then(|()| match member.kind {
                Kind::Symlink => scratch.target(&member.link),
                Kind::HardLink => scratch.links(names.links(node)),
                _ => Ok(()),
            });
            tried.map_err(|reason| reader.refuse(reason))?;
        }
        match member.kind {
            Kind::Directory => times.push((node, member.modified)),
            Kind::File => {
                content.files += 1;
                content.bytes += match &member.extents {
                    Some(extents) => extents.iter().map(|piece| piece.length).sum(),
                    None => member.size,
                };
            }
            _ => {}
        }
        progress.entry();
    }
    if names.entries() == 0 {
        return Err(reader.refuse(Refusal::NoEntries));
    }
    content.entries = names.entries();
    content.unpacked_bytes = reader.position();
    let folder = options.folder.as_ref();
    let folder = folder.and_then(|folder| names.only_folder(folder.as_bytes()));
    content.in_folder = folder.is_some();
    let top = folder.unwrap_or(ROOT);
    if let Some(destination) = options.merge_into {
        reach(&names, top, destination)?;
    }
    drop(reader);
    tracing::debug!(?content, "checked an archive");
    Ok(Checked {
        archive,
        limits: limits.clone(),
        names: Arc::new(names),
        top,
        times,
        content,
    })
}

/// Those attributes of an entry that are applied.
pub(crate) fn attributes(
    member: &Member,
) -> Result<impl Iterator<Item = &(Vec<u8>, Vec<u8>)>, Refusal> {
    // The kernel lists no more names than this, with their ends.
    let names = member.attributes.iter().map(|(name, _)| name.len() + 1);
    if names.sum::<usize>() > 64 << 10 {
        return Err(Refusal::AttributeSpace);
    }
    for (name, value) in &member.attributes {
        match classify(name) {
            Attribute::Overlay => return Err(Refusal::OverlayMark),
            Attribute::Carried if !is_valid(member.kind, name, value) => {
                return Err(Refusal::Attribute);
            }
            _ => {}
        }
    }
    // Those of a further name are those of the file, which came with the first.
    let applied = member.kind != Kind::HardLink;
    Ok(member
        .attributes
        .iter()
        .filter(move |(name, _)| applied && classify(name) == Attribute::Carried))
}

/// Whether the kernel lets an entry of this kind have such an attribute.
fn is_valid(kind: Kind, name: &[u8], value: &[u8]) -> bool {
    if name.contains(&0) || name.len() > 255 || value.len() > 64 << 10 {
        return false;
    }
    match name {
        ACCESS_LIST => kind != Kind::Symlink && is_access_list(value),
        DEFAULT_LIST => matches!(kind, Kind::Directory | Kind::HardLink) && is_access_list(value),
        CAPABILITY => is_capability(value),
        _ if name.starts_with(b"user.") => !matches!(kind, Kind::Symlink | Kind::Fifo),
        _ => true,
    }
}

/// Refuses an archive with a name that leads through a symbolic link of the destination. Where the
/// archive has a directory of its own first, that takes the link's place.
fn reach(names: &Names, top: Node, destination: BorrowedFd<'_>) -> Result<(), Error> {
    // Which of the archive's directories are directories of the destination now. Parents come first.
    let mut real = vec![false; names.len()];
    real[top as usize] = true;
    // The one that was found last: the next is mostly in it.
    let mut last: Option<(Node, OwnedFd)> = None;
    // There are fewer nodes than a node's number can be.
    let nodes = 1..u32::try_from(names.len()).unwrap_or(u32::MAX);
    for node in nodes.filter(|node| names.is_directory(*node)) {
        if node == top || !real[names.parent(node) as usize] {
            continue;
        }
        let parent = names.parent(node);
        let opened = match &last {
            Some((at, directory)) if *at == parent => {
                beneath::open(directory, names.part(node), OFlags::PATH)
            }
            _ => beneath::open(destination, &names.path(top, node), OFlags::PATH),
        };
        let found = opened.and_then(|place| Ok((stat_fd(&place)?, place)));
        let (found, place) = match found {
            Err(Errno::NOENT) => continue,
            found => found.map_err(|errno| Error::Apply {
                operation: "look at the place of",
                entry: Entry {
                    number: 0,
                    name: escape(&names.path(top, node)),
                },
                source: errno.into(),
            })?,
        };
        match kind(&found) {
            FileType::Directory => {
                real[node as usize] = true;
                last = Some((node, place));
            }
            FileType::Symlink if !names.own_first(node) => {
                return Err(beneath_link(names, top, node));
            }
            _ => {}
        }
    }
    Ok(())
}

fn beneath_link(names: &Names, top: Node, node: Node) -> Error {
    let implied = names.implied();
    let found = implied.binary_search_by_key(&node, |implied| implied.node);
    let Implied { leaf, number, .. } = match found {
        Ok(found) => implied[found],
        // Every directory without an own entry at first is there.
        Err(_) => Implied {
            node,
            leaf: node,
            number: 0,
        },
    };
    Error::Refused {
        entry: Entry {
            number,
            name: escape(&names.path(top, leaf)),
        },
        reason: Refusal::BeneathLink,
    }
}
