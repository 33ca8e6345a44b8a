//! The driver's own rules, in two tables that say the same: an ordinary one, which stays while no server
//! runs, and the guard, which others cannot flush while one does. Packets pass both. Blocking.
//!
//! `nft flush ruleset`, which a restart of Debian's nftables.service begins with, takes the first away:
//! without the guard it opens the host to workspaces until the rules are back.
//!
//! Not every host has a guard: the kernel must know tables with an owner (Linux 5.12), and `nft` must be
//! able to show them. That of Debian 12 (1.0.6) reads wild memory for such a table's flags when it lists
//! as JSON, and shows nonsense or nothing at all, to every program on the host that asks.

use crate::command::{self, Failure};
use crate::config::BridgeConfig;
use crate::rules;
use botstead_runtime::NetworkInfo;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Whether the guard is there is asked so often while it is being made.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A guard that is not there by then is given up. A server that ended just now may still hold one of
/// the same name.
const PATIENCE: Duration = Duration::from_secs(3);

/// After a failure that can pass, the guard is tried again at the first repair after this, as one that
/// is not made costs up to [`PATIENCE`].
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The state of both tables, as far as this process knows it.
#[derive(Debug, Default)]
pub(crate) struct OwnTables {
    /// How `nft` shows the table when it is whole.
    whole: Option<Value>,
    guard: Option<Guard>,
    unguarded: Unguarded,
}

/// Why there is no guard.
#[derive(Debug, Default)]
enum Unguarded {
    /// It was not tried, or is held.
    #[default]
    No,
    /// It failed at that time, and can be made another time.
    Since(Instant),
    /// This `nft` or this kernel cannot have it.
    ForGood,
}

impl OwnTables {
    /// Makes or mends both. When the first is known to be `gone`, no time is lost by a look.
    pub(crate) fn ensure(
        &mut self,
        config: &BridgeConfig,
        info: &NetworkInfo,
        gone: bool,
    ) -> Result<(), Failure> {
        let now = if gone { None } else { listing(config)? };
        if now.is_none() || now != self.whole {
            if self.whole.is_some() {
                tracing::warn!(
                    table = config.table_name,
                    "somebody changed or removed the firewall table; putting it back"
                );
            }
            command::run("nft", &["-f", "-"], Some(&rules::table(config, info)))?;
            // Not what is loaded now: somebody may have changed that already.
            self.whole = Some(whole(config, info)?);
        }
        self.ensure_guard(config, info);
        Ok(())
    }

    /// Best effort: without it the table is put back as fast as its loss is noticed.
    fn ensure_guard(&mut self, config: &BridgeConfig, info: &NetworkInfo) {
        if self.guard.as_mut().is_some_and(Guard::is_held) {
            return;
        }
        self.guard = None;
        if !self.unguarded.is_due(Instant::now()) {
            return;
        }
        match Guard::hold(config, &rules::guard(config, info)) {
            Ok(guard) => {
                self.guard = Some(guard);
                self.unguarded.held();
            }
            Err(failure) => self.unguarded.failed(&failure, Instant::now()),
        }
    }

    /// Removes both.
    pub(crate) fn remove(&mut self, config: &BridgeConfig) -> Result<(), Failure> {
        self.guard = None;
        self.whole = None;
        match command::run("nft", &["-f", "-"], Some(&rules::removal(config))) {
            // Without the command there is no table of ours.
            Ok(_) | Err(Failure::Missing(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

impl Unguarded {
    fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::No => true,
            Self::Since(failed) => now.saturating_duration_since(*failed) >= AGAIN_AFTER,
            Self::ForGood => false,
        }
    }

    fn held(&mut self) {
        if matches!(self, Self::Since(_)) {
            tracing::info!("the firewall table that others cannot flush is there again");
        }
        *self = Self::No;
    }

    /// Told once per change of state.
    fn failed(&mut self, failure: &Failure, now: Instant) {
        if is_for_good(failure) {
            tracing::info!(%failure,
                "no firewall table that others cannot flush: after a flush of all rules they are put \
                 back at once");
            *self = Self::ForGood;
            return;
        }
        match self {
            Self::Since(_) => tracing::debug!(%failure, "still no guard of the firewall table"),
            _ => tracing::warn!(%failure,
                "no firewall table that others cannot flush for now: after a flush of all rules they are \
                 put back at once, and the table is tried again"),
        }
        *self = Self::Since(now);
    }
}

/// `nft` shows tables with an owner wrong.
const SHOWN_WRONG: &str = "this version shows tables that have an owner wrong, as JSON";

/// Whether it stays as it is until another `nft` or kernel is there. `nft` that does not know the flag
/// reports bad syntax, a kernel that does not refuses the flag as not supported or not valid; all else,
/// from a lack of memory to another owner of the name, passes.
fn is_for_good(failure: &Failure) -> bool {
    const WORDS: [&str; 4] = [
        SHOWN_WRONG,
        "syntax error",
        "Operation not supported",
        "Invalid argument",
    ];
    matches!(failure, Failure::Refused(_, said) if WORDS.iter().any(|words| said.contains(words)))
}

/// Whether the table is there and says what it should.
pub(crate) fn is_whole(config: &BridgeConfig, info: &NetworkInfo) -> Result<bool, Failure> {
    Ok(listing(config)? == Some(whole(config, info)?))
}

/// The table as `nft` shows it, when it is there.
fn listing(config: &BridgeConfig) -> Result<Option<Value>, Failure> {
    let words = ["list", "table", "inet", &config.table_name];
    match command::nft_json(&words) {
        Ok(text) => Ok(Some(without_handles(
            serde_json::from_str(&text).unwrap_or_default(),
        ))),
        Err(Failure::Refused(..)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The table as this `nft` shows it when it is whole: loaded in a network namespace that nobody else has.
fn whole(config: &BridgeConfig, info: &NetworkInfo) -> Result<Value, Failure> {
    let load = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| Failure::Run("nft", error.into()))?;
        command::run("nft", &["-f", "-"], Some(&rules::table(config, info)))?;
        listing(config)
    };
    let ended = || {
        Failure::Refused(
            "nft",
            "it shows no table where it just loaded one".to_owned(),
        )
    };
    std::thread::scope(|scope| scope.spawn(load).join())
        .map_err(|_| ended())??
        .ok_or_else(ended)
}

/// Handles count what was loaded before.
fn without_handles(mut listing: Value) -> Value {
    match &mut listing {
        Value::Object(fields) => {
            fields.remove("handle");
            fields
                .values_mut()
                .for_each(|value| *value = without_handles(value.take()));
        }
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| *value = without_handles(value.take())),
        _ => {}
    }
    listing
}

/// A session of `nft` that owns the guard. The kernel removes the table when the session ends, which it
/// does when this is dropped, or with this process: then its input ends.
#[derive(Debug)]
struct Guard {
    session: Child,
    _input: ChildStdin,
}

impl Guard {
    fn hold(config: &BridgeConfig, table: &str) -> Result<Self, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_hold(config, table, deadline) {
                // Another process owns one of this name: that of a server that ends.
                Err(Failure::Refused(_, words))
                    if words.contains("not permitted") && Instant::now() < deadline =>
                {
                    std::thread::sleep(LOOK_EVERY);
                }
                done => return done,
            }
        }
    }

    fn try_hold(config: &BridgeConfig, table: &str, deadline: Instant) -> Result<Self, Failure> {
        let failed = |error| Failure::Run("nft", error);
        let mut session = Command::new("nft")
            .arg("-i")
            .env("PATH", command::search_path())
            .env("LC_ALL", "C")
            // It keeps a history there.
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // ^C ends the server, which ends it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let words = session
            .stderr
            .take()
            .map(|stderr| lines(BufReader::new(stderr)));
        let (Some(mut input), Some(words)) = (session.stdin.take(), words) else {
            return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
        };
        let written = input.write_all(table.as_bytes());
        let guard = Self {
            session,
            _input: input,
        };
        written.map_err(failed)?;
        loop {
            match words.recv_timeout(LOOK_EVERY) {
                Ok(words) => return Err(Failure::Refused("nft", words)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Refused("nft", "it ended".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let look = ["list", "table", "inet", &config.guard_table()];
            match command::nft_json(&look) {
                Ok(shown) if shows_owner(&shown) => {
                    if rule_count(&shown) == rules::count(table) {
                        return Ok(guard);
                    }
                }
                Ok(_) => return Err(Failure::Refused("nft", SHOWN_WRONG.to_owned())),
                Err(_) => {}
            }
            if Instant::now() > deadline {
                return Err(Failure::Refused(
                    "nft",
                    "it does not make the table".to_owned(),
                ));
            }
        }
    }

    fn is_held(&mut self) -> bool {
        matches!(self.session.try_wait(), Ok(None))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

/// How many rules a listing as JSON shows.
fn rule_count(listing: &str) -> usize {
    listing.matches("{\"rule\":").count()
}

/// Whether a listing as JSON says that the table has an owner. A single flag may stand alone.
fn shows_owner(listing: &str) -> bool {
    let listing: Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let flags: Vec<_> = objects.map(|object| &object["table"]["flags"]).collect();
    let owner = |flag: &serde_json::Value| flag == "owner";
    flags
        .into_iter()
        .any(|flags| owner(flags) || flags.as_array().into_iter().flatten().any(owner))
}

/// The lines of a stream as they come, read to its end whether or not anybody wants them.
fn lines(stream: impl BufRead + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in stream.lines().map_while(std::io::Result::ok) {
            let _ = send.send(line);
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_change_turns_the_guard_off_for_good() {
        let refused = |words: &str| Failure::Refused("nft", words.to_owned());
        let now = Instant::now();
        for (failure, for_good) in [
            (refused(SHOWN_WRONG), true),
            (
                refused("<cmdline>:1:9-13: Error: syntax error, unexpected string"),
                true,
            ),
            (
                refused("Error: Could not process rule: Operation not supported"),
                true,
            ),
            (
                refused("Error: Could not process rule: Operation not permitted"),
                false,
            ),
            (
                refused("Error: Could not process rule: Cannot allocate memory"),
                false,
            ),
            (refused("it does not make the table"), false),
            (refused("it ended"), false),
            (
                Failure::Run("nft", std::io::ErrorKind::WouldBlock.into()),
                false,
            ),
            (Failure::Missing("nft"), false),
        ] {
            let mut unguarded = Unguarded::default();
            assert!(unguarded.is_due(now));
            unguarded.failed(&failure, now);
            assert!(!unguarded.is_due(now), "{failure}");
            let later = now + AGAIN_AFTER;
            assert_eq!(unguarded.is_due(later), !for_good, "{failure}");
            if !for_good {
                unguarded.held();
                assert!(unguarded.is_due(now), "{failure}");
            }
        }
    }

    #[test]
    fn a_listing_that_does_not_say_owner_is_wrong() {
        let listing = |flags: &str| {
            format!(r#"{{"nftables":[{{"metainfo":{{}}}},{{"table":{{"name":"x"{flags}}}}}]}}"#)
        };
        for (text, expected) in [
            (listing(r#","flags":"owner""#), true),
            (listing(r#","flags":["owner"]"#), true),
            (listing(r#","flags":["owner","persist"]"#), true),
            (listing(""), false),
            // Of nft 1.0.6.
            (listing(r#","flags":"Lester Gooch #5""#), false),
            ("\n".to_owned(), false),
        ] {
            assert_eq!(shows_owner(&text), expected, "{text}");
        }
    }
}
