//! `botstead admin`: accounts, straight in the database, whether or not the server runs.

use crate::config::Config;
use crate::installation::{Installation, make_dir};
use anyhow::{Context, bail};
use botstead_accounts::{Accounts, NewUser, Password, Settings, TokenKey, User, UserUpdate};
use botstead_authz::Actor;
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::Role;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;

/// Where a password that was made here goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Into the answer, which a person sees on a terminal.
    OnTerminal,
    /// Into a file that only this user can read, which the answer names: an answer that goes
    /// elsewhere ends up in logs.
    InFile,
}

/// Adds a user and returns what is to be printed: id, user name, and the password, or the file that
/// holds it, when it was made here.
///
/// # Errors
/// When the database cannot be opened or the account cannot be.
pub async fn create_user(
    config: &Config,
    username: String,
    display_name: Option<String>,
    role: Role,
    password: Option<Password>,
    shown: Shown,
) -> anyhow::Result<Value> {
    with_accounts(config, async |accounts, installation| {
        let (password, made) = given_or_random(password, shown, installation)?;
        let user = NewUser {
            username,
            display_name,
            role,
            password,
        };
        let user = accounts.create_user(&Actor::System, user).await;
        answer(user.context("cannot create the user")?, made, installation)
    })
    .await
}

/// Gives a user a new password, which voids their tokens and ends their sessions, and returns what is
/// to be printed.
///
/// # Errors
/// When the database cannot be opened or there is no such user.
pub async fn set_password(
    config: &Config,
    username: &str,
    password: Option<Password>,
    shown: Shown,
) -> anyhow::Result<Value> {
    with_accounts(config, async |accounts, installation| {
        let (password, made) = given_or_random(password, shown, installation)?;
        let user = accounts
            .user_by_name(&Actor::System, username)
            .await
            .with_context(|| format!("cannot find user {username:?}"))?;
        let update = UserUpdate {
            password: Some(password),
            ..UserUpdate::default()
        };
        let user = accounts.update_user(&Actor::System, user.id, update).await;
        answer(user.context("cannot set the password")?, made, installation)
    })
    .await
}

/// Reads a password from `input` to its end; one final line break is not part of it.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or is empty.
pub fn read_password(input: &mut dyn Read) -> anyhow::Result<Password> {
    let mut text = String::new();
    input
        .take(4096)
        .read_to_string(&mut text)
        .context("cannot read the password from standard input")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        bail!("standard input has no password");
    }
    Ok(Password::new(text))
}

async fn with_accounts(
    config: &Config,
    work: impl AsyncFnOnce(&Accounts, &Installation) -> anyhow::Result<Value>,
) -> anyhow::Result<Value> {
    let installation = Installation::prepare(config)?;
    let path = installation.database_path(config);
    let database = SqlStore::open(&SqlConfig::at(path)).await?;
    // No token is signed here, so the server's key is left alone.
    let key = TokenKey::generate().context("cannot get random bytes")?;
    let settings = Settings::default();
    let accounts = Accounts::new(database.store(), &settings, &key, Handle::current());
    let outcome = work(&accounts, &installation).await;
    drop(accounts);
    database.close().await;
    outcome
}

/// A password that was made here, on its way to whoever asked for it.
enum Made {
    Text(String),
    /// Complete and on the disk, but without its name yet.
    File(NamedTempFile),
}

/// The password, and where its text is when it was made here: there before the account has it, so
/// that no account has a password that nobody knows.
fn given_or_random(
    password: Option<Password>,
    shown: Shown,
    installation: &Installation,
) -> anyhow::Result<(Password, Option<Made>)> {
    if let Some(password) = password {
        return Ok((password, None));
    }
    let text = random_password()?;
    let password = Password::new(text.clone());
    let made = match shown {
        Shown::OnTerminal => Made::Text(text),
        Shown::InFile => {
            let folder = installation.secrets_dir();
            make_dir(&folder)?;
            let write = || -> io::Result<NamedTempFile> {
                // Mode 0600.
                let mut file = NamedTempFile::new_in(&folder)?;
                writeln!(file, "{text}")?;
                file.as_file().sync_all()?;
                Ok(file)
            };
            let file = write();
            Made::File(file.with_context(|| format!("cannot write to {}", folder.display()))?)
        }
    };
    Ok((password, Some(made)))
}

/// 24 letters and digits that are not taken for one another: 120 bits.
fn random_password() -> anyhow::Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789A";
    let mut bytes = [0; 24];
    OsRng
        .try_fill_bytes(&mut bytes)
        .context("cannot get random bytes")?;
    // 256 is a multiple of 32, so every letter is as likely as the others.
    let letters = bytes.iter().map(|byte| ALPHABET[usize::from(byte % 32)]);
    Ok(letters.map(char::from).collect())
}

fn answer(user: User, made: Option<Made>, installation: &Installation) -> anyhow::Result<Value> {
    let mut answer = json!({ "id": user.id, "username": user.username });
    match made {
        None => {}
        Some(Made::Text(password)) => answer["password"] = password.into(),
        Some(Made::File(file)) => {
            // Names of users have nothing that a path could be made of.
            let name = format!("{}.password", user.username);
            let path = installation.secrets_dir().join(name);
            let written = file.persist(&path).map_err(io::Error::from);
            // Nobody is told it again.
            written
                .and_then(|_| File::open(installation.secrets_dir())?.sync_all())
                .with_context(|| format!("cannot write {}", path.display()))?;
            answer["password_file"] = path.display().to_string().into();
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_passwords_are_long_and_differ() {
        let (one, two) = (random_password().unwrap(), random_password().unwrap());
        assert_eq!(one.len(), 24);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric()), "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn a_password_is_one_line_or_more() {
        assert!(read_password(&mut &b"correct horse\n"[..]).is_ok());
        for bad in [&b""[..], b"\n", b"\r\n", b"\xff\xfe"] {
            assert!(read_password(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
