//! What every command finds in its environment, and which shell a terminal gets.

use crate::identity::Identity;
use botstead_bridge::proto::Variable;
use botstead_bridge::{Failure, FailureKind};
use rustix::fs::{Access, AtFlags, CWD, FileType, StatxFlags, accessat, statx};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The folder of the bot's own files, where commands start.
pub(crate) const DATA: &str = "/data";

/// What a process without PATH is given, as container runtimes do.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that keep their files elsewhere than in HOME keep them in these, below `/data` too.
const XDG: [(&str, &str); 4] = [
    ("XDG_CONFIG_HOME", "/data/.config"),
    ("XDG_DATA_HOME", "/data/.local/share"),
    ("XDG_CACHE_HOME", "/data/.cache"),
    ("XDG_STATE_HOME", "/data/.local/state"),
];

/// Shells by preference, and where they are.
const SHELLS: [&str; 4] = ["bash", "zsh", "ash", "sh"];
const SHELL_FOLDERS: [&str; 3] = ["/bin", "/usr/bin", "/usr/local/bin"];

/// Programs that stand for "no terminal" in `/etc/passwd`. The owner of a workspace who asks for a
/// terminal wants one.
const NO_SHELLS: [&str; 3] = ["nologin", "false", "true"];

/// The agent's own environment, which is the image's.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    own: Vec<(OsString, OsString)>,
    toolkit: Option<PathBuf>,
}

impl Environment {
    /// Takes the agent's own environment, and the folder of the toolkit's programs.
    pub(crate) fn new(
        own: impl IntoIterator<Item = (OsString, OsString)>,
        toolkit: Option<&Path>,
    ) -> Self {
        // Where the agent itself was started is not where commands are.
        let own = own
            .into_iter()
            .filter(|(name, _)| name != "PWD" && name != "OLDPWD");
        Self {
            own: own.collect(),
            toolkit: toolkit.map(|folder| folder.join("bin")),
        }
    }

    /// Replaces the name of a time zone that is not in the folder by its rule: without its file, programs take
    /// it for UTC and do not say so.
    pub(crate) fn with_timezone(mut self, zones: &Path, rule: Option<&OsStr>) -> Self {
        let zone = self.own.iter_mut().find(|(name, _)| name == "TZ");
        if let (Some((_, zone)), Some(rule)) = (zone, rule)
            && !zones.join(&*zone).is_file()
        {
            rule.clone_into(zone);
        }
        self
    }

    /// The variables of a command. Its home is the folder of the bot's files unless another one is given. What
    /// the caller gives comes last and wins.
    ///
    /// # Errors
    /// `INVALID` for a name or value that no environment can hold.
    pub(crate) fn of(
        &self,
        identity: &Identity,
        home: Option<&Path>,
        terminal: bool,
        extra: &[Variable],
    ) -> Result<Vec<(OsString, OsString)>, Failure> {
        let mut variables = Variables::default();
        for (name, value) in &self.own {
            variables.set(name, value);
        }
        variables.set("PATH", self.path());
        variables.set("HOME", home.unwrap_or(Path::new(DATA)));
        for (name, value) in XDG {
            match home {
                // Their defaults are below HOME.
                Some(_) => variables.remove(OsStr::new(name)),
                None => variables.set(name, value),
            }
        }
        let name = identity
            .name
            .clone()
            .unwrap_or_else(|| identity.uid.to_string());
        variables.set("USER", &name);
        variables.set("LOGNAME", &name);
        match self.shell(identity) {
            Some(shell) => variables.set("SHELL", shell),
            None => variables.remove(OsStr::new("SHELL")),
        }
        if terminal {
            variables.set("TERM", "xterm-256color");
            variables.set("COLORTERM", "truecolor");
        }
        for Variable { name, value } in extra {
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0) {
                return Err(Failure::new(
                    FailureKind::Invalid,
                    format!("no variable can be named {:?}", OsStr::from_bytes(name)),
                ));
            }
            let value = OsString::from_vec(value.to_vec());
            variables.set(OsStr::from_bytes(name), value);
        }
        Ok(variables.0.into_iter().collect())
    }

    fn path(&self) -> OsString {
        let own = self.own.iter().find(|(name, _)| name == "PATH");
        let mut path = own.map_or_else(|| DEFAULT_PATH.into(), |(_, path)| path.clone());
        if let Some(toolkit) = &self.toolkit {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(toolkit);
        }
        path
    }

    /// The shell that a user gets in a terminal: their own from `/etc/passwd` if it can be executed,
    /// else the first of bash, zsh, ash and sh that is there, else one of the toolkit.
    pub(crate) fn shell(&self, identity: &Identity) -> Option<PathBuf> {
        let own = identity
            .shell
            .iter()
            .filter(|shell| {
                let name = shell.file_name().and_then(OsStr::to_str);
                name.is_none_or(|name| !NO_SHELLS.contains(&name))
            })
            .cloned();
        let common = SHELLS
            .iter()
            .flat_map(|shell| SHELL_FOLDERS.map(|folder| Path::new(folder).join(shell)));
        let toolkit = self
            .toolkit
            .iter()
            .flat_map(|folder| SHELLS.map(|shell| folder.join(shell)));
        own.chain(common)
            .chain(toolkit)
            .find(|shell| is_program(shell))
    }
}

/// A regular file that root could execute, which means one that anybody may.
fn is_program(path: &Path) -> bool {
    let kind = statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE)
        .map(|found| FileType::from_raw_mode(found.stx_mode.into()));
    kind == Ok(FileType::RegularFile)
        && accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()).is_ok()
}

/// Variables by their names: a caller may give very many.
#[derive(Default)]
struct Variables(BTreeMap<OsString, OsString>);

impl Variables {
    fn set(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.0.insert(name, value);
    }

    fn remove(&mut self, name: &OsStr) {
        self.0.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(own: &[(&str, &str)], extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = own.iter().map(|(name, value)| (name.into(), value.into()));
        let extra: Vec<_> = extra
            .iter()
            .map(|(name, value)| Variable {
                name: name.as_bytes().to_vec().into(),
                value: value.as_bytes().to_vec().into(),
            })
            .collect();
        Environment::new(own, Some(Path::new("/kit")))
            .of(&Identity::default(), None, true, &extra)
            .unwrap()
            .into_iter()
            .map(|(name, value)| {
                let text = |value: OsString| value.into_string().unwrap();
                (text(name), text(value))
            })
            .collect()
    }

    fn get<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut found = variables.iter().filter(|(known, _)| known == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert_eq!(found.next(), None, "{name} stands there once");
        first
    }

    #[test]
    fn the_callers_variables_win() {
        let all = variables(
            &[
                ("PATH", "/image"),
                ("HOME", "/root"),
                ("LANG", "C"),
                ("PWD", "/x"),
            ],
            &[("LANG", "de"), ("HOME", "/tmp"), ("NEW", "")],
        );
        assert_eq!(get(&all, "PATH"), Some("/image:/kit/bin"));
        assert_eq!(get(&all, "HOME"), Some("/tmp"));
        assert_eq!(get(&all, "LANG"), Some("de"));
        assert_eq!(get(&all, "NEW"), Some(""));
        assert_eq!(get(&all, "PWD"), None);
        assert_eq!(get(&all, "TERM"), Some("xterm-256color"));
        assert_eq!(get(&all, "XDG_CACHE_HOME"), Some("/data/.cache"));
        assert_eq!(get(&all, "USER"), Some("0"));
    }

    #[test]
    fn many_variables_take_no_longer_each() {
        let names: Vec<String> = (0..200_000).map(|n| format!("V{n}")).collect();
        let extra: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        // Each compared with all before it, they would take minutes.
        let all = variables(&[], &extra);
        assert!(all.len() > 200_000);
    }

    #[test]
    fn there_is_a_path_without_one() {
        let all = variables(&[], &[]);
        let expected = format!("{DEFAULT_PATH}:/kit/bin");
        assert_eq!(get(&all, "PATH"), Some(expected.as_str()));
        assert_eq!(get(&all, "HOME"), Some("/data"));
    }

    #[test]
    fn a_zone_that_the_image_does_not_have_is_given_by_its_rule() {
        let zones = tempfile::tempdir().unwrap();
        std::fs::write(zones.path().join("There"), "").unwrap();
        let zone = |own: &[(&str, &str)], rule: Option<&str>| {
            let own = own.iter().map(|(name, value)| (name.into(), value.into()));
            let environment = Environment::new(own, None)
                .with_timezone(zones.path(), rule.map(OsStr::new))
                .own;
            let zone = environment.into_iter().find(|(name, _)| name == "TZ");
            zone.map(|(_, zone)| zone.into_string().unwrap())
        };
        let rule = Some("CET-1CEST");
        assert_eq!(zone(&[("TZ", "There")], rule).as_deref(), Some("There"));
        assert_eq!(zone(&[("TZ", "Gone")], rule).as_deref(), rule);
        assert_eq!(zone(&[("TZ", "Gone")], None).as_deref(), Some("Gone"));
        assert_eq!(zone(&[], rule), None);
    }

    #[test]
    fn refuses_what_no_environment_holds() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
            let variable = Variable {
                name: name.as_bytes().to_vec().into(),
                value: value.as_bytes().to_vec().into(),
            };
            let failure = Environment::new([], None)
                .of(&Identity::default(), None, false, &[variable])
                .unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid, "{name:?}");
        }
    }

    #[test]
    fn a_shell_must_be_a_program() {
        let environment = Environment::new([], None);
        let with = |shell: &str| {
            environment.shell(&Identity {
                shell: Some(shell.into()),
                ..Identity::default()
            })
        };
        let fallback = environment.shell(&Identity::default());
        assert!(fallback.is_some(), "this machine has a shell");
        assert_eq!(with("/usr/sbin/nologin"), fallback);
        assert_eq!(with("/etc/passwd"), fallback);
        assert_eq!(with("/proc"), fallback);
        assert_eq!(with("/usr/bin/env"), Some("/usr/bin/env".into()));
    }
}
