//! Hostile archives: what is wrong with each, and at which entry.

use super::raw::{Raw, extended};
use botstead_archive::{Limit, Refusal};
use tar::Header;

pub struct Case {
    pub what: String,
    pub entries: Vec<Raw>,
    /// The number of the bad entry.
    pub number: u64,
    /// How it is named, unless that is too long to be shown.
    pub name: Option<String>,
    pub reason: Refusal,
}

/// Entries such as `file; dir/; link -> target; name = hard link`.
pub fn entries(text: &str) -> Vec<Raw> {
    let entry = |text: &str| match (text.split_once(" -> "), text.split_once(" = ")) {
        (Some((name, target)), _) => Raw::link(name, b'2', target),
        (_, Some((name, target))) => Raw::link(name, b'1', target),
        _ if text.ends_with('/') => Raw::directory(text),
        _ => Raw::file(text),
    };
    text.split("; ").map(entry).collect()
}

pub fn all() -> Vec<Case> {
    [names(), fields(), records(), sparse()]
        .into_iter()
        .flatten()
        .collect()
}

/// The last entry is the bad one.
fn names() -> Vec<Case> {
    use Refusal::*;
    let cases = [
        ("ok; ../evil", UpwardName),
        ("ok; a/b/../../../evil", UpwardName),
        ("a/../", UpwardName),
        ("../", UpwardName),
        ("ok; /etc/x", AbsoluteName),
        ("/", AbsoluteName),
        ("./.", EmptyName),
        ("out -> /; out/etc/evil", BeneathLink),
        ("d/; l -> d; l/f", BeneathLink),
        ("l -> /tmp; l/d/", BeneathLink),
        ("l -> ..; l/m -> ..", BeneathLink),
        ("l -> /; l/etc/h = ok", LinkMissing),
        ("ok; ok/f", BeneathFile),
        ("d/; d -> /; d/f", BeneathLink),
        ("ok; ok -> /etc; ok/f", BeneathLink),
        ("l -> /etc; l/; l -> /etc; l/f", BeneathLink),
        ("d/e/; d -> /", Duplicate),
        ("d/; d; d/f", BeneathFile),
        ("ok; h = ../ok", LinkOutside),
        ("ok; h = /etc/passwd", LinkOutside),
        ("ok; h = /../ok", LinkOutside),
        ("ok; h = no", LinkMissing),
        ("h = ok", LinkMissing),
        ("h = h", LinkMissing),
        ("d/; h = d", LinkMissing),
        ("l -> /etc; h = l/passwd", LinkMissing),
        // Which the destination has.
        ("h = dir/file", LinkMissing),
    ];
    let case = |(text, reason): (&str, Refusal)| {
        let entries = entries(text);
        let last = text.split("; ").last().unwrap();
        let name = last
            .split(" -> ")
            .next()
            .unwrap()
            .split(" = ")
            .next()
            .unwrap();
        Case {
            what: text.to_owned(),
            number: entries.len() as u64,
            entries,
            name: Some(name.to_owned()),
            reason,
        }
    };
    cases.into_iter().map(case).collect()
}

/// An entry `bad` of each flag, behind a good one; and fields that say nothing.
fn fields() -> Vec<Case> {
    use Refusal::*;
    let case = |what: &str, bad: Raw, reason| Case {
        what: what.to_owned(),
        entries: vec![Raw::file("ok"), bad],
        number: 2,
        name: Some("bad".to_owned()),
        reason,
    };
    let flag = |flag, reason| case("flag", Raw::new("bad", flag), reason);
    let set = |what: &str, change: fn(&mut Header), reason| {
        case(what, Raw::file("bad").set(change), reason)
    };
    let data = |raw: Raw| case("data", raw.with(b"x"), UnexpectedData);
    vec![
        flag(b'3', Device),
        flag(b'4', Device),
        flag(b'Q', UnknownType('Q')),
        flag(b'M', UnknownType('M')),
        flag(b'2', LinkTarget),
        flag(b'1', LinkOutside),
        flag(b'S', SparseMap),
        data(Raw::directory("bad")),
        data(Raw::link("bad", b'1', "ok")),
        data(Raw::link("bad", b'2', "ok")),
        data(Raw::new("bad", b'6')),
        set("size", |h| h.as_old_mut().size = [b'z'; 12], Field("size")),
        set(
            "negative",
            |h| h.as_old_mut().size = [0xff; 12],
            Field("size"),
        ),
        set(
            "mode",
            |h| h.as_old_mut().mode = *b"rwxr-xr-",
            Field("mode"),
        ),
        set(
            "time",
            |h| h.as_old_mut().mtime = [b'9'; 12],
            Field("mtime"),
        ),
        set("nobody", |h| h.set_uid(u32::MAX.into()), Field("uid")),
        set("beyond", |h| h.set_gid(1 << 40), Field("gid")),
    ]
}

/// Extended headers, behind a good entry.
fn records() -> Vec<Case> {
    use Refusal::*;
    let behind = |what: &str, entries: Vec<Raw>, name: Option<&str>, reason| Case {
        what: what.to_owned(),
        entries: [vec![Raw::file("first")], entries].concat(),
        number: 2,
        name: name.map(str::to_owned),
        reason,
    };
    let ok = || Raw::file("ok");
    let pax = |records: &[(&str, &[u8])], name: &str, reason| {
        behind(records[0].0, ok().pax(records), Some(name), reason)
    };
    let long = |flag, name: &str| Raw::new("././@LongLink", flag).with(name.as_bytes());
    let two = || extended(b'x', &[("path", b"a")]);
    let of = |entries, reason| behind("extended", entries, Some(""), reason);
    let mut cases = vec![
        pax(&[("path", b"../x")], "../x", UpwardName),
        pax(&[("path", b"/x")], "/x", AbsoluteName),
        pax(&[("path", b"a\0/../x")], "a\\0/../x", ZeroInName),
        pax(&[("path", b"")], "", EmptyName),
        pax(&[("size", b"-1")], "", Extension("no number")),
        pax(&[("mtime", b"now")], "", Extension("no time")),
        pax(
            &[("hdrcharset", b"EBCDIC")],
            "",
            Extension("an unknown character set"),
        ),
        pax(
            &[("uid", b"4294967295")],
            "",
            Extension("no user's or group's number"),
        ),
        pax(
            &[("SCHILY.xattr.trusted.overlay.opaque", b"y")],
            "ok",
            OverlayMark,
        ),
        pax(
            &[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")],
            "ok",
            OverlayMark,
        ),
        pax(
            &[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0")],
            "ok",
            Attribute,
        ),
        pax(
            &[("SCHILY.xattr.system.posix_acl_default", b"\x02\0\0\0")],
            "ok",
            Attribute,
        ),
        // In the right form, without sense.
        pax(
            &[(
                "SCHILY.xattr.system.posix_acl_access",
                b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff",
            )],
            "ok",
            Attribute,
        ),
        pax(
            &[("SCHILY.xattr.security.capability", b"x")],
            "ok",
            Attribute,
        ),
        pax(
            &[("SCHILY.xattr.security.capability", &[0; 20])],
            "ok",
            Attribute,
        ),
        pax(&[("SCHILY.xattr.user.a\0b", b"")], "ok", Attribute),
        pax(&[("SCHILY.xattr.user.a", &[0; 65_537])], "ok", Attribute),
        of(vec![two()], Extension("no entry follows")),
        of(vec![long(b'L', "x")], Extension("no entry follows")),
        of(vec![two(), two(), ok()], Extension("two follow each other")),
        of(vec![long(b'L', "x"), two(), ok()], Extension("two names")),
        of(
            vec![long(b'L', "x"), long(b'L', "y"), ok()],
            Extension("two long names"),
        ),
        of(
            vec![Raw::new("ext", b'x').with(b"99 path=x\n"), ok()],
            Extension("a record is malformed"),
        ),
        behind(
            "up",
            vec![long(b'L', "../x\0"), ok()],
            Some("../x"),
            UpwardName,
        ),
        behind(
            "zero",
            vec![long(b'L', "a\0b\0"), ok()],
            Some("a\\0b"),
            ZeroInName,
        ),
        behind(
            "long",
            vec![long(b'L', &"x".repeat(256)), ok()],
            None,
            LongName,
        ),
        behind(
            "link",
            vec![long(b'K', "../first\0"), Raw::link("h", b'1', "first")],
            Some("h"),
            LinkOutside,
        ),
    ];
    for key in [
        "path",
        "linkpath",
        "size",
        "SCHILY.xattr.user.a",
        "GNU.sparse.map",
    ] {
        let global = vec![extended(b'g', &[(key, b"1")]), ok()];
        cases.push(of(global, Extension("it is for all entries")));
    }
    cases
}

fn sparse() -> Vec<Case> {
    use Refusal::*;
    let case = |what: &str, entries, reason| Case {
        what: what.to_owned(),
        entries,
        number: 1,
        name: Some("holes".to_owned()),
        reason,
    };
    let pax = |records: &[(&str, &[u8])], reason| {
        let file = Raw::file("holes").pax(records);
        case(records[0].0, file, reason)
    };
    let gnu = |what: &str, change: fn(&mut tar::GnuHeader), reason| {
        let mut raw = Raw::new("holes", b'S').with(b"data!");
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..257].copy_from_slice(&raw.header.as_bytes()[..257]);
        let fields = header.as_gnu_mut().unwrap();
        fields.set_real_size(100);
        fields.sparse[0].set_offset(10);
        fields.sparse[0].set_length(5);
        change(fields);
        raw.header = header;
        case(what, vec![raw], reason)
    };
    let absurd = || TooLong;
    let one = |text: &[u8]| {
        let version = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0")];
        let size = ("GNU.sparse.realsize", &b"100"[..]);
        let data = [text, &vec![0; 512 - text.len()], b"data!"].concat();
        let file = Raw::new("holes", b'0').with(&data);
        case("1.0", file.pax(&[version[0], version[1], size]), SparseMap)
    };
    vec![
        pax(
            &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"5")],
            SparseMap,
        ),
        pax(
            &[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")],
            SparseMap,
        ),
        pax(
            &[("GNU.sparse.size", b"4"), ("GNU.sparse.map", b"0,5")],
            SparseMap,
        ),
        pax(
            &[("GNU.sparse.size", b"99"), ("GNU.sparse.map", b"0,6")],
            SparseMap,
        ),
        pax(&[("GNU.sparse.map", b"0,5")], SparseMap),
        pax(
            &[
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.size", b"5"),
                ("GNU.sparse.map", b"0,5"),
            ],
            SparseMap,
        ),
        pax(
            &[
                ("GNU.sparse.size", b"9223372036854775807"),
                ("GNU.sparse.map", b"0,5"),
            ],
            absurd(),
        ),
        one(b"1\n10\n6\n"),
        one(b"2\n10\n2\n9\n3\n"),
        one(b"x\n"),
        one(b"1\n10\n"),
        one(b"18446744073709551615\n1\n"),
        gnu("absurd", |g| g.set_real_size(1 << 62), absurd()),
        gnu("short", |g| g.set_real_size(14), SparseMap),
        gnu("no offset", |g| g.sparse[0].offset = [b'x'; 12], SparseMap),
        gnu("no size", |g| g.realsize = [b'x'; 12], SparseMap),
        gnu(
            "beyond",
            |g| g.sparse[0].set_offset(u64::MAX >> 1),
            SparseMap,
        ),
        gnu(
            "overlap",
            |g| {
                g.sparse[1].set_offset(12);
                g.sparse[1].set_length(0);
            },
            SparseMap,
        ),
    ]
}
