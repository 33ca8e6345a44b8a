//! The checks hold for this repository, and each of them can fail.

use super::*;

#[test]
fn the_repository_is_tidy() {
    if let Err(error) = run() {
        panic!("{error:#}");
    }
}

#[test]
fn a_module_without_its_description_is_found() {
    let path = Path::new("crates/x/src/lib.rs");
    assert!(rust_file(path, "//! Something.\n").is_empty());
    assert_eq!(rust_file(path, "use std::fs;\n//! Late.\n").len(), 1);
}

#[test]
fn a_long_file_is_found() {
    let path = Path::new("crates/x/src/lib.rs");
    let text = |lines: usize| format!("//! Something.\n{}", "\n".repeat(lines - 1));
    assert!(rust_file(path, &text(MOST_LINES)).is_empty());
    assert_eq!(rust_file(path, &text(MOST_LINES + 1)).len(), 1);
}

#[test]
fn long_files_are_still_there_and_still_long() {
    for (file, reason) in LONG_FILES {
        let lines = read(Path::new(file)).unwrap().lines().count();
        assert!(lines > MOST_LINES, "{file} needs no exception any more");
        assert!(!reason.is_empty(), "{file} needs a reason");
    }
}

#[test]
fn a_crate_with_its_own_lints_is_found() {
    let path = Path::new("crates/x/Cargo.toml");
    let found = |text| lints(path, text).unwrap();
    assert_eq!(found("[lints]\nworkspace = true\n"), None);
    assert!(found("[package]\nname = \"x\"\n").is_some());
    assert!(found("[lints.rust]\nunsafe_code = \"allow\"\n").is_some());
}

#[test]
fn a_dead_link_is_found() {
    let check = |text| links(Path::new("docs/x.md"), text);
    assert!(check("[a](../Cargo.toml) [b](https://example.org/) [c](#part)").is_empty());
    assert!(check("```\n[a](nowhere.md)\n```").is_empty());
    assert_eq!(check("[a](../Cargo.toml) [b](nowhere.md#part)").len(), 1);
}

#[test]
fn a_path_that_is_not_there_is_found() {
    let check = |text| named_paths(Path::new("docs/x.md"), text);
    assert!(
        check("`xtask/src/tidy.rs`, `crates/x/*`, `crates`, `a/b` and crates/nowhere").is_empty()
    );
    assert_eq!(check("`docs` and `crates/nowhere`,\n`xtask/src`").len(), 1);
}
