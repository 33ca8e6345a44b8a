//! The program as it is run: accounts beside an open database, the configuration, doctor.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use botstead_accounts::{Accounts, Login, Password, Settings, TokenKey};
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::Role;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tokio::runtime::Handle;

fn botstead(root: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_botstead"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("BOTSTEAD_DATA_DIR", root.join("data"))
        .env("BOTSTEAD_RUN_DIR", root.join("run"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn answer(output: Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The password that an answer names: the output of a test is no terminal.
fn password_in(answer: &Value) -> String {
    assert_eq!(
        answer.get("password"),
        None,
        "a password in what may be a log"
    );
    let path = answer["password_file"].as_str().unwrap();
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "{path}");
    let text = std::fs::read_to_string(path).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

fn refusal(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_made_and_changed_while_a_server_has_the_database_open() {
    let root = tempfile::tempdir().unwrap();
    let create = [
        "admin",
        "create-user",
        "--username",
        "root",
        "--role",
        "admin",
    ];
    let made = answer(botstead(root.path(), &create, ""));
    let password = &password_in(&made);
    assert_eq!(
        (made["username"].as_str(), password.len()),
        (Some("root"), 24)
    );

    let path = root.path().join("data/botstead.db");
    let store = SqlStore::open(&SqlConfig::at(path)).await.unwrap().store();
    let key = TokenKey::generate().unwrap();
    let accounts = Accounts::new(store, &Settings::default(), &key, Handle::current());
    let login = async |username: &str, password: &str| {
        let login = Login {
            username: username.into(),
            password: Password::new(password),
            client: None,
            earlier_token: None,
        };
        accounts.login(login).await
    };
    let signed_in = login("root", password).await.unwrap();
    assert_eq!(signed_in.user.id.to_string(), made["id"]);
    assert_eq!(signed_in.user.role, Role::Admin);

    // The server is still there, as is its database.
    let stdin = [
        "admin",
        "create-user",
        "--username",
        "ann",
        "--password-stdin",
    ];
    let made = answer(botstead(root.path(), &stdin, "correct horse\n"));
    assert_eq!(
        (made.get("password"), made.get("password_file")),
        (None, None)
    );
    assert_eq!(
        login("ann", "correct horse").await.unwrap().user.role,
        Role::Member
    );

    let set = ["admin", "set-password", "--username", "root"];
    let changed = answer(botstead(root.path(), &set, ""));
    let new = &password_in(&changed);
    assert!(login("root", new).await.is_ok());
    assert!(
        accounts
            .authenticate(&signed_in.access_token)
            .await
            .is_err()
    );

    let again = refusal(botstead(root.path(), &create, ""));
    assert!(again.contains("the user name is taken"), "{again}");
    let missing = ["admin", "set-password", "--username", "nobody"];
    let missing = refusal(botstead(root.path(), &missing, ""));
    assert!(missing.contains("no such user"), "{missing}");
    let short = refusal(botstead(root.path(), &stdin, "short"));
    assert!(
        short.contains("less than 8 characters") && !short.contains("\"short\""),
        "{short}"
    );
}

#[test]
fn the_configuration_in_effect_is_printed_and_can_be_read_back() {
    let root = tempfile::tempdir().unwrap();
    let printed = botstead(root.path(), &["config", "print"], "");
    assert!(printed.status.success());
    let file = root.path().join("botstead.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let file = file.to_str().unwrap();
    let again = botstead(root.path(), &["--config", file, "config", "print"], "");
    assert_eq!(again.stdout, printed.stdout);
    let text = String::from_utf8(printed.stdout).unwrap();
    let data_dir = format!("data_dir = \"{}/data\"", root.path().display());
    assert!(text.contains(&data_dir), "{text}");

    std::fs::write(file, "lissten = 1").unwrap();
    let refused = refusal(botstead(
        root.path(),
        &["config", "print", "--config", file],
        "",
    ));
    assert!(refused.contains("did you mean \"listen\"?"), "{refused}");
}

#[test]
fn doctor_says_what_is_missing_and_fails() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("botstead.toml");
    let text = "[workspace]\nagent_path = \"/does/not/exist\"\n[runtime.containerd]\n\
                runc_binary = \"/no/runc\"\n";
    std::fs::write(&config, text).unwrap();
    let arguments = ["doctor", "--json", "--config", config.to_str().unwrap()];
    let output = botstead(root.path(), &arguments, "");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let status = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|c| c["name"] == name).unwrap()["status"].clone()
    };
    assert_eq!(
        (status("agent"), status("runc")),
        ("fail".into(), "fail".into())
    );

    let arguments = [arguments[0], arguments[2], arguments[3]];
    let table = botstead(root.path(), &arguments, "");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("FAIL  agent"), "{table}");
    assert!(!root.path().join("data").exists(), "doctor made something");
}

#[test]
fn the_version_is_that_of_the_package() {
    let root = tempfile::tempdir().unwrap();
    let output = botstead(root.path(), &["--version"], "");
    let expected = format!("botstead {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
