//! What may be out of reach after a step.

use crate::model::Chosen;
use crate::steps::{PATHS, Step};
use crate::world::{Place, Reach, is_data, may_expire};
use botstead_types::{BotId, VersionNumber};
use std::collections::BTreeSet;

/// Files that may be out of reach after a step.
pub type Excused = BTreeSet<(Place, String)>;

/// What a call that could not come to its end may still take away, with what it says: what is written
/// there later it may not.
pub type Pending = BTreeSet<(Place, String, String)>;

/// What may go of what is there now.
pub fn pending(excused: &Excused, before: &Reach) -> Pending {
    let text = |place, path| before.of(place).get(path).cloned();
    excused
        .iter()
        .filter_map(|(place, path)| Some((place.clone(), path.clone(), text(place, path)?)))
        .collect()
}

/// What is out of reach now, was in reach before, and is not excused everywhere.
pub fn lost<'a>(
    before: &'a Reach,
    after: &Reach,
    excused: &Excused,
    later: &Pending,
) -> Vec<&'a str> {
    let now = after.tokens();
    let is_excused = |place: &Place, path: &str| {
        excused.contains(&(place.clone(), path.to_owned()))
            || match place {
                // Versions that nobody asked for make room for newer ones.
                Place::Version(bot, number) => before.versions.iter().any(|version| {
                    version.bot == *bot && version.number == *number && may_expire(version, after)
                }),
                _ => false,
            }
    };
    let gone = before
        .tokens()
        .into_iter()
        .filter(|token| !now.contains(token));
    gone.filter(|token| {
        let places = before.places_of(token);
        !places.iter().all(|(place, path)| {
            let later = later.contains(&((*place).clone(), (*path).to_owned(), token.to_string()));
            later || is_excused(place, path)
        })
    })
    .collect()
}

/// A version that was pinned and is not any more.
pub fn unpinned(before: &Reach, after: &Reach) -> Option<VersionNumber> {
    let mut pinned = before.versions.iter().filter(|version| version.pinned);
    let unpinned = pinned.find(|version| {
        let mut now = after.versions.iter();
        now.any(|now| now.snapshot == version.snapshot && !now.pinned)
    });
    unpinned.map(|version| version.number)
}

/// What the user of a call wants to be gone afterwards.
pub fn excused(chosen: &Chosen, before: &Reach) -> Excused {
    let bot = chosen.bot;
    match &chosen.step {
        Step::Write { path, .. } | Step::Remove { path, .. } => {
            // The file of that name, also where `/data` leads elsewhere.
            let path = PATHS[*path].to_owned();
            let moved = path.replace("data/", "home/moved/");
            let active = Place::Active(bot);
            [(active.clone(), path), (active, moved)].into()
        }
        Step::Delete {
            preserve, versions, ..
        } => {
            let mut excused = deleted(bot, *preserve, before);
            if *versions {
                excused.extend(of_versions(bot, before));
            }
            excused
        }
        Step::DeleteBot { preserve, .. } => {
            let mut excused = deleted(bot, *preserve, before);
            excused.extend(of_versions(bot, before));
            if !*preserve {
                excused.extend(of_archives(bot, before));
            }
            excused
        }
        Step::DeleteVersion { .. } => chosen
            .version
            .map(|version| all_of(&Place::Version(bot, version), before))
            .unwrap_or_default(),
        Step::Discard { .. } => chosen
            .archive
            .map(|archive| all_of(&Place::Archive(bot, archive), before))
            .unwrap_or_default(),
        _ => Excused::new(),
    }
}

pub fn all_of(place: &Place, before: &Reach) -> Excused {
    let files = before.of(place).into_keys();
    files.map(|path| (place.clone(), path)).collect()
}

pub fn all_where(before: &Reach, which: impl Fn(&Place) -> bool) -> Excused {
    let places = before.places.keys().filter(|place| which(place));
    places.flat_map(|place| all_of(place, before)).collect()
}

/// What goes with a workspace.
pub fn deleted(bot: BotId, preserve: bool, before: &Reach) -> Excused {
    let place = Place::Active(bot);
    let active = before.of(&place);
    let mut gone = all_of(&place, before);
    gone.retain(|(_, path)| !preserve || !is_data(path, &active));
    gone
}

pub fn of_versions(bot: BotId, before: &Reach) -> Excused {
    all_where(
        before,
        |place| matches!(place, Place::Version(of, _) if *of == bot),
    )
}

pub fn of_archives(bot: BotId, before: &Reach) -> Excused {
    all_where(
        before,
        |place| matches!(place, Place::Archive(of, _) if *of == bot),
    )
}

pub fn removes(step: &Step) -> bool {
    matches!(
        step,
        Step::Delete { .. } | Step::DeleteBot { .. } | Step::Write { .. } | Step::Remove { .. }
    )
}

/// Where a call may move something into the present state from.
pub fn brought(chosen: &Chosen, before: &Reach) -> Excused {
    match &chosen.step {
        Step::Create { restore: true, .. } | Step::Restore { .. } | Step::Start { .. } => {
            of_archives(chosen.bot, before)
        }
        _ => Excused::new(),
    }
}
