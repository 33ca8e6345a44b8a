//! What a sequence consists of, and how one is drawn from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How many bots a sequence has at a time.
pub const BOTS: usize = 3;
/// The paths that are written to: two in `/data`, one elsewhere.
pub const PATHS: [&str; 3] = ["data/a", "data/deep/b", "root/c"];

/// One step. Numbers choose among what there is when the step is performed, so that a sequence from which
/// steps were taken out is still one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create {
        bot: usize,
        restore: bool,
    },
    Start {
        bot: usize,
    },
    Stop {
        bot: usize,
    },
    Write {
        bot: usize,
        path: usize,
    },
    /// Removes a file from the present state.
    Remove {
        bot: usize,
        path: usize,
    },
    /// Moves `/data` elsewhere and leaves a symbolic link.
    Link {
        bot: usize,
    },
    Live {
        bot: usize,
    },
    Snapshot {
        bot: usize,
    },
    Rollback {
        bot: usize,
        version: usize,
    },
    Fork {
        bot: usize,
        from: usize,
        version: Option<usize>,
    },
    Export {
        bot: usize,
    },
    Import {
        bot: usize,
        archive: usize,
        replace: bool,
    },
    RestorePath {
        bot: usize,
        version: usize,
        path: usize,
    },
    ChangeImage {
        bot: usize,
    },
    Delete {
        bot: usize,
        preserve: bool,
        versions: bool,
    },
    Restore {
        bot: usize,
        archive: Option<usize>,
    },
    Discard {
        bot: usize,
        archive: usize,
    },
    DeleteVersion {
        bot: usize,
        version: usize,
    },
    Pin {
        bot: usize,
        version: usize,
        pinned: bool,
    },
    DeleteBot {
        bot: usize,
        preserve: bool,
    },
    /// A copy of the database is made.
    Backup,
    /// The server ends, the last copy is put back, the server starts.
    Older,
    /// The server ends and starts.
    Restart,
    /// So does the host: no task is left.
    Reboot,
    /// The container is removed behind the server's back.
    LoseContainer {
        bot: usize,
        restart: bool,
    },
    /// So is the writable snapshot of the workspace.
    LoseActive {
        bot: usize,
        restart: bool,
    },
    /// So is the snapshot of a version.
    LoseVersion {
        bot: usize,
        version: usize,
        restart: bool,
    },
    /// While the server is down, the row of the workspace is removed.
    LoseRow {
        bot: usize,
    },
    /// So is the row of a version.
    LoseVersionRow {
        bot: usize,
        version: usize,
    },
    /// So is the bot, with everything that refers to it.
    LoseBot {
        bot: usize,
    },
    /// In the middle of it the server is killed: at that call to the runtime or the database.
    Killed {
        at: usize,
        step: Box<Step>,
    },
    /// In the middle of it the runtime stops answering; afterwards it answers again.
    Away {
        at: usize,
        step: Box<Step>,
    },
    /// As before, and the server is started again before the runtime answers.
    AwayAndRestart {
        at: usize,
        step: Box<Step>,
    },
    /// One call to the runtime fails, or its answer is lost.
    Fails {
        call: usize,
        full: bool,
        lost: bool,
        step: Box<Step>,
    },
    /// Two at the same time.
    Both {
        first: Box<Step>,
        second: Box<Step>,
    },
}

impl Step {
    /// Whether a pin is taken away in it.
    pub fn unpins(&self) -> bool {
        match self {
            Self::Pin { pinned, .. } => !pinned,
            Self::Both { first, second } => first.unpins() || second.unpins(),
            Self::Killed { step, .. }
            | Self::Away { step, .. }
            | Self::AwayAndRestart { step, .. }
            | Self::Fails { step, .. } => step.unpins(),
            _ => false,
        }
    }

    /// Whether the server starts again in it, whatever else comes of it.
    pub fn restarts(&self) -> bool {
        matches!(
            self,
            Self::Killed { .. }
                | Self::Away { .. }
                | Self::AwayAndRestart { .. }
                | Self::LoseContainer { restart: true, .. }
        )
    }
}

/// What a ground can do: steps that it cannot are not drawn for it.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// Faults can be injected at single calls to the runtime.
    pub faults: bool,
    pub longest: usize,
}

/// The steps of a seed.
pub fn draw(seed: u64, abilities: Abilities) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let length = rng.random_range(3..=abilities.longest);
    let mut steps = vec![
        Step::Create {
            bot: 0,
            restore: true,
        },
        Step::Write { bot: 0, path: 0 },
    ];
    steps.extend((0..length).map(|_| any(&mut rng, abilities)));
    steps
}

fn any(rng: &mut StdRng, abilities: Abilities) -> Step {
    match rng.random_range(0..100) {
        0..=62 => call(rng),
        63..=66 => Step::Backup,
        67..=70 => Step::Older,
        71..=72 => Step::Restart,
        73 => Step::Reboot,
        74..=84 => behind(rng),
        85..=88 => {
            let (first, second) = (Box::new(call(rng)), Box::new(call(rng)));
            Step::Both { first, second }
        }
        _ if !abilities.faults => Step::Killed {
            at: rng.random_range(0..12),
            step: Box::new(call(rng)),
        },
        kind => {
            let at = rng.random_range(0..30);
            let step = Box::new(call(rng));
            match kind {
                89..=93 => Step::Killed { at, step },
                94..=95 => Step::Away { at, step },
                96..=97 => Step::AwayAndRestart { at, step },
                _ => Step::Fails {
                    call: rng.random_range(0..usize::MAX),
                    full: rng.random(),
                    lost: rng.random(),
                    step,
                },
            }
        }
    }
}

fn bot(rng: &mut StdRng) -> usize {
    // Mostly the same one: more happens to it then.
    [0, 0, 0, 1, 1, 2][rng.random_range(0..6)]
}

fn choice(rng: &mut StdRng) -> usize {
    rng.random_range(0..64)
}

/// What a user does.
fn call(rng: &mut StdRng) -> Step {
    let bot = bot(rng);
    match rng.random_range(0..100) {
        0..=8 => Step::Create {
            bot,
            restore: rng.random_range(0..4) > 0,
        },
        9..=12 => Step::Start { bot },
        13..=17 => Step::Stop { bot },
        18..=37 => Step::Write {
            bot,
            path: rng.random_range(0..PATHS.len()),
        },
        38..=40 => Step::Remove {
            bot,
            path: rng.random_range(0..PATHS.len()),
        },
        41 => Step::Link { bot },
        42..=47 => Step::Live { bot },
        48..=53 => Step::Snapshot { bot },
        54..=61 => Step::Rollback {
            bot,
            version: choice(rng),
        },
        62..=65 => Step::Fork {
            bot,
            from: (bot + rng.random_range(1..BOTS)) % BOTS,
            version: rng.random::<bool>().then(|| choice(rng)),
        },
        66..=68 => Step::Export { bot },
        69..=72 => Step::Import {
            bot,
            archive: choice(rng),
            replace: rng.random(),
        },
        73..=75 => Step::RestorePath {
            bot,
            version: choice(rng),
            path: rng.random_range(0..PATHS.len()),
        },
        76..=78 => Step::ChangeImage { bot },
        79..=85 => Step::Delete {
            bot,
            preserve: rng.random_range(0..3) > 0,
            versions: rng.random_range(0..5) == 0,
        },
        86..=89 => Step::Restore {
            bot,
            archive: rng.random::<bool>().then(|| choice(rng)),
        },
        90 => Step::Discard {
            bot,
            archive: choice(rng),
        },
        91..=94 => Step::DeleteVersion {
            bot,
            version: choice(rng),
        },
        95..=97 => Step::Pin {
            bot,
            version: choice(rng),
            pinned: rng.random(),
        },
        _ => Step::DeleteBot {
            bot,
            preserve: rng.random_range(0..3) > 0,
        },
    }
}

/// What happens behind the server's back.
fn behind(rng: &mut StdRng) -> Step {
    let (bot, restart) = (bot(rng), rng.random());
    match rng.random_range(0..7) {
        0 => Step::LoseContainer { bot, restart },
        1 => Step::LoseActive { bot, restart },
        2 => Step::LoseVersion {
            bot,
            version: choice(rng),
            restart,
        },
        3..=4 => Step::LoseRow { bot },
        5 => Step::LoseVersionRow {
            bot,
            version: choice(rng),
        },
        _ => Step::LoseBot { bot },
    }
}
