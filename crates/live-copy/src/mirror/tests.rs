//! What happens in attempts that something or somebody ended, step by step.

use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

/// Has a mirror of `source` in `target`, below `dir`, with a feed and after the first pass.
fn mirrored(dir: &Path, test: impl FnOnce(&mut Mirror<'_>, &Path, &Path)) {
    let (source, target) = (dir.join("source"), dir.join("target"));
    fs::create_dir(&target).unwrap();
    let never = AtomicBool::new(false);
    let nobody = |_| {};
    let (from, to) = (open(&source), open(&target));
    let mut mirror = Mirror::new(from, to, Stop::new(&never), &nobody).unwrap();
    mirror.feed = Some(Feed::open(mirror.source_root().as_fd()).unwrap());
    mirror.first_pass().ok().unwrap();
    test(&mut mirror, &source, &target);
}

fn in_root(name: &CStr) -> HashSet<Name> {
    HashSet::from([(DirId::ROOT, name.into())])
}

/// A copy of many files was the more changed files that the feed would remember, and every freeze a walk.
#[test]
fn what_a_copy_writes_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("source/deep/deeper")).unwrap();
    for name in ["top", "deep/file", "deep/deeper/file"] {
        fs::write(dir.path().join("source").join(name), "content").unwrap();
    }
    mirrored(dir.path(), |mirror, source, target| {
        // The filesystem is others' too, so that only these are looked for.
        let is_reported = |folder: &Path, name: &str| {
            let folder = open(folder);
            let name = std::ffi::CString::new(name).unwrap();
            let handle = crate::sys::handle_at(folder.as_fd(), &name).unwrap();
            let feed = mirror.feed.as_ref().unwrap();
            feed.peek(|changes| changes.files.contains_key(&handle))
        };
        let here = dir.path();
        fs::hard_link(source.join("top"), here.join("link")).unwrap();
        fs::write(here.join("link"), "changed").unwrap();
        // Others' files are reported, wherever they are: they may be links to the source's. This one comes
        // after all of the copy's.
        for _ in 0..1000 {
            if is_reported(here, "link") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(is_reported(here, "link"));
        assert!(!is_reported(target, "top"));
        assert!(!is_reported(target, "deep"));
        assert!(!is_reported(&target.join("deep/deeper"), "file"));
        assert_eq!(fs::read(target.join("deep/file")).unwrap(), b"content");
    });
}

/// The feed contradicts the source in the middle of a freeze, and the walk takes over.
#[test]
fn what_waits_to_be_made_is_made_when_the_walk_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("source")).unwrap();
    mirrored(dir.path(), |mirror, source, target| {
        mirror.is_frozen = true;
        fs::write(source.join("new"), "content").unwrap();
        mirror.do_names(in_root(c"new"), false).ok().unwrap();
        assert!(!target.join("new").exists(), "it has to wait here");
        mirror.walk_round().ok().unwrap();
        assert_eq!(fs::read(target.join("new")).unwrap(), b"content");
    });
}

/// A directory was changed while the feed did not look, and moves while the walk does, so that the walk
/// finds it nowhere; then the feed reports the move, as it does any.
#[test]
fn what_a_walk_passed_over_is_listed_when_it_turns_up() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("source/old/deep")).unwrap();
    mirrored(dir.path(), |mirror, source, target| {
        fs::write(source.join("old/first"), "1").unwrap();
        fs::write(source.join("old/deep/second"), "2").unwrap();
        let nowhere = dir.path().join("nowhere");
        fs::rename(source.join("old"), &nowhere).unwrap();
        mirror.walk_round().ok().unwrap();
        fs::rename(&nowhere, source.join("moved")).unwrap();
        mirror.is_frozen = true;
        mirror.do_names(in_root(c"moved"), false).ok().unwrap();
        mirror.copy_waiting().ok().unwrap();
        assert_eq!(fs::read(target.join("moved/first")).unwrap(), b"1");
        assert_eq!(fs::read(target.join("moved/deep/second")).unwrap(), b"2");
    });
}

/// Somebody let the processes go on in the middle of a freeze, and they moved a directory: nobody reports
/// it, as the feed is paused, and what was to be listed in it is not there.
#[test]
fn a_freeze_that_was_none_comes_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("source/upper/lower")).unwrap();
    mirrored(dir.path(), |mirror, source, _| {
        let Some(Node::Dir(upper)) = mirror.model.child(DirId::ROOT, c"upper") else {
            panic!("the directory was not copied");
        };
        let Some(Node::Dir(lower)) = mirror.model.child(upper, c"lower") else {
            panic!("the directory was not copied");
        };
        mirror.unlisted.insert(lower);
        mirror.is_frozen = true;
        let end = Instant::now() + Duration::from_secs(5);
        mirror.stop = mirror.stop.until(end);
        fs::rename(source.join("upper"), dir.path().join("elsewhere")).unwrap();
        // What was opened before leads to it still.
        let root = mirror.source_root().try_clone().unwrap();
        mirror.copier.source = crate::dirs::Dirs::source(root.as_fd()).unwrap();
        let names = HashSet::from([(upper, c"lower".into())]);
        let halt = mirror.do_names(names, false).err().unwrap();
        assert!(matches!(halt, Halt::Feed(Reason::Inconsistent)));
    });
}

/// A file gets a second name between the look at it and its copy.
#[test]
fn a_file_that_waits_keeps_both_its_names() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("source")).unwrap();
    mirrored(dir.path(), |mirror, source, target| {
        fs::write(source.join("one"), "content").unwrap();
        mirror.do_names(in_root(c"one"), false).ok().unwrap();
        fs::hard_link(source.join("one"), source.join("other")).unwrap();
        mirror.do_names(in_root(c"other"), false).ok().unwrap();
        mirror.copy_waiting().ok().unwrap();
        mirror.is_frozen = true;
        let again = std::mem::take(&mut mirror.again);
        mirror.do_names(again, false).ok().unwrap();
        mirror.copy_waiting().ok().unwrap();
        let ino = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
        assert_eq!(ino("one"), ino("other"));
    });
}

/// What all copies remember counts together, but a large one does not fail the small ones beside it.
#[test]
fn a_small_copy_has_room_beside_a_large_one() {
    /// Less than what the large one takes.
    const LIMIT: u64 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let files = |name: &str, count: u32| {
        let source = dir.path().join(name);
        fs::create_dir(&source).unwrap();
        for number in 0..count {
            fs::write(source.join(number.to_string()), "x").unwrap();
        }
    };
    let never = AtomicBool::new(false);
    let nobody = |_| {};
    let fits = |name: &str| {
        let target = dir.path().join(format!("{name} copy"));
        fs::create_dir(&target).unwrap();
        let (from, to) = (open(&dir.path().join(name)), open(&target));
        let mut mirror = Mirror::new(from, to, Stop::new(&never), &nobody).unwrap();
        mirror.memory_limit = LIMIT;
        mirror.first_pass().is_ok()
    };
    files("source", 2000);
    files("small", 5);
    files("middle", 100);
    mirrored(dir.path(), |mirror, _, _| {
        assert!(mirror.model.cost() > LIMIT);
        assert!(fits("small"));
        assert!(!fits("middle"), "it is more than the reserve");
    });
}
