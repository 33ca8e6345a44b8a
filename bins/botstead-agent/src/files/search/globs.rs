//! Which paths a search is about.

use crate::files::failure::Result;
use botstead_bridge::{Failure, FailureKind};
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// Globs of a request, and the bytes of all of them.
const MOST: usize = 256;
const MOST_BYTES: usize = 64 << 10;

/// Globs that name what is wanted, and those that exclude something of it.
#[derive(Debug)]
pub(super) struct Globs {
    /// `None`: everything.
    wanted: Option<GlobSet>,
    excluded: GlobSet,
}

impl Globs {
    pub(super) fn new(globs: &[String], ignore_case: bool) -> Result<Self> {
        if globs.len() > MOST || globs.iter().map(String::len).sum::<usize>() > MOST_BYTES {
            return Err(invalid("there are too many globs"));
        }
        let (mut wanted, mut excluded) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let mut all = true;
        for text in globs {
            let (text, set) = match text.strip_prefix('!') {
                Some(rest) => (rest, &mut excluded),
                None => {
                    all = false;
                    (text.as_str(), &mut wanted)
                }
            };
            if text.is_empty() {
                return Err(invalid("a glob is empty"));
            }
            let glob = GlobBuilder::new(&anywhere(text))
                .literal_separator(true)
                .case_insensitive(ignore_case)
                .build()
                .map_err(|error| invalid(&format!("the glob {text}: {}", error.kind())))?;
            set.add(glob);
        }
        let build = |set: GlobSetBuilder| set.build().map_err(|error| invalid(&error.to_string()));
        Ok(Self {
            wanted: if all { None } else { Some(build(wanted)?) },
            excluded: build(excluded)?,
        })
    }

    /// Whether a path below the place is wanted.
    pub(super) fn wants(&self, path: &[u8]) -> bool {
        match &self.wanted {
            Some(wanted) => wanted.is_match_candidate(&Candidate::from_bytes(path)),
            None => true,
        }
    }

    /// Whether a path is excluded, and with a directory everything below it.
    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.excluded
            .is_match_candidate(&Candidate::from_bytes(path))
    }
}

/// A glob without a slash is about names in any directory. One that ends in a slash is about a
/// directory, whose name alone decides here.
fn anywhere(glob: &str) -> String {
    let glob = glob.strip_suffix('/').unwrap_or(glob);
    match glob.strip_prefix('/') {
        Some(anchored) => anchored.to_owned(),
        None if glob.contains('/') => glob.to_owned(),
        None => format!("**/{glob}"),
    }
}

fn invalid(words: &str) -> Failure {
    Failure::new(FailureKind::Invalid, format!("globs: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(globs: &[&str]) -> Globs {
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        Globs::new(&globs, false).unwrap()
    }

    #[test]
    fn globs_are_about_names_or_paths() {
        for (glob, yes, no) in [
            (
                "*.rs",
                &[&b"a.rs"[..], b"a/b.rs", b"\xff.rs"][..],
                &[&b"a.rsx"[..], b"a.rs/b"][..],
            ),
            ("src/**", &[b"src/a", b"src/a/b"], &[b"src", b"a/src/b"]),
            ("/a", &[b"a"], &[b"b/a"]),
            ("a/", &[b"a", b"b/a"], &[b"ab"]),
            ("a/*", &[b"a/b"], &[b"a/b/c"]),
            ("{a,b}?", &[b"ax", b"c/by"], &[b"a"]),
        ] {
            let globs = globs(&[glob]);
            for path in yes {
                assert!(globs.wants(path), "{glob} {path:?}");
            }
            for path in no {
                assert!(!globs.wants(path), "{glob} {path:?}");
            }
        }
    }

    #[test]
    fn an_exclusion_alone_leaves_the_rest() {
        let globs = globs(&["!*.o"]);
        assert!(globs.wants(b"a.c") && !globs.excludes(b"a.c"));
        assert!(globs.excludes(b"b/a.o"));
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        for glob in ["a[", "", "!", "{a"] {
            let failure = Globs::new(&[glob.to_owned()], false).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid, "{glob}");
        }
        assert!(Globs::new(&vec!["a".to_owned(); 257], false).is_err());
    }
}
