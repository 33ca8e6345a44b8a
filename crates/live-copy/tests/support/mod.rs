//! Real overlay mounts, control groups and processes for the tests, all of which end with their values.

// Each test program uses a part of this, and `pub` is the one way to share it.
#![allow(dead_code, unreachable_pub)]
// Clippy knows tests by their attribute only.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod changed;
pub mod disk;
pub mod group;
pub mod mutate;
pub mod picture;

use botstead_live_copy::{
    CgroupFreezer, ChangeFeed, Error, Frozen, Guard, Observer, Options, Progress, Reason, Report,
    SecondPass, capture,
};
use disk::Disk;
use group::Group;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use picture::Picture;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What a child process of a test does, and on what: see [`child`].
const ROLE: &str = "LIVE_COPY_TEST_ROLE";
const GROUP: &str = "LIVE_COPY_TEST_GROUP";
const SEED: &str = "LIVE_COPY_TEST_SEED";
/// Of a child that copies: what to copy into.
const TARGET: &str = "LIVE_COPY_TEST_TARGET";

/// How long a freeze may take in the tests, with the comparison's reading.
pub const FREEZE_LIMIT: Duration = Duration::from_secs(5);

pub const FEED: SecondPass = SecondPass::Feed;
pub const WALK: SecondPass = SecondPass::Walk {
    reason: Reason::Asked,
};

/// As the server has it: before Linux 6.5 the feed misses changes.
pub fn fastest_pass() -> SecondPass {
    match ChangeFeed::probe(&std::env::temp_dir()) {
        Err(reason @ Reason::OldKernel(_)) => SecondPass::Walk { reason },
        _ => FEED,
    }
}

/// The static agent, which guards.
pub fn agent() -> PathBuf {
    std::env::var_os("BOTSTEAD_TEST_AGENT")
        .map(PathBuf::from)
        .expect("BOTSTEAD_TEST_AGENT names the agent: run `cargo xtask test -- live_copy`")
}

/// Mounts made by this thread from now on are seen by it and its children only, and end with them.
pub fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

/// An overlay mount whose upper directory is copied, and processes in a control group that write to it.
pub struct Workspace {
    pub disk: Disk,
    pub lower: PathBuf,
    pub upper: PathBuf,
    pub merged: PathBuf,
    pub group: Group,
    children: Vec<Child>,
    targets: usize,
    /// What the last check compared with.
    pub last: Option<Picture>,
}

impl Workspace {
    /// Needs root, and [`private_mounts`] before. `fill` makes the lower layer.
    pub fn new(disk: Disk, group: Group, fill: impl FnOnce(&Path)) -> Self {
        let folder = |name: &str| {
            let path = disk.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (lower, upper) = (folder("lower"), folder("upper"));
        let (work, merged) = (folder("work"), folder("merged"));
        fill(&lower);
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let none = MsFlags::empty();
        mount(
            Some("overlay"),
            &merged,
            Some("overlay"),
            none,
            Some(options.as_str()),
        )
        .unwrap();
        Self {
            disk,
            lower,
            upper,
            merged,
            group,
            children: Vec::new(),
            targets: 0,
            last: None,
        }
    }

    /// On ext4, with the freezer that this host has.
    pub fn plain(fill: impl FnOnce(&Path)) -> Self {
        private_mounts();
        let disk = Disk::image("ext4", 512).expect("this kernel has no ext4");
        Self::new(disk, Group::new(), fill)
    }

    /// Its guard leaves time for the comparison's reading, on a busy machine too.
    pub fn freezer(&self) -> CgroupFreezer {
        let guard = Guard::new(agent()).with_limit(4 * FREEZE_LIMIT);
        CgroupFreezer::new(self.group.path(), guard).unwrap()
    }

    /// Starts a child of this test program in the group, in one of its roles: see [`child`].
    pub fn start(&mut self, role: &str, seed: u64) -> &mut Child {
        self.spawn(role, seed, &[])
    }

    /// Starts a child that copies the workspace to `target`, outside of the group: see [`copy_here`].
    /// Returns when it is ready.
    pub fn start_copier(&mut self, role: &str, target: &Path) -> &mut Child {
        let name = target.file_name().unwrap().to_owned();
        let child = self.spawn(role, 0, &[(TARGET, &name)]);
        wait_until_ready(child);
        child
    }

    fn spawn(&mut self, role: &str, seed: u64, more: &[(&str, &OsStr)]) -> &mut Child {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(GROUP, self.group.path())
            .env(SEED, seed.to_string())
            .envs(more.iter().copied())
            .current_dir(&self.merged)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    /// Starts a child that says when it is ready.
    pub fn start_ready(&mut self, role: &str) -> &mut Child {
        let child = self.start(role, 0);
        wait_until_ready(child);
        child
    }

    /// Has the first child, which waits for a line, go on, and waits until it says that it is ready.
    pub fn tell_first(&mut self) {
        use std::io::Write;
        let child = &mut self.children[0];
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        wait_until_ready(child);
    }

    /// Whether the first child writes anything within a time.
    pub fn first_has_output(&mut self, within: Duration) -> bool {
        let output = self.children[0].stdout.as_ref().unwrap();
        let mut wanted = [rustix::event::PollFd::new(
            output,
            rustix::event::PollFlags::IN,
        )];
        let within = rustix::event::Timespec::try_from(within).unwrap();
        rustix::event::poll(&mut wanted, Some(&within)).unwrap() > 0
    }

    /// Kills the child that was started last, and waits until it is gone.
    pub fn kill_last(&mut self) {
        let mut child = self.children.pop().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the child that was started last says once more that it is ready.
    pub fn wait_for_last(&mut self) {
        wait_until_ready(self.children.last_mut().unwrap());
    }

    /// Whether all children still run.
    pub fn assert_running(&mut self) {
        for child in &mut self.children {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "a child ended: {ended:?}");
        }
    }

    pub fn stop_children(&mut self) {
        for child in &mut self.children {
            // Fails only when it has ended already.
            let _ = child.kill();
            child.wait().unwrap();
        }
        self.children.clear();
    }

    /// A new empty folder beside the upper directory.
    pub fn target(&mut self) -> PathBuf {
        self.targets += 1;
        let path = self.disk.path().join(format!("target{}", self.targets));
        fs::create_dir(&path).unwrap();
        path
    }

    /// Copies, and compares the copy with the source as it was while everybody stood still.
    pub fn check(&mut self, options: &Options) -> Result<Report, Error> {
        let freezer = self.freezer();
        self.check_with(&freezer, options)
    }

    /// The same with a freezer of the test's own.
    pub fn check_with(
        &mut self,
        freezer: &CgroupFreezer,
        options: &Options,
    ) -> Result<Report, Error> {
        let target = self.target();
        let mut witness = Witness::new(&self.upper);
        let never = AtomicBool::new(false);
        let report = capture(&self.upper, &target, freezer, options, &mut witness, &never);
        if report.is_err() {
            remove(&target);
        }
        let report = report?;
        let expected = witness
            .picture
            .expect("the hook was called while nobody changed anything");
        let copy = Picture::of(&target);
        if copy != expected {
            eprintln!("{report:?}");
        }
        copy.assert_same(&expected);
        remove(&target);
        self.last = Some(expected);
        Ok(report)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.stop_children();
        // What is still used goes with the thread's mounts.
        let _ = umount2(&self.merged, MntFlags::MNT_DETACH);
    }
}

/// Removes a tree, deeper than the standard library can.
pub fn remove(path: &Path) {
    let status = Command::new("rm").arg("-rf").arg(path).status().unwrap();
    assert!(status.success());
}

/// Takes a picture of the source while everybody stands still.
pub struct Witness {
    upper: PathBuf,
    pub picture: Option<Picture>,
    pub progress: Vec<Progress>,
}

impl Witness {
    pub fn new(upper: &Path) -> Self {
        Self {
            upper: upper.to_owned(),
            picture: None,
            progress: Vec::new(),
        }
    }
}

impl Observer for Witness {
    fn progress(&mut self, progress: Progress) {
        if self
            .progress
            .last()
            .is_none_or(|last| last.phase != progress.phase)
        {
            self.progress.push(progress);
        }
    }

    fn before_thaw(
        &mut self,
        _: &dyn Frozen,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // If it fails, someone thawed them, and the copy is thrown away.
        self.picture = Picture::attempt(&self.upper).ok();
        Ok(())
    }
}

const READY: &str = "ready";

/// Waits for a line of a child, and reads no further.
fn wait_until_ready(child: &mut Child) {
    use std::io::Read;
    let output = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    while !line.ends_with(READY.as_bytes()) {
        let mut byte = [0];
        output.read_exact(&mut byte).expect("the child ended early");
        line.push(byte[0]);
    }
    // The end of the line.
    output.read_exact(&mut [0]).unwrap();
}

/// Tells the test that the child has begun.
pub fn ready() {
    use std::io::Write;
    println!("{READY}");
    std::io::stdout().flush().unwrap();
}

/// Plays a role, from a seed.
pub type Role = fn(u64);

/// What runs in the children: joins the group, then plays the role in the mounted tree. Every test
/// program that starts children has an ignored test named `child` that calls it.
pub fn child(roles: &[(&str, Role)]) {
    let role = std::env::var(ROLE).expect("only started by the other tests");
    // Not longer than the test that started it.
    let end = nix::sys::signal::Signal::SIGKILL;
    nix::sys::prctl::set_pdeathsig(end).unwrap();
    let group = PathBuf::from(std::env::var_os(GROUP).unwrap());
    if std::env::var_os(TARGET).is_none() {
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let (_, play) = roles.iter().find(|(name, _)| *name == role).unwrap();
    play(seed);
}

/// In a child of [`Workspace::start_copier`]: copies the workspace around the present folder.
pub fn copy_here(options: &Options, observer: &mut dyn Observer) -> Result<Report, Error> {
    let group = std::env::var_os(GROUP).unwrap();
    let freezer = CgroupFreezer::new(group, Guard::new(agent())).unwrap();
    let target = Path::new("..").join(std::env::var_os(TARGET).unwrap());
    let never = AtomicBool::new(false);
    capture(
        Path::new("../upper"),
        &target,
        &freezer,
        options,
        observer,
        &never,
    )
}
