//! `botstead admin`: accounts, straight in the database, whether or not the server runs.

use crate::config::Config;
use crate::installation::Installation;
use anyhow::{Context, bail};
use botstead_accounts::{Accounts, NewUser, Password, Settings, TokenKey, User, UserUpdate};
use botstead_authz::Actor;
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::Role;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use std::io::Read;
use tokio::runtime::Handle;

/// Adds a user and returns what is to be printed: id, user name, and the password when it was
/// made here.
///
/// # Errors
/// When the database cannot be opened or the account cannot be.
pub async fn create_user(
    config: &Config,
    username: String,
    display_name: Option<String>,
    role: Role,
    password: Option<Password>,
) -> anyhow::Result<Value> {
    with_accounts(config, async |accounts| {
        let (password, shown) = given_or_random(password)?;
        let user = NewUser {
            username,
            display_name,
            role,
            password,
        };
        let user = accounts.create_user(&Actor::System, user).await;
        Ok(answer(user.context("cannot create the user")?, shown))
    })
    .await
}

/// Gives a user a new password, which voids their tokens, and returns what is to be printed.
///
/// # Errors
/// When the database cannot be opened or there is no such user.
pub async fn set_password(
    config: &Config,
    username: &str,
    password: Option<Password>,
) -> anyhow::Result<Value> {
    with_accounts(config, async |accounts| {
        let (password, shown) = given_or_random(password)?;
        let user = accounts
            .user_by_name(&Actor::System, username)
            .await
            .with_context(|| format!("cannot find user {username:?}"))?;
        let update = UserUpdate {
            password: Some(password),
            ..UserUpdate::default()
        };
        let user = accounts.update_user(&Actor::System, user.id, update).await;
        Ok(answer(user.context("cannot set the password")?, shown))
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
    work: impl AsyncFnOnce(&Accounts) -> anyhow::Result<Value>,
) -> anyhow::Result<Value> {
    let installation = Installation::prepare(config)?;
    let path = installation.database_path(config);
    let database = SqlStore::open(&SqlConfig::at(path)).await?;
    // No token is signed here, so the server's key is left alone.
    let key = TokenKey::generate().context("cannot get random bytes")?;
    let settings = Settings::default();
    let accounts = Accounts::new(database.store(), &settings, &key, Handle::current());
    let outcome = work(&accounts).await;
    drop(accounts);
    database.close().await;
    outcome
}

/// The password, and its text when it was made here.
fn given_or_random(password: Option<Password>) -> anyhow::Result<(Password, Option<String>)> {
    if let Some(password) = password {
        return Ok((password, None));
    }
    let text = random_password()?;
    Ok((Password::new(text.clone()), Some(text)))
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

fn answer(user: User, password: Option<String>) -> Value {
    let mut answer = json!({ "id": user.id, "username": user.username });
    if let Some(password) = password {
        answer["password"] = password.into();
    }
    answer
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
