//! What every snapshot of ours says of itself, so that a database that does not know it can record it
//! again: whose it is, from which image and version it grew, and of a version its number and name.
//!
//! Written when a snapshot is prepared or committed, and when a version is renamed or pinned. Snapshots of
//! earlier releases say whose they are and nothing else; for them [`crate::recovery`] finds the rest as far
//! as it can.

use crate::snapshot::checked_name;
use botstead_runtime::Snapshot;
use botstead_types::{BotId, ImageRef, OperationId, RecordedImage, SnapshotKey, VersionNumber};
use std::collections::BTreeMap;

pub(crate) const LABEL_BOT: &str = "botstead.bot_id";
const LABEL_IMAGE: &str = "botstead.image";
const LABEL_DIGEST: &str = "botstead.image_digest";
const LABEL_PARENT: &str = "botstead.parent_version";
const LABEL_VERSION: &str = "botstead.version";
const LABEL_NAME: &str = "botstead.version_name";
const LABEL_MADE_OF: &str = "botstead.made_of";
const LABEL_PINNED: &str = "botstead.pinned";
const LABEL_UNFINISHED: &str = "botstead.unfinished";

/// What is written on a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note<'a> {
    bot: BotId,
    image: &'a RecordedImage,
    /// The version that its state grew from.
    parent: Option<VersionNumber>,
    version: Option<Numbered<'a>>,
    made_of: Option<&'a SnapshotKey>,
    unfinished: bool,
}

/// What a version says besides.
#[derive(Debug, Clone, Copy)]
struct Numbered<'a> {
    number: VersionNumber,
    name: Option<&'a str>,
}

impl<'a> Note<'a> {
    /// The note of a snapshot that is no version.
    pub(crate) fn of(bot: BotId, image: &'a RecordedImage, parent: Option<VersionNumber>) -> Self {
        Self {
            bot,
            image,
            parent,
            version: None,
            made_of: None,
            unfinished: false,
        }
    }

    /// The same of a version that is made of the writable snapshot `made_of`.
    pub(crate) fn version(
        self,
        number: VersionNumber,
        name: Option<&'a str>,
        made_of: &'a SnapshotKey,
    ) -> Self {
        let version = Some(Numbered { number, name });
        Self { version, ..self }.made_of(made_of)
    }

    /// The same of what becomes of the writable snapshot `made_of`.
    pub(crate) fn made_of(self, made_of: &'a SnapshotKey) -> Self {
        let made_of = Some(made_of);
        Self { made_of, ..self }
    }

    /// The same of a writable snapshot that an operation is still to change, or not: until then it is
    /// nobody's work.
    pub(crate) fn unfinished(self, unfinished: bool) -> Self {
        Self { unfinished, ..self }
    }

    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (LABEL_BOT.to_owned(), self.bot.to_string()),
            (LABEL_IMAGE.to_owned(), self.image.reference.to_string()),
            (LABEL_DIGEST.to_owned(), self.image.digest.clone()),
        ]);
        if let Some(parent) = self.parent {
            labels.insert(LABEL_PARENT.to_owned(), parent.to_string());
        }
        if let Some(version) = &self.version {
            labels.insert(LABEL_VERSION.to_owned(), version.number.to_string());
            if let Some(name) = version.name {
                labels.insert(LABEL_NAME.to_owned(), name.to_owned());
            }
        }
        if let Some(made_of) = self.made_of {
            labels.insert(LABEL_MADE_OF.to_owned(), made_of.to_string());
        }
        if self.unfinished {
            labels.insert(LABEL_UNFINISHED.to_owned(), "true".to_owned());
        }
        labels
    }
}

/// What a snapshot says; absent where it says nothing that can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) image: Option<ImageRef>,
    pub(crate) digest: Option<String>,
    pub(crate) parent: Option<VersionNumber>,
    pub(crate) version: Option<VersionNumber>,
    pub(crate) name: Option<String>,
    pub(crate) made_of: Option<SnapshotKey>,
    pub(crate) pinned: bool,
    pub(crate) unfinished: bool,
}

impl Noted {
    pub(crate) fn on(snapshot: &Snapshot) -> Self {
        let text = |label: &str| snapshot.labels.get(label);
        let number = |label: &str| {
            let number = text(label)?.parse::<i64>().ok()?;
            number.try_into().ok()
        };
        Self {
            image: text(LABEL_IMAGE).and_then(|image| image.parse().ok()),
            digest: text(LABEL_DIGEST).cloned(),
            parent: number(LABEL_PARENT),
            version: number(LABEL_VERSION),
            name: checked_name(text(LABEL_NAME).cloned()).unwrap_or_default(),
            made_of: text(LABEL_MADE_OF).and_then(|key| key.parse().ok()),
            pinned: text(LABEL_PINNED).is_some(),
            unfinished: text(LABEL_UNFINISHED).is_some(),
        }
    }
}

/// The labels of a version's snapshot after a change of its name and pin; absent changes stay.
pub(crate) fn relabelled(
    snapshot: &Snapshot,
    name: Option<Option<&str>>,
    pinned: Option<bool>,
) -> BTreeMap<String, String> {
    let mut labels = snapshot.labels.clone();
    let mut set = |label: &str, value: Option<&str>| match value {
        Some(value) => labels.insert(label.to_owned(), value.to_owned()),
        None => labels.remove(label),
    };
    if let Some(name) = name {
        set(LABEL_NAME, name);
    }
    if let Some(pinned) = pinned {
        set(LABEL_PINNED, pinned.then_some("true"));
    }
    labels
}

/// The labels of a writable snapshot that an operation is still to change, or not any more.
pub(crate) fn relabelled_unfinished(
    snapshot: &Snapshot,
    unfinished: bool,
) -> BTreeMap<String, String> {
    let mut labels = snapshot.labels.clone();
    match unfinished {
        true => labels.insert(LABEL_UNFINISHED.to_owned(), "true".to_owned()),
        false => labels.remove(LABEL_UNFINISHED),
    };
    labels
}

/// The bot whose snapshot it is, where it is one of ours.
pub(crate) fn bot_of(snapshot: &Snapshot) -> Option<BotId> {
    snapshot.labels.get(LABEL_BOT)?.parse().ok()
}

/// The operation that a snapshot is named after.
pub(crate) fn operation_of(key: &SnapshotKey) -> Option<OperationId> {
    // `<what>-<operation>`, and perhaps a suffix for what is under work.
    let (_, rest) = key.as_str().split_once('-')?;
    rest.get(..36)?.parse().ok()
}

/// Whether a committed snapshot is, or was meant to be, a version: not a copy or a merged chain that
/// is there for something else.
pub(crate) fn is_version(snapshot: &Snapshot) -> bool {
    let key = &snapshot.key;
    operation_of(key).is_some_and(|operation| *key == SnapshotKey::version(operation))
        || snapshot.labels.contains_key(LABEL_VERSION)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use botstead_types::SnapshotKind;
    use chrono::Utc;

    pub(crate) fn image() -> RecordedImage {
        RecordedImage {
            reference: "debian:12".parse().unwrap(),
            digest: format!("sha256:{:064}", 1),
            config_digest: String::new(),
        }
    }

    fn snapshot(key: SnapshotKey, labels: BTreeMap<String, String>) -> Snapshot {
        Snapshot {
            key,
            parent: None,
            kind: SnapshotKind::Committed,
            labels,
            rooted: true,
            created_at: Utc::now(),
            updated_at: Utc::now(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (bot, image, id) = (BotId::generate(), image(), OperationId::generate());
        let (one, two) = (VersionNumber::FIRST, 2.try_into().unwrap());
        let active = SnapshotKey::active(id);
        let note = Note::of(bot, &image, Some(one));
        let note = note.version(two, Some("before the upgrade"), &active);
        let written = snapshot(SnapshotKey::version(id), note.labels());
        assert_eq!(bot_of(&written), Some(bot));
        assert!(is_version(&written));
        let noted = Noted::on(&written);
        assert_eq!(noted.image.as_ref(), Some(&image.reference));
        assert_eq!(noted.digest.as_ref(), Some(&image.digest));
        assert_eq!((noted.parent, noted.version), (Some(one), Some(two)));
        assert_eq!(noted.name.as_deref(), Some("before the upgrade"));
        assert_eq!(noted.made_of, Some(active));
    }

    #[test]
    fn names_and_pins_are_changed_each_by_itself() {
        let (bot, image, id) = (BotId::generate(), image(), OperationId::generate());
        let active = SnapshotKey::active(id);
        let note = Note::of(bot, &image, None).version(VersionNumber::FIRST, Some("a"), &active);
        let mut version = snapshot(SnapshotKey::version(id), note.labels());
        version.labels.insert("another".to_owned(), "1".to_owned());
        for (name, pinned, expected) in [
            (None, Some(true), (Some("a"), true)),
            (Some(Some("b")), None, (Some("b"), true)),
            (Some(None), Some(false), (None, false)),
        ] {
            version.labels = relabelled(&version, name, pinned);
            let noted = Noted::on(&version);
            assert_eq!((noted.name.as_deref(), noted.pinned), expected);
            assert_eq!(noted.version, Some(VersionNumber::FIRST));
            assert!(version.labels.contains_key("another"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let id = OperationId::generate();
        let labels = [
            (LABEL_VERSION, "0"),
            (LABEL_PARENT, "x"),
            (LABEL_NAME, "a\nb"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let odd = snapshot(SnapshotKey::copied(id), BTreeMap::from(labels));
        assert_eq!(Noted::on(&odd), Noted::default());
        let copied = snapshot(SnapshotKey::copied(id), BTreeMap::new());
        assert!(!is_version(&copied));
        let old = snapshot(SnapshotKey::version(id), BTreeMap::new());
        assert!(is_version(&old), "as earlier releases made them");
    }

    #[test]
    fn snapshots_tell_their_operation() {
        let id = OperationId::generate();
        assert_eq!(operation_of(&SnapshotKey::version(id)), Some(id));
        let copying: SnapshotKey = format!("{}-copying", SnapshotKey::copied(id))
            .parse()
            .unwrap();
        assert_eq!(operation_of(&copying), Some(id));
        assert_eq!(operation_of(&"sha256:abc".parse().unwrap()), None);
    }
}
