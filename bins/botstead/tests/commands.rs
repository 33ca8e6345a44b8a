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

fn create_user(root: &Path, name: &str) {
    let create = ["admin", "create-user", "--username", name];
    answer(botstead(root, &create, ""));
}

async fn users(path: &Path) -> usize {
    let database = SqlStore::open(&SqlConfig::at(path)).await.unwrap();
    let page = botstead_types::PageRequest::default();
    let listed = database.store().users.list(&page).await.unwrap();
    database.close().await;
    listed.items.len()
}

#[tokio::test]
async fn a_database_that_is_put_back_takes_the_place_of_the_other_in_one_step() {
    use rustix::fs::inotify;
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let (path, copy) = (data.join("botstead.db"), root.path().join("copy.db"));
    let copy = copy.to_str().unwrap();
    create_user(root.path(), "ada");
    answer(botstead(root.path(), &["admin", "backup", copy], ""));
    create_user(root.path(), "ben");
    // As a killed server leaves it: what came last is in the log only.
    let open = SqlStore::open(&SqlConfig::at(&path)).await.unwrap();
    let page = botstead_types::PageRequest::default();
    let mut third = open
        .store()
        .users
        .list(&page)
        .await
        .unwrap()
        .items
        .remove(0);
    (third.id, third.username) = (botstead_types::UserId::generate(), "cem".to_owned());
    open.store().users.create(&third).await.unwrap();
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    let killed = [std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap()];
    assert!(!killed[1].is_empty());
    open.close().await;
    std::fs::write(&path, &killed[0]).unwrap();
    std::fs::write(&log, &killed[1]).unwrap();

    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let flags = inotify::WatchFlags::DELETE
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, &data, flags).unwrap();
    let restored = answer(botstead(root.path(), &["admin", "restore", copy], ""));
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1 << 16];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut seen = Vec::new();
    while let Ok(event) = events.next() {
        let name = event
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        seen.push((name.unwrap_or_default(), event.events()));
    }
    let of = |wanted: &str| -> Vec<_> {
        let own = seen.iter().filter(|(name, _)| name == wanted);
        own.map(|(_, what)| *what).collect()
    };
    // Whenever it is killed there is a whole database of that name.
    assert_eq!(
        of("botstead.db"),
        [inotify::ReadFlags::MOVED_TO],
        "{seen:?}"
    );
    let at = |name: &str, what| {
        let mut all = seen.iter();
        all.rposition(|event| *event == (name.to_owned(), what))
            .unwrap()
    };
    let replaced = at("botstead.db", inotify::ReadFlags::MOVED_TO);
    // The log of the other would be taken for its own.
    assert!(at("botstead.db-wal", inotify::ReadFlags::DELETE) < replaced);
    let kept = restored["kept"].as_str().unwrap();
    assert_eq!(users(Path::new(kept)).await, 3);
    assert_eq!(users(&path).await, 1);
    let left: Vec<_> = data
        .read_dir()
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    let left = left
        .iter()
        .filter(|name| name.to_string_lossy().contains("restoring"));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_database_that_is_damaged_is_kept_and_replaced() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data/botstead.db");
    let copy = root.path().join("copy.db");
    let copy = copy.to_str().unwrap();
    create_user(root.path(), "ada");
    answer(botstead(root.path(), &["admin", "backup", copy], ""));
    std::fs::write(&path, "no database at all, whoever wrote this").unwrap();
    let restored = answer(botstead(root.path(), &["admin", "restore", copy], ""));
    assert_eq!(users(&path).await, 1);
    let kept = std::fs::read_to_string(restored["kept"].as_str().unwrap()).unwrap();
    assert_eq!(kept, "no database at all, whoever wrote this");
    // What is no database puts nothing in its place, nor does what has no tables.
    let other = root.path().join("other");
    for (content, reason) in [
        ("no database either", "cannot use"),
        ("", "no database of Botstead"),
    ] {
        std::fs::write(&other, content).unwrap();
        let restore = ["admin", "restore", other.to_str().unwrap()];
        let refused = refusal(botstead(root.path(), &restore, ""));
        assert!(refused.contains(reason), "{refused}");
        assert_eq!(users(&path).await, 1);
    }
    let again = refusal(botstead(root.path(), &["admin", "backup", copy], ""));
    assert!(again.contains("is there already"), "{again}");
}

/// A rollback journal with which SQLite would empty the second page of a database.
fn hot_journal(database: &[u8]) -> Vec<u8> {
    let page = usize::from(u16::from_be_bytes([database[16], database[17]]));
    let pages = u32::try_from(database.len() / page).unwrap();
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    // Records, seed of their checksums, pages before, bytes of a sector and of a page.
    for number in [1, 0, pages, 512, u32::try_from(page).unwrap()] {
        journal.extend_from_slice(&number.to_be_bytes());
    }
    journal.resize(512, 0);
    journal.extend_from_slice(&2_u32.to_be_bytes());
    // The page, and its checksum.
    journal.resize(512 + 4 + page + 4, 0);
    journal
}

#[tokio::test]
async fn a_journal_of_a_killed_restore_does_not_come_into_the_next_one() {
    let root = tempfile::tempdir().unwrap();
    let (data, copy) = (root.path().join("data"), root.path().join("copy.db"));
    create_user(root.path(), "ada");
    let copy = copy.to_str().unwrap();
    answer(botstead(root.path(), &["admin", "backup", copy], ""));
    let whole = std::fs::read(copy).unwrap();
    let journal = data.join("botstead.db.restoring-journal");
    std::fs::write(&journal, hot_journal(&whole)).unwrap();
    answer(botstead(root.path(), &["admin", "restore", copy], ""));
    assert!(!journal.exists());
    // Besides what opening it changes, it is the copy.
    let restored = std::fs::read(data.join("botstead.db")).unwrap();
    assert_eq!(restored.len(), whole.len());
    assert!(restored[4096..] == whole[4096..], "another database");
    assert_eq!(users(&data.join("botstead.db")).await, 1);
}

#[tokio::test]
async fn a_copy_with_a_damaged_page_is_not_put_in_place() {
    let root = tempfile::tempdir().unwrap();
    let (path, copy) = (
        root.path().join("data/botstead.db"),
        root.path().join("copy.db"),
    );
    create_user(root.path(), "ada");
    let copy = copy.to_str().unwrap();
    answer(botstead(root.path(), &["admin", "backup", copy], ""));
    let mut damaged = std::fs::read(copy).unwrap();
    // The last table's, which nobody reads at first.
    let last = damaged.len() - 4096;
    damaged[last..].fill(0);
    std::fs::write(copy, damaged).unwrap();
    let refused = refusal(botstead(root.path(), &["admin", "restore", copy], ""));
    assert!(refused.contains("damaged"), "{refused}");
    assert_eq!(users(&path).await, 1);
}

#[test]
fn a_killed_backup_is_not_in_the_way_of_the_next_one() {
    let root = tempfile::tempdir().unwrap();
    create_user(root.path(), "ada");
    let copy = root.path().join("copy.db");
    let partial = root.path().join("copy.db.partial");
    let backup = || {
        botstead(
            root.path(),
            &["admin", "backup", copy.to_str().unwrap()],
            "",
        )
    };
    std::fs::write(&partial, "half of a copy").unwrap();
    // Who makes it has it locked.
    let other = std::fs::File::open(&partial).unwrap();
    other.try_lock().unwrap();
    let refused = refusal(backup());
    assert!(refused.contains("another program"), "{refused}");
    assert_eq!(std::fs::read(&partial).unwrap(), b"half of a copy");
    drop(other);
    answer(backup());
    assert!(!partial.exists());
    assert!(copy.exists());
}

#[test]
fn doctor_names_archives_of_bots_that_are_gone() {
    let root = tempfile::tempdir().unwrap();
    create_user(root.path(), "ada");
    let (bot, id) = (
        botstead_types::BotId::generate(),
        botstead_types::PreservedId::generate(),
    );
    let folder = root.path().join(format!("data/preserved/{bot}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{id}.tar.zst")), "data").unwrap();
    let output = botstead(root.path(), &["doctor", "--json"], "");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut checks = report["checks"].as_array().unwrap().iter();
    let told = checks.find(|check| check["name"] == "archives").unwrap();
    assert_eq!(told["status"], "warn", "{told}");
    let (detail, advice) = (told["detail"].to_string(), told["advice"].to_string());
    assert!(detail.contains(&id.to_string()), "{detail}");
    assert!(advice.contains("/recovery/archives"), "{advice}");
}

#[test]
fn the_version_is_that_of_the_package() {
    let root = tempfile::tempdir().unwrap();
    let output = botstead(root.path(), &["--version"], "");
    let expected = format!("botstead {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
