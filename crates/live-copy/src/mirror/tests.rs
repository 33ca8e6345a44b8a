use super::*;
use std::fs;
use std::sync::atomic::AtomicBool;

fn open(path: &std::path::Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

/// The feed contradicts the source in the middle of a freeze, and the walk takes over.
#[test]
fn what_waits_to_be_made_is_made_when_the_walk_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    let never = AtomicBool::new(false);
    let nobody = |_| {};
    let (from, to) = (open(&source), open(&target));
    let mut mirror = Mirror::new(from, to, Stop::new(&never), &nobody).unwrap();
    mirror.first_pass().ok().unwrap();
    mirror.is_frozen = true;
    fs::write(source.join("new"), "content").unwrap();
    let names = HashSet::from([(DirId::ROOT, c"new".into())]);
    mirror.do_names(names, false).ok().unwrap();
    assert!(!target.join("new").exists(), "it has to wait here");
    mirror.walk_round().ok().unwrap();
    assert_eq!(fs::read(target.join("new")).unwrap(), b"content");
}
