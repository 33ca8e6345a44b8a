//! The model alone.

use super::*;

fn seen(size: u64) -> Seen {
    Seen {
        ctime: 0,
        mtime: 0,
        size,
        kind: FileType::RegularFile,
        is_racy: false,
        is_torn: false,
    }
}

fn places(model: &Model, ino: u64) -> Vec<String> {
    let Some(file) = model.file(ino) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = file
        .places()
        .map(|place| model.path(place.dir, &place.name))
        .collect();
    paths.sort();
    paths
}

#[test]
fn a_file_lives_until_its_last_name_goes() {
    let mut model = Model::new(2, None);
    let dir = model.add_dir(DirId::ROOT, c"d", 3, None);
    model.link(7, DirId::ROOT, c"a", || seen(1));
    model.link(7, dir, c"b", || panic!("it is known"));
    model.link(7, dir, c"c", || panic!("it is known"));
    assert_eq!(places(&model, 7), ["a", "d/b", "d/c"]);
    model.unlink(DirId::ROOT, c"a");
    assert_eq!(places(&model, 7), ["d/b", "d/c"]);
    model.unlink(dir, c"c");
    assert_eq!(places(&model, 7), ["d/b"]);
    assert_eq!(model.child(dir, c"b"), Some(Node::File(7)));
    model.unlink(dir, c"b");
    assert!(model.file(7).is_none());
    assert_eq!(model.child(dir, c"b"), None);
    model.unlink(dir, c"b");
}

#[test]
fn a_directory_keeps_what_it_holds_when_it_moves() {
    let mut model = Model::new(2, None);
    let a = model.add_dir(DirId::ROOT, c"a", 3, None);
    let b = model.add_dir(a, c"b", 4, None);
    model.link(7, b, c"f", || seen(1));
    assert!(model.is_within(b, a) && model.is_attached(b));
    model.move_dir(b, DirId::LIMBO, c"x");
    assert!(!model.is_attached(b) && !model.is_within(b, a));
    assert_eq!(model.child(a, c"b"), None);
    model.move_dir(b, DirId::ROOT, c"b");
    assert!(model.is_attached(b));
    assert_eq!(places(&model, 7), ["b/f"]);
    assert_eq!(model.dir_by_ino(4), Some(b));
}

#[test]
fn a_path_for_messages_stays_short() {
    let mut model = Model::new(2, None);
    let mut dir = DirId::ROOT;
    for ino in 10..30 {
        dir = model.add_dir(dir, c"d", ino, None);
    }
    assert_eq!(model.path(dir, c"f"), ".../d/d/d/d/d/d/d/d/f");
    assert_eq!(model.path(DirId::ROOT, c""), "the root");
}

#[test]
fn a_look_in_the_tick_of_a_change_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("f")).unwrap();
    let stat = botstead_overlay::tree::stat_fd(&file).unwrap();
    let ctime = nanoseconds(&stat.stx_ctime);
    let racy = RACY.as_nanos() as i64;
    // In the same tick, in the ones after it, and when the clock was set back meanwhile.
    for now in [ctime, ctime + racy, ctime - 1_000_000_000] {
        let seen = Seen::new(&stat, now);
        assert!(!seen.still(&stat, Trust::Looks), "{now}");
        assert!(seen.still(&stat, Trust::Events), "{now}");
    }
    let seen = Seen::new(&stat, ctime + racy + 1);
    assert!(seen.still(&stat, Trust::Looks));
    let longer = std::fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("f"))
        .unwrap();
    longer.set_len(1).unwrap();
    let stat = botstead_overlay::tree::stat_fd(&file).unwrap();
    assert!(!seen.still(&stat, Trust::Events));
}
