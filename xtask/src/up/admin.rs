//! Accounts that set-up makes: the first admin, and one that lives as long as a task of this program.

use super::layout::Place;
use crate::api::Api;
use crate::command;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The first admin's name.
pub(crate) const FIRST: &str = "admin";

/// What `botstead admin create-user` prints where its output is no terminal.
#[derive(Debug, Deserialize)]
pub(crate) struct Created {
    id: String,
    username: String,
    /// Readable by this user only.
    pub(crate) password_file: PathBuf,
}

impl Created {
    /// The password.
    pub(crate) fn password(&self) -> Result<String> {
        let path = &self.password_file;
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Takes the password out of its file.
    pub(crate) fn take_password(&self) -> Result<String> {
        let password = self.password()?;
        let path = &self.password_file;
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(password)
    }
}

/// A command of the installed server.
pub(crate) fn server_command(place: &Place) -> Command {
    let mut command = Command::new(place.server());
    command.arg("--config").arg(place.config());
    command
}

/// How the owner gets a new password.
pub(crate) fn reset_line(place: &Place) -> String {
    let mut command = server_command(place);
    command.args(["admin", "set-password", "--username", FIRST]);
    command::shown(&command)
}

/// Makes an admin with a random password.
pub(crate) fn create(place: &Place, username: &str) -> Result<Created> {
    let advice = format!(
        "if the user {username} exists already, {}",
        reset_line(place)
    );
    let json = command::capture(
        server_command(place)
            .args(["admin", "create-user", "--username", username])
            .args(["--role", "admin"]),
        &advice,
    )?;
    serde_json::from_str(&json).context("cannot read what `botstead admin create-user` printed")
}

/// An admin that removes itself when dropped.
pub(crate) struct Temporary {
    /// Signed in as it.
    pub(crate) api: Api,
    id: String,
}

impl Temporary {
    pub(crate) fn create(place: &Place, url: &str) -> Result<Self> {
        let created = create(place, &format!("xtask-{}", std::process::id()))?;
        let api = Api::new(url).login(&created.username, &created.take_password()?)?;
        Ok(Self {
            api,
            id: created.id,
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let removed = self
            .api
            .delete(&format!("/users/{}", self.id))
            .and_then(|reply| reply.expect(204));
        if let Err(error) = removed {
            eprintln!("warning: the temporary admin {} stays: {error:#}", self.id);
        }
    }
}
