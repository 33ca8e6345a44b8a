//! What the use cases on files take and give.

use botstead_bridge::proto;
use botstead_types::FilePath;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket, a device.
    Other,
}

impl From<proto::entry::Kind> for FileKind {
    fn from(kind: proto::entry::Kind) -> Self {
        match kind {
            proto::entry::Kind::File => Self::File,
            proto::entry::Kind::Directory => Self::Directory,
            proto::entry::Kind::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// The longest path that the kernel takes (PATH_MAX, limits.h): longer ones are cut, as no honest
/// agent sends them.
const MAX_PATH: usize = 4096;
/// The longest line that a search gives.
const MAX_LINE: usize = 4096;

pub(super) fn path(bytes: &Bytes) -> Vec<u8> {
    bytes[..bytes.len().min(MAX_PATH)].to_vec()
}

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path inside the workspace; any bytes.
    pub path: Vec<u8>,
    /// What it is; a symlink is not followed.
    pub kind: FileKind,
    /// The letter that `ls -l` shows for it: `-`, `d`, `l`, `p`, `s`, `c`, `b` or `?`.
    pub letter: char,
    /// Its size in bytes.
    pub size: u64,
    /// Permission bits with set-id and sticky bits, 0 to 0o7777.
    pub mode: u32,
    /// When its content changed last.
    pub modified: DateTime<Utc>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What a symlink holds.
    pub target: Option<Vec<u8>>,
    /// What a symlink leads to, where it leads anywhere; else the same as `kind`.
    pub leads_to: FileKind,
    /// A word that differs whenever a file was changed or replaced; empty for what is no file.
    pub revision: String,
}

impl From<proto::Entry> for FileEntry {
    fn from(entry: proto::Entry) -> Self {
        use proto::entry::Kind;
        let kind = entry.kind();
        let leads_to = match kind {
            Kind::Symlink => entry.target_kind().into(),
            kind => kind.into(),
        };
        let mut revision = entry.revision.clone();
        revision.retain(|c| c.is_ascii_alphanumeric() || c == '-');
        revision.truncate(128);
        Self {
            kind: kind.into(),
            letter: match kind {
                Kind::File => '-',
                Kind::Directory => 'd',
                Kind::Symlink => 'l',
                Kind::Pipe => 'p',
                Kind::Socket => 's',
                Kind::CharacterDevice => 'c',
                Kind::BlockDevice => 'b',
                Kind::Other => '?',
            },
            size: entry.size,
            mode: entry.mode & 0o7777,
            modified: DateTime::from_timestamp_nanos(entry.modified_ns),
            uid: entry.uid,
            gid: entry.gid,
            target: (kind == Kind::Symlink).then(|| path(&entry.target)),
            leads_to,
            revision,
            path: path(&entry.path),
        }
    }
}

/// Which entries of a directory are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFiles {
    /// Those of directories beneath it as well.
    pub recursive: bool,
    /// How deep a recursive list goes; 0 is no limit.
    pub max_depth: u32,
    /// At most this many, 1 to [`ListFiles::MAX_LIMIT`].
    pub limit: u32,
    /// The path of the last entry of the page before.
    pub after: Option<Vec<u8>>,
}

impl ListFiles {
    /// The longest page.
    pub const MAX_LIMIT: u32 = 1000;
}

/// A page of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList {
    /// The directory's own path, resolved.
    pub path: Vec<u8>,
    /// Entries, sorted by the bytes of their paths.
    pub entries: Vec<FileEntry>,
    /// Whether there is more after the last one.
    pub more: bool,
}

/// Which part of a file is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FilePart {
    /// All of it.
    #[default]
    Whole,
    /// Bytes.
    Range {
        /// The first.
        offset: u64,
        /// At most this many; `None` is to the end.
        length: Option<u64>,
    },
    /// The last so many bytes, or all where there are fewer.
    Last(u64),
    /// Lines.
    Lines {
        /// The first, counted from 1.
        first: u64,
        /// At most this many; `None` is to the end.
        count: Option<u64>,
    },
}

/// How a file is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadFile {
    /// Which part.
    pub part: FilePart,
    /// Fails with `stale_revision` when the file has another.
    pub expected_revision: Option<String>,
    /// Fails with `file_too_large` when more bytes would be given.
    pub limit: Option<u64>,
}

/// A file that is being read.
pub struct FileContent {
    /// The file.
    pub entry: FileEntry,
    /// Where the data begins in it.
    pub offset: u64,
    /// How many bytes come; `None` where that is not known before.
    pub length: Option<u64>,
    /// The data. An error means that it is not whole.
    pub data: BoxStream<'static, crate::Result<Bytes>>,
}

impl std::fmt::Debug for FileContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileContent")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// How a file is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteFile {
    /// Permission bits of a new file; those of an existing one stay.
    pub mode: Option<u32>,
    /// Make missing parent directories.
    pub parents: bool,
    /// Fails with `stale_revision` when the file has another or is missing.
    pub expected_revision: Option<String>,
    /// Fails with `path_exists` when anything is there.
    pub create_new: bool,
}

/// What is changed of a file or a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeFile {
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// `user`, `uid`, `user:group` or `uid:gid`, as the workspace knows them.
    pub owner: Option<String>,
    /// All that is below a directory as well.
    pub recursive: bool,
}

/// What is searched for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchFiles {
    /// Globs on paths below the place; a leading `!` excludes.
    pub globs: Vec<String>,
    /// A regular expression on lines; entries by name when absent.
    pub pattern: Option<String>,
    /// The pattern is plain text.
    pub literal: bool,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Leave out what .gitignore and .ignore files name.
    pub respect_ignore_files: bool,
    /// Leave out names that begin with a dot.
    pub skip_hidden: bool,
    /// At most this many matches, 1 to [`SearchFiles::MAX_LIMIT`].
    pub limit: u32,
    /// Lines before and after each match, at most 20.
    pub context: u32,
}

impl SearchFiles {
    /// The most matches of one search.
    pub const MAX_LIMIT: u32 = 10_000;
    /// The most files that are named because they were not searched.
    pub const MAX_SKIPPED: usize = 100;
}

/// A line of a file that was searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchLine {
    /// Its number, from 1.
    pub number: u64,
    /// Its text, cut where it is very long.
    pub text: Vec<u8>,
    /// The ranges of bytes that match; none for a line of context.
    pub spans: Vec<(u32, u32)>,
}

/// What a search reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchEvent {
    /// An entry or line that matches.
    Match {
        /// The entry's path.
        path: Vec<u8>,
        /// What it is.
        kind: FileKind,
        /// The line that matches, with its context; none for a match by name.
        lines: Vec<SearchLine>,
    },
    /// The end.
    Done {
        /// Files that were looked into.
        files_searched: u64,
        /// Matches.
        matches: u64,
        /// Whether the limit ended it.
        truncated: bool,
        /// Files and directories that could not be read.
        unreadable: u64,
        /// Files that were not searched to their end and directories that could not be read, the first
        /// [`SearchFiles::MAX_SKIPPED`].
        skipped: Vec<SkippedFile>,
        /// All of them.
        skipped_files: u64,
    },
}

/// A file that was not searched to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedFile {
    /// Its path.
    pub path: Vec<u8>,
    /// Why.
    pub reason: SkipReason,
}

/// Why a file was not searched to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// It could not be read.
    Unreadable,
    /// It has a zero byte.
    Binary,
    /// A line is too long to be matched against the pattern.
    LongLine,
    /// It is too large.
    TooLarge,
}

fn skipped(skipped: proto::search_reply::Skipped) -> SkippedFile {
    use proto::search_reply::skipped::Reason;
    SkippedFile {
        reason: match skipped.reason() {
            Reason::Unreadable => SkipReason::Unreadable,
            Reason::Binary => SkipReason::Binary,
            Reason::LongLine => SkipReason::LongLine,
            Reason::TooLarge => SkipReason::TooLarge,
        },
        path: path(&skipped.path),
    }
}

impl SearchEvent {
    /// `context` is how many lines were asked for before and after each match: more are not taken.
    pub(super) fn of(reply: proto::SearchReply, context: u32) -> Option<Self> {
        use proto::search_reply::Part;
        let most = 2 * context as usize + 1;
        Some(match reply.part? {
            Part::Match(found) => Self::Match {
                kind: found.kind().into(),
                path: path(&found.path),
                lines: found.lines.into_iter().take(most).map(line).collect(),
            },
            Part::Done(done) => Self::Done {
                files_searched: done.files_searched,
                matches: done.matches,
                truncated: done.truncated,
                unreadable: done.unreadable,
                skipped_files: done.skipped_files,
                skipped: done
                    .skipped
                    .into_iter()
                    .take(SearchFiles::MAX_SKIPPED)
                    .map(skipped)
                    .collect(),
            },
        })
    }
}

fn line(line: proto::search_reply::Line) -> SearchLine {
    let text = line.text[..line.text.len().min(MAX_LINE)].to_vec();
    let end = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let inside = |span: &proto::search_reply::Span| (span.start <= span.end) && span.end <= end;
    // No more than characters.
    let spans = line.spans.iter().take(text.len() + 1);
    SearchLine {
        number: line.number,
        spans: spans
            .filter(|span| inside(span))
            .map(|span| (span.start, span.end))
            .collect(),
        text,
    }
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// It was made.
    Created,
    /// Its content changed.
    Modified,
    /// It was removed.
    Removed,
    /// It was moved out of what is watched.
    MovedFrom,
    /// It was moved in.
    MovedTo,
    /// It was renamed.
    Renamed,
    /// Its mode, owner, times or links changed.
    Attributes,
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// It watches; what happens from now on is reported.
    Ready {
        /// Directories that are watched.
        directories: u64,
        /// Whether there were too many of them.
        truncated: bool,
    },
    /// Something changed.
    Changed {
        /// What.
        change: FileChange,
        /// The entry's path.
        path: Vec<u8>,
        /// Where it was renamed to.
        to: Option<Vec<u8>>,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// Events were lost: the caller looks again at what it cares for.
    Overflow,
}

impl WatchEvent {
    pub(super) fn of(reply: proto::WatchReply) -> Option<Self> {
        use proto::watch_reply::{Change, Part};
        Some(match reply.part? {
            Part::Ready(ready) => Self::Ready {
                directories: ready.directories,
                truncated: ready.truncated,
            },
            Part::Overflow(_) => Self::Overflow,
            Part::Event(event) => Self::Changed {
                change: match event.change() {
                    Change::Created => FileChange::Created,
                    Change::Modified => FileChange::Modified,
                    Change::Removed => FileChange::Removed,
                    Change::MovedFrom => FileChange::MovedFrom,
                    Change::MovedTo => FileChange::MovedTo,
                    Change::Renamed => FileChange::Renamed,
                    Change::Attributes => FileChange::Attributes,
                },
                path: path(&event.path),
                to: (event.change() == Change::Renamed).then(|| path(&event.to)),
                is_directory: event.is_directory,
            },
        })
    }
}

pub(super) fn at(path: &FilePath) -> Option<proto::Location> {
    Some(proto::Location {
        root: Bytes::new(),
        path: Bytes::copy_from_slice(path.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_says_too_much_is_left_out() {
        use proto::search_reply::{Line, Match, Part, Span};
        let span = |start, end| Span { start, end };
        let one = Line {
            number: 1,
            text: vec![b'x'; 10_000].into(),
            spans: vec![span(0, 1), span(5, 4), span(9_000, 9_001), span(4095, 4096)],
            left_out: 0,
        };
        let reply = proto::SearchReply {
            part: Some(Part::Match(Match {
                path: vec![b'p'; 100_000].into(),
                lines: vec![one; 1000],
                ..Match::default()
            })),
        };
        let Some(SearchEvent::Match { path, lines, .. }) = SearchEvent::of(reply, 2) else {
            panic!("no match");
        };
        assert_eq!((path.len(), lines.len()), (MAX_PATH, 5));
        assert_eq!(lines[0].text.len(), MAX_LINE);
        assert_eq!(lines[0].spans, [(0, 1), (4095, 4096)]);
    }
}
