//! Names that are counted, and those that are refused.

use super::*;
use crate::format::Time;

#[test]
fn names_of_a_file_are_counted_as_they_come_and_go() {
    let mut names = Names::new();
    let mut add = |name: &str, link: &str| {
        let kind = match link {
            "" => Kind::File,
            _ => Kind::HardLink,
        };
        let node = names.add(&member(name, kind, link), 1, &Limits::default());
        let node = node.unwrap();
        names.links(node)
    };
    for (name, link, count) in [
        ("a", "", 1),
        ("b", "a", 2),
        ("c", "b", 3),
        ("c", "a", 3),
        // Another file, which the others are no names of.
        ("a", "", 1),
        ("d", "b", 3),
        ("a", "d", 4),
        ("a", "a", 4),
        ("x", "", 1),
        ("d", "x", 2),
        ("e", "c", 4),
    ] {
        assert_eq!(add(name, link), count, "{name} {link}");
    }
}

fn member(name: &str, kind: Kind, link: &str) -> Member {
    Member {
        name: name.into(),
        link: link.into(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        modified: Time::default(),
        size: 0,
        extents: None,
        attributes: Vec::new(),
    }
}

/// Adds entries such as `dir/`, `file`, `link -> target` and `name = hard link`.
fn add(names: &mut Names, text: &str, limits: &Limits) -> Result<Node, Refusal> {
    let member = if let Some((name, target)) = text.split_once(" -> ") {
        member(name, Kind::Symlink, target)
    } else if let Some((name, target)) = text.split_once(" = ") {
        member(name, Kind::HardLink, target)
    } else if text.ends_with('/') {
        member(text, Kind::Directory, "")
    } else {
        member(text, Kind::File, "")
    };
    names.add(&member, names.entries() + 1, limits)
}

fn check(entries: &[&str], limits: &Limits) -> Result<Names, (usize, Refusal)> {
    let mut names = Names::new();
    for (number, entry) in entries.iter().enumerate() {
        add(&mut names, entry, limits).map_err(|reason| (number, reason))?;
    }
    Ok(names)
}

#[test]
fn what_stands_together_and_what_does_not() {
    use Refusal::*;
    let limits = Limits::default();
    for (entries, expected) in [
        (&["./", "./a/", "./a/b", ".//a/./c"][..], None),
        (&["a/b", "a/", "a/"], None),
        (&["a", "b = a", "c = ./b"], None),
        (&["l -> /etc", "h = l"], None),
        (&["..a/b...", "a\\..\\b"], None),
        (&[""], Some(EmptyName)),
        (&["."], Some(EmptyName)),
        (&["/a"], Some(AbsoluteName)),
        (&["//"], Some(AbsoluteName)),
        (&["a/../b"], Some(UpwardName)),
        (&[".."], Some(UpwardName)),
        (&["../"], Some(UpwardName)),
        (&["a\0b"], Some(ZeroInName)),
        (&["a", "a", "./a"], None),
        (&["a/", "a"], None),
        (&["a", "a/", "a/b"], None),
        (&["a -> /etc", "a/", "a/b"], None),
        (&["a", "a -> /etc", "a/b"], Some(BeneathLink)),
        (&["a/", "a -> /etc", "a/b"], Some(BeneathLink)),
        (&["a/", "a", "a/b"], Some(BeneathFile)),
        (&["a", "a = a", "a"], None),
        (&["a -> b", "a = a", "a/b"], Some(BeneathLink)),
        (&["a", "b = a", "a/", "c = a"], Some(LinkMissing)),
        (&["a/b", "a"], Some(Duplicate)),
        (&["a/b", "a -> c"], Some(Duplicate)),
        (&["a -> ..", "a/b"], Some(BeneathLink)),
        (&["a -> ..", "a/b/c/"], Some(BeneathLink)),
        (&["a", "a/b"], Some(BeneathFile)),
        (&["a = b"], Some(LinkMissing)),
        (&["a = a"], Some(LinkMissing)),
        (&["a/", "b = a"], Some(LinkMissing)),
        (&["a/b", "c = a"], Some(LinkMissing)),
        (&["a", "b = ../a"], Some(LinkOutside)),
        (&["d/a", "b = /d/a", "c = //d/./a"], None),
        (&["a", "b = /../a"], Some(LinkOutside)),
        (&["a", "b = /"], Some(LinkOutside)),
        (&["a", "b = /etc/passwd"], Some(LinkOutside)),
        (&["a -> "], Some(LinkTarget)),
        (&["a -> b\0c"], Some(ZeroInName)),
    ] {
        let refused = check(entries, &limits).err();
        let expected = expected.map(|reason| (entries.len() - 1, reason));
        assert_eq!(refused, expected, "{entries:?}");
    }
    let long = "x".repeat(256);
    assert_eq!(check(&[&long], &limits).err(), Some((0, LongName)));
}

#[test]
fn limits_hold_for_implied_directories_too() {
    let limits = Limits {
        entries: 3,
        name_bytes: 8,
        ..Limits::default()
    };
    let beyond = Refusal::Limit(Limit::Entries(3));
    for (entries, expected) in [
        (&["a", "b", "c"][..], None),
        (&["a/", "a/", "a/"], None),
        (&["a/b/c"], None),
        (&["a", "b", "c", "d"], Some((3, beyond.clone()))),
        (&["a/", "a/", "a/", "a/"], Some((3, beyond.clone()))),
        (&["a/b/c/d"], Some((0, beyond))),
        (
            &["a/bcdefgh"],
            Some((0, Refusal::Limit(Limit::NameBytes(8)))),
        ),
    ] {
        assert_eq!(check(entries, &limits).err(), expected, "{entries:?}");
    }
}

#[test]
fn the_top_folder_is_found_only_when_it_is_clear() {
    for (entries, expected) in [
        (&["data/", "data/a", "data/b/c"][..], true),
        (&["./data/", "./data/a"], true),
        (&["data/a", "data/"], true),
        (&["data/"], true),
        (&["./", "./data/", "./data/a"], false),
        (&["data/a", "data/b"], false),
        (&["data/", "other"], false),
        (&["data"], false),
        (&["data -> x"], false),
        (&["x/", "x/data/"], false),
    ] {
        let names = check(entries, &Limits::default()).unwrap();
        assert_eq!(
            names.only_folder(b"data").is_some(),
            expected,
            "{entries:?}"
        );
    }
}

#[test]
fn a_trail_leads_nowhere_else() {
    let limits = Limits::default();
    let mut names = Names::new();
    let all = [
        "a/b/c/",
        "a/b/c/d",
        "a/bc/d",
        "a/b/cd",
        "ab/c",
        "a/b/c/dd/e",
        "b",
    ];
    let nodes: Vec<_> = all
        .iter()
        .map(|name| add(&mut names, name, &limits).unwrap())
        .collect();
    let mut trail = Trail::default();
    for _ in 0..3 {
        for (name, node) in all.iter().zip(&nodes) {
            let name = name.trim_end_matches('/').as_bytes();
            assert_eq!(names.find(name, &mut trail), Some(*node));
            assert_eq!(names.path(ROOT, *node), name);
        }
        assert_eq!(names.find(b"a/b/c/d/e", &mut trail), None);
        assert_eq!(names.find(b"a/b/c/d", &mut trail), Some(nodes[1]));
        assert_eq!(names.find(b"", &mut trail), Some(ROOT));
    }
}

#[test]
fn paths_are_found_again() {
    let limits = Limits::default();
    let mut names = Names::new();
    let node = add(&mut names, "./data//x/y/", &limits).unwrap();
    assert_eq!(names.path(ROOT, node), b"data/x/y");
    let top = names.find(b"data", &mut Trail::default()).unwrap();
    assert_eq!(names.path(top, node), b"x/y");
    assert_eq!(names.path(top, top), b"");
    let implied: Vec<_> = names.implied().iter().map(|i| (i.node, i.leaf)).collect();
    assert_eq!(implied, [(top, node), (names.parent(node), node)]);
    assert!(names.own_first(node) && !names.own_first(top));
}
