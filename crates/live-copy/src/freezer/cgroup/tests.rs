//! Folders with the files of control groups, as recorded. The kernel's own are in `tests/freezer.rs`.

use super::*;

/// Ends at once and says that it is armed: never asked to do more in these tests.
fn guard(dir: &Path, script: &str) -> Guard {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("guard");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    Guard::new(path)
}

/// Like the agent's, of one byte.
const HONEST: &str = "echo armed; [ -n \"$(head -c 1)\" ]";
const SOON: Duration = Duration::from_millis(30);

fn one(state: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("freezer.state"), state).unwrap();
    fs::write(dir.path().join("cgroup.procs"), "7\n5\n7\n").unwrap();
    dir
}

fn two(freeze: &str, events: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cgroup.freeze"), freeze).unwrap();
    fs::write(dir.path().join("cgroup.events"), events).unwrap();
    fs::write(dir.path().join("cgroup.procs"), "").unwrap();
    dir
}

fn content(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn version_1_is_frozen_and_thawed_by_one_file() {
    let dir = one("THAWED\n");
    let freezer = CgroupFreezer::new(dir.path(), guard(dir.path(), HONEST)).unwrap();
    let frozen = freezer.freeze(SOON).unwrap();
    assert!(content(dir.path(), "freezer.state").starts_with("FROZEN"));
    assert_eq!(frozen.processes().unwrap(), [5, 7]);
    assert!(frozen.since().is_some());
    assert!(matches!(frozen.thaw().unwrap(), Thaw::InTime { .. }));
    assert!(content(dir.path(), "freezer.state").starts_with("THAWED"));
}

#[test]
fn dropping_it_thaws() {
    let dir = one("THAWED\n");
    let freezer = CgroupFreezer::new(dir.path(), guard(dir.path(), HONEST)).unwrap();
    drop(freezer.freeze(SOON).unwrap());
    assert!(content(dir.path(), "freezer.state").starts_with("THAWED"));
}

#[test]
fn version_2_waits_for_the_event_and_thaws_when_it_does_not_come() {
    let dir = two("0\n", "populated 1\nfrozen 0\n");
    let freezer = CgroupFreezer::new(dir.path(), guard(dir.path(), HONEST)).unwrap();
    let Err(FreezeError::Slow { waited }) = freezer.freeze(SOON) else {
        panic!("it was not frozen");
    };
    assert!(waited >= SOON);
    assert!(content(dir.path(), "cgroup.freeze").starts_with('0'));
    // Another process of the kernel's says so in the end.
    let path = dir.path().to_owned();
    let kernel = thread::spawn(move || {
        while !content(&path, "cgroup.freeze").starts_with('1') {
            thread::sleep(LOOK_AGAIN);
        }
        fs::write(path.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
    });
    let frozen = freezer.freeze(Duration::from_secs(10)).unwrap();
    kernel.join().unwrap();
    assert!(matches!(frozen.thaw().unwrap(), Thaw::InTime { .. }));
    assert!(content(dir.path(), "cgroup.freeze").starts_with('0'));
}

#[test]
fn what_someone_paused_stays_paused_and_needs_no_guard() {
    for dir in [
        one("FROZEN\n"),
        two("1\n", "populated 1\nfrozen 1\n"),
        two("0\n", "frozen 1\n"),
    ] {
        let freezer = CgroupFreezer::new(dir.path(), Guard::new("/no/such/program")).unwrap();
        let frozen = freezer.freeze(SOON).unwrap();
        assert_eq!(frozen.since(), None);
        let name = freezer.group.version.written();
        let before = content(dir.path(), name);
        let frozen_time = Duration::ZERO;
        assert_eq!(
            frozen.thaw().unwrap(),
            Thaw::InTime {
                frozen: frozen_time
            }
        );
        assert_eq!(content(dir.path(), name), before);
    }
}

#[test]
fn a_thaw_by_someone_else_is_noticed() {
    let dir = one("THAWED\n");
    let freezer = CgroupFreezer::new(dir.path(), guard(dir.path(), HONEST)).unwrap();
    let frozen = freezer.freeze(SOON).unwrap();
    fs::write(dir.path().join("freezer.state"), "THAWED").unwrap();
    assert_eq!(frozen.thaw().unwrap(), Thaw::Interfered);
}

#[test]
fn without_a_guard_nobody_is_frozen() {
    for script in ["exit 1", "echo something else; sleep 9", ""] {
        let dir = one("THAWED\n");
        let freezer = CgroupFreezer::new(dir.path(), guard(dir.path(), script)).unwrap();
        let frozen = freezer.freeze(SOON);
        assert!(
            matches!(frozen, Err(FreezeError::Failed(Error::Guard { .. }))),
            "{script:?}"
        );
        assert_eq!(content(dir.path(), "freezer.state"), "THAWED\n");
    }
}

#[test]
fn a_guard_that_fired_or_died_makes_it_too_late() {
    for script in [
        "echo armed; head -c 1 >/dev/null; exit 3",
        "echo armed; kill -9 $$",
    ] {
        let dir = one("THAWED\n");
        let freezer = CgroupFreezer::new(dir.path(), guard(dir.path(), script)).unwrap();
        let frozen = freezer.freeze(SOON).unwrap();
        assert_eq!(frozen.thaw().unwrap(), Thaw::TooLate, "{script:?}");
    }
    // By the clock alone, whatever the guard says.
    let dir = one("THAWED\n");
    let guard = guard(dir.path(), HONEST).with_limit(SOON);
    let freezer = CgroupFreezer::new(dir.path(), guard).unwrap();
    let frozen = freezer.freeze(SOON).unwrap();
    thread::sleep(SOON);
    assert_eq!(frozen.thaw().unwrap(), Thaw::TooLate);
}

#[test]
fn processes_of_the_groups_below_count_too() {
    let dir = one("THAWED\n");
    let below = dir.path().join("a/b");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("cgroup.procs"), "9\n5\n").unwrap();
    fs::write(dir.path().join("a/cgroup.procs"), "").unwrap();
    let freezer = CgroupFreezer::new(dir.path(), Guard::new("/")).unwrap();
    assert_eq!(freezer.processes().unwrap(), [5, 7, 9]);
}

#[test]
fn a_folder_without_a_freezer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let made = CgroupFreezer::new(dir.path(), Guard::new("/"));
    assert!(matches!(made, Err(Error::Group { .. })));
}
