//! The service on a real SQLite store: who may do what, and what each refusal is called.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod bots;
mod sessions;

use botstead_accounts::{
    Accounts, Error, ErrorKind, Login, NewBot, NewUser, Password, Settings, TokenKey, User,
    UserUpdate,
};
use botstead_authz::Actor;
use botstead_store::Store;
use botstead_store_sql::{SqlConfig, SqlStore};
use botstead_types::{PageRequest, Role, UserId};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Handle;

const PASSWORD: &str = "correct horse";

struct Fixture {
    accounts: Accounts,
    store: Store,
    admin: User,
    ann: User,
    bob: User,
    _directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("botstead.db");
        let store = SqlStore::open(&SqlConfig::at(path)).await.unwrap().store();
        let key = TokenKey::generate().unwrap();
        let settings = Settings::default();
        let accounts = Accounts::new(store.clone(), &settings, &key, Handle::current());
        let mut users = Vec::new();
        for (name, role) in [
            ("root", Role::Admin),
            ("ann", Role::Member),
            ("bob", Role::Member),
        ] {
            let user = accounts.create_user(&Actor::System, new_user(name, role));
            users.push(user.await.unwrap());
        }
        let [admin, ann, bob] = users.try_into().unwrap();
        Self {
            accounts,
            store,
            admin,
            ann,
            bob,
            _directory: directory,
        }
    }

    async fn login(&self, username: &str, password: &str) -> Result<String, Error> {
        let login = Login {
            username: username.into(),
            password: Password::new(password),
            client: None,
            earlier_token: None,
        };
        self.accounts.login(login).await.map(|s| s.access_token)
    }

    async fn update(&self, user: &User, update: UserUpdate) -> Result<User, Error> {
        let admin = self.admin.actor();
        self.accounts.update_user(&admin, user.id, update).await
    }
}

fn new_user(name: &str, role: Role) -> NewUser {
    NewUser {
        username: name.into(),
        display_name: None,
        role,
        password: Password::new(PASSWORD),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.unwrap_err().code()
}

#[tokio::test]
async fn signing_in_gives_a_token_that_speaks_for_the_user() {
    let f = Fixture::new().await;
    let login = Login {
        username: "Ann".into(),
        password: Password::new(PASSWORD),
        client: Some("192.0.2.1".parse().unwrap()),
        earlier_token: None,
    };
    let signed_in = f.accounts.login(login).await.unwrap();
    assert_eq!(signed_in.user, f.ann);
    assert!(!format!("{signed_in:?}").contains(&signed_in.access_token));
    let user = f
        .accounts
        .authenticate(&signed_in.access_token)
        .await
        .unwrap();
    assert_eq!(user.user, f.ann);
    assert_eq!(f.accounts.me(&user.actor()).await.unwrap(), f.ann);
}

#[tokio::test]
async fn a_refused_sign_in_does_not_say_why() {
    let f = Fixture::new().await;
    let update = UserUpdate {
        is_active: Some(false),
        ..UserUpdate::default()
    };
    f.update(&f.bob, update).await.unwrap();
    for (username, password) in [
        ("ann", "incorrect horse"),
        ("nobody", PASSWORD),
        ("bob", PASSWORD),
        ("ann", ""),
        ("", ""),
        ("ann' or 1=1 --", PASSWORD),
    ] {
        let error = f.login(username, password).await.unwrap_err();
        assert_eq!(error.code(), "invalid_credentials", "{username} {password}");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }
}

#[tokio::test]
async fn an_unknown_name_takes_as_long_as_a_wrong_password() {
    let f = Fixture::new().await;
    let mut times = [Duration::MAX; 2];
    for round in 0..4 {
        for (time, name) in times.iter_mut().zip(["ann", "nobody"]) {
            let started = Instant::now();
            assert!(f.login(name, &format!("incorrect {round}")).await.is_err());
            *time = started.elapsed().min(*time);
        }
    }
    // Without the hash an unknown name would take a hundredth of the time.
    let [wrong, unknown] = times;
    assert!(unknown > wrong / 3, "wrong {wrong:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn repeated_failures_have_to_wait() {
    let f = Fixture::new().await;
    for _ in 0..5 {
        assert_eq!(
            code(f.login("ann", "incorrect").await),
            "invalid_credentials"
        );
    }
    let error = f.login("ANN", PASSWORD).await.unwrap_err();
    assert_eq!(error.code(), "too_many_attempts");
    assert_eq!(error.kind(), ErrorKind::TooManyRequests);
    assert!(error.retry_after().unwrap() <= Duration::from_secs(1));
    // Another name, and the same from another address, are looked at.
    f.login("bob", PASSWORD).await.unwrap();
    let login = Login {
        username: "ann".into(),
        password: Password::new(PASSWORD),
        client: Some("192.0.2.1".parse().unwrap()),
        earlier_token: None,
    };
    f.accounts.login(login).await.unwrap();
}

#[tokio::test]
async fn parallel_guesses_do_not_pass_before_the_first_failure_counts() {
    let f = Fixture::new().await;
    let guesses = (0..20).map(|n| {
        let (accounts, password) = (f.accounts.clone(), format!("incorrect {n}"));
        tokio::spawn(async move {
            let login = Login {
                username: "ann".into(),
                password: Password::new(password),
                client: None,
                earlier_token: None,
            };
            accounts.login(login).await.unwrap_err().code()
        })
    });
    let mut refused = Vec::new();
    for guess in guesses.collect::<Vec<_>>() {
        refused.push(guess.await.unwrap());
    }
    let looked_at = refused.iter().filter(|c| **c == "invalid_credentials");
    // Five are free; one more may follow where the hashes take longer than the first wait of 1 s.
    assert!((5..=8).contains(&looked_at.count()), "{refused:?}");
}

#[tokio::test]
async fn parallel_sign_ins_of_one_user_all_succeed() {
    let f = Fixture::new().await;
    let logins: Vec<_> = (0..12)
        .map(|_| {
            let accounts = f.accounts.clone();
            tokio::spawn(async move {
                let login = Login {
                    username: "ann".into(),
                    password: Password::new(PASSWORD),
                    client: None,
                    earlier_token: None,
                };
                accounts.login(login).await.map(drop)
            })
        })
        .collect();
    for login in logins {
        login.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn tokens_end_with_the_account_and_with_the_password() {
    let f = Fixture::new().await;
    let token = f.login("ann", PASSWORD).await.unwrap();
    // The same password again is a new one all the same.
    let update = UserUpdate {
        password: Some(Password::new(PASSWORD)),
        ..UserUpdate::default()
    };
    f.update(&f.ann, update).await.unwrap();
    assert_eq!(code(f.accounts.authenticate(&token).await), "invalid_token");

    let token = f.login("ann", PASSWORD).await.unwrap();
    let active = |is_active| UserUpdate {
        is_active: Some(is_active),
        ..UserUpdate::default()
    };
    f.update(&f.ann, active(false)).await.unwrap();
    assert_eq!(code(f.accounts.authenticate(&token).await), "invalid_token");
    assert_eq!(code(f.accounts.me(&f.ann.actor()).await), "user_not_found");
    f.update(&f.ann, active(true)).await.unwrap();
    assert!(f.accounts.authenticate(&token).await.is_ok());

    f.accounts
        .delete_user(&f.admin.actor(), f.ann.id)
        .await
        .unwrap();
    assert_eq!(code(f.accounts.authenticate(&token).await), "invalid_token");
}

#[tokio::test]
async fn a_ticket_is_for_one_request_of_one_user() {
    let f = Fixture::new().await;
    let ann = f.ann.actor();
    let issue = || f.accounts.issue_ticket(&ann, "GET", "/x");
    let issued = issue().await.unwrap();
    assert!(!format!("{issued:?}").contains(&issued.ticket));
    let user = f
        .accounts
        .redeem_ticket(&issued.ticket, "GET", "/x")
        .await
        .unwrap();
    assert_eq!(user.user, f.ann);
    let again = f.accounts.redeem_ticket(&issued.ticket, "GET", "/x").await;
    assert_eq!(code(again), "invalid_ticket");

    let issued = issue().await.unwrap();
    f.accounts
        .delete_user(&f.admin.actor(), f.ann.id)
        .await
        .unwrap();
    let gone = f.accounts.redeem_ticket(&issued.ticket, "GET", "/x").await;
    assert_eq!(code(gone), "invalid_ticket");
    let system = f.accounts.issue_ticket(&Actor::System, "GET", "/x").await;
    assert_eq!(code(system), "forbidden");
}

#[tokio::test]
async fn only_admins_manage_users() {
    let f = Fixture::new().await;
    let (ann, page) = (f.ann.actor(), PageRequest::default());
    let a = &f.accounts;
    assert_eq!(
        code(a.create_user(&ann, new_user("eve", Role::Admin)).await),
        "forbidden"
    );
    assert_eq!(code(a.user(&ann, f.ann.id).await), "forbidden");
    assert_eq!(code(a.user_by_name(&ann, "ann").await), "forbidden");
    assert_eq!(code(a.users(&ann, &page).await), "forbidden");
    assert_eq!(code(a.delete_user(&ann, f.bob.id).await), "forbidden");
    let promoted = a.update_user(
        &ann,
        f.ann.id,
        UserUpdate {
            role: Some(Role::Admin),
            ..UserUpdate::default()
        },
    );
    assert_eq!(code(promoted.await), "forbidden");
    assert_eq!(
        f.store.users.get(f.ann.id).await.unwrap().role,
        Role::Member
    );
}

#[tokio::test]
async fn users_are_made_listed_changed_and_removed() {
    let f = Fixture::new().await;
    let (a, admin) = (&f.accounts, f.admin.actor());
    assert_eq!(a.user(&admin, f.ann.id).await.unwrap(), f.ann);
    assert_eq!(a.user_by_name(&admin, "ANN").await.unwrap(), f.ann);
    let first = PageRequest {
        limit: 2,
        cursor: None,
    };
    let page = a.users(&admin, &first).await.unwrap();
    assert_eq!(page.items, [f.admin.clone(), f.ann.clone()]);
    let rest = PageRequest {
        limit: 2,
        cursor: page.next_cursor,
    };
    assert_eq!(
        a.users(&admin, &rest).await.unwrap().items,
        std::slice::from_ref(&f.bob)
    );
    for page in [
        PageRequest {
            limit: 0,
            cursor: None,
        },
        PageRequest {
            limit: 101,
            cursor: None,
        },
        PageRequest {
            limit: 1,
            cursor: Some("nonsense".into()),
        },
    ] {
        assert_eq!(
            code(a.users(&admin, &page).await),
            "invalid_request",
            "{page:?}"
        );
    }

    let update = UserUpdate {
        display_name: Some(Some(" Ann B. ".into())),
        role: Some(Role::Admin),
        ..UserUpdate::default()
    };
    let ann = f.update(&f.ann, update).await.unwrap();
    assert_eq!(ann.display_name.as_deref(), Some("Ann B."));
    assert_eq!((ann.role, ann.is_active), (Role::Admin, true));
    let update = UserUpdate {
        display_name: Some(None),
        ..UserUpdate::default()
    };
    assert_eq!(f.update(&f.ann, update).await.unwrap().display_name, None);

    a.delete_user(&admin, f.bob.id).await.unwrap();
    assert_eq!(
        code(a.delete_user(&admin, f.bob.id).await),
        "user_not_found"
    );
    assert_eq!(
        code(a.user(&admin, UserId::generate()).await),
        "user_not_found"
    );
    let update = UserUpdate {
        password: Some(Password::new("another one")),
        ..UserUpdate::default()
    };
    assert_eq!(code(f.update(&f.bob, update).await), "user_not_found");
}

#[tokio::test]
async fn what_cannot_be_a_user_is_refused() {
    let f = Fixture::new().await;
    let admin = f.admin.actor();
    for name in ["", "Ann", "a b", "ä", "a/b", "a\0", &"a".repeat(65)] {
        let made = f.accounts.create_user(&admin, new_user(name, Role::Member));
        assert_eq!(code(made.await), "invalid_request", "{name:?}");
    }
    for change in [
        |user: &mut NewUser| user.password = Password::new("short"),
        |user: &mut NewUser| user.password = Password::new("x".repeat(257)),
        |user: &mut NewUser| user.display_name = Some("a\nb".into()),
        |user: &mut NewUser| user.display_name = Some("  ".into()),
    ] {
        let mut user = new_user("eve", Role::Member);
        change(&mut user);
        assert_eq!(
            code(f.accounts.create_user(&admin, user).await),
            "invalid_request"
        );
    }
    let taken = f
        .accounts
        .create_user(&admin, new_user("ann", Role::Member));
    assert_eq!(code(taken.await), "username_taken");
    let longest = new_user(&"a.b-c_0".repeat(9), Role::Member);
    assert!(f.accounts.create_user(&admin, longest).await.is_ok());
}

#[tokio::test]
async fn somebody_can_always_administer() {
    let f = Fixture::new().await;
    let admin = f.admin.actor();
    for update in [
        UserUpdate {
            role: Some(Role::Member),
            ..UserUpdate::default()
        },
        UserUpdate {
            is_active: Some(false),
            ..UserUpdate::default()
        },
    ] {
        assert_eq!(code(f.update(&f.admin, update).await), "last_admin");
    }
    assert_eq!(
        code(f.accounts.delete_user(&admin, f.admin.id).await),
        "last_admin"
    );

    f.accounts
        .create_bot(&f.ann.actor(), NewBot::default())
        .await
        .unwrap();
    let owner = f.accounts.delete_user(&admin, f.ann.id).await;
    assert_eq!(code(owner), "user_owns_bots");
}

#[test]
fn a_change_is_made_although_its_caller_left() {
    // The caller's runtime is not the server's, as with actix, and is gone before the hash is done.
    let server = tokio::runtime::Runtime::new().unwrap();
    let f = server.block_on(Fixture::new());
    let caller = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    caller.block_on(async {
        let create = f
            .accounts
            .create_user(&Actor::System, new_user("eve", Role::Member));
        let soon = tokio::time::timeout(Duration::from_millis(1), create);
        assert!(soon.await.is_err(), "a hash takes longer");
    });
    drop(caller);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.block_on(f.store.users.by_username("eve")).is_err() {
        assert!(Instant::now() < deadline, "the user was not made");
        std::thread::sleep(Duration::from_millis(10));
    }
}
