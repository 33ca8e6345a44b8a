//! Sessions that end, and users who are known where they come from.

use super::{Fixture, PASSWORD, code};
use botstead_accounts::{Login, Password, UserUpdate};
use botstead_authz::Actor;
use botstead_types::Role;
use std::time::{Duration, Instant};

fn login(username: &str, password: &str, client: &str) -> Login {
    Login {
        username: username.into(),
        password: Password::new(password),
        client: Some(client.parse().unwrap()),
        earlier_token: None,
    }
}

#[tokio::test]
async fn a_session_ends_with_account_password_and_role() {
    let f = Fixture::new().await;
    let session = async |username: &str| {
        let token = f.login(username, PASSWORD).await.unwrap();
        f.accounts.authenticate(&token).await.unwrap()
    };
    let (admin, ann, bob) = (
        session("root").await,
        session("ann").await,
        session("bob").await,
    );
    let all = [&admin, &ann, &bob];
    let hold = async || f.accounts.hold(&all).await.unwrap();
    assert_eq!(hold().await, [true, true, true]);
    let mut changes = f.accounts.changes();

    let promoted = UserUpdate {
        role: Some(Role::Admin),
        display_name: Some(Some("Ann".into())),
        ..UserUpdate::default()
    };
    f.accounts
        .update_user(&Actor::System, f.ann.id, promoted)
        .await
        .unwrap();
    changes.changed().await.unwrap();
    assert_eq!(hold().await, [true, true, true], "more rights end nothing");
    let demoted = UserUpdate {
        role: Some(Role::Member),
        ..UserUpdate::default()
    };
    f.accounts
        .update_user(&Actor::System, f.admin.id, demoted)
        .await
        .unwrap();
    assert_eq!(hold().await, [false, true, true]);
    let password = UserUpdate {
        password: Some(Password::new(PASSWORD)),
        ..UserUpdate::default()
    };
    f.accounts
        .update_user(&Actor::System, f.ann.id, password)
        .await
        .unwrap();
    assert_eq!(hold().await, [false, false, true]);
    changes.mark_unchanged();
    f.accounts
        .delete_user(&Actor::System, f.bob.id)
        .await
        .unwrap();
    changes.changed().await.unwrap();
    assert_eq!(hold().await, [false, false, false]);
}

#[tokio::test]
async fn a_ticket_ends_with_the_password() {
    let f = Fixture::new().await;
    let issued = f
        .accounts
        .issue_ticket(&f.ann.actor(), "GET", "/x")
        .await
        .unwrap();
    let password = UserUpdate {
        password: Some(Password::new("another horse")),
        ..UserUpdate::default()
    };
    f.update(&f.ann, password).await.unwrap();
    let late = f.accounts.redeem_ticket(&issued.ticket, "GET", "/x").await;
    assert_eq!(code(late), "invalid_ticket");
}

#[tokio::test]
async fn whoever_is_known_from_there_is_not_locked_out() {
    let f = Fixture::new().await;
    let proxy = "192.0.2.1";
    f.accounts
        .login(login("ann", PASSWORD, proxy))
        .await
        .unwrap();
    let guess = async |username: &str| f.accounts.login(login(username, "incorrect", proxy)).await;
    for _ in 0..8 {
        assert_eq!(code(guess("ann").await), "invalid_credentials");
    }
    f.accounts
        .login(login("ann", PASSWORD, proxy))
        .await
        .unwrap();

    // Not so who never came from there, until a request of theirs did.
    let token = f.login("bob", PASSWORD).await.unwrap();
    for _ in 0..5 {
        assert_eq!(code(guess("bob").await), "invalid_credentials");
    }
    let refused = f.accounts.login(login("bob", PASSWORD, proxy)).await;
    assert_eq!(code(refused), "too_many_attempts");
    let session = f.accounts.authenticate(&token).await.unwrap();
    f.accounts.seen(&session, Some(proxy.parse().unwrap()));
    f.accounts
        .login(login("bob", PASSWORD, proxy))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_flood_from_one_address_denies_nobody_elsewhere() {
    let f = Fixture::new().await;
    let flood: Vec<_> = (0..90)
        .map(|n| {
            let accounts = f.accounts.clone();
            tokio::spawn(async move {
                let attempt = login(&format!("user{n}"), "incorrect", "192.0.2.1");
                accounts.login(attempt).await.unwrap_err().code()
            })
        })
        .collect();
    // The flood has taken what it can before anybody else comes.
    tokio::task::yield_now().await;
    f.accounts
        .login(login("ann", PASSWORD, "192.0.2.2"))
        .await
        .unwrap();
    let mut refused = 0;
    for attempt in flood {
        refused += usize::from(attempt.await.unwrap() == "too_many_attempts");
    }
    assert!(refused >= 90 - 16, "only {refused} were turned away");
}

#[tokio::test]
async fn whoever_brings_an_earlier_token_is_not_kept_out_by_others_of_their_network() {
    let f = Fixture::new().await;
    let here = "192.0.2.1";
    let first = f.accounts.login(login("ann", PASSWORD, here)).await;
    let token = first.unwrap().access_token;
    let flood: Vec<_> = (0..60)
        .map(|_| {
            let accounts = f.accounts.clone();
            tokio::spawn(async move {
                loop {
                    let attempt = login("ann", "incorrect", here);
                    accounts.login(attempt).await.unwrap_err();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    // The flood takes every place as soon as it is free: nearly always, and in time once in a second.
    let refused = async |attempt: &dyn Fn() -> Login| {
        let begun = Instant::now();
        loop {
            match f.accounts.login(attempt()).await {
                Err(error) => break error.code(),
                Ok(_) => {
                    assert!(begun.elapsed() < Duration::from_secs(60), "it is let in");
                    // Otherwise it may take its own place again and again.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    };
    let with = |username: &str, token: &str| Login {
        earlier_token: Some(token.to_owned()),
        ..login(username, PASSWORD, here)
    };
    let without = refused(&|| login("ann", PASSWORD, here)).await;
    assert_eq!(without, "too_many_attempts");
    for other in [
        String::new(),
        format!("{token}x"),
        f.login("bob", PASSWORD).await.unwrap(),
    ] {
        let refused = refused(&|| with("ann", &other)).await;
        assert_eq!(refused, "too_many_attempts", "{other}");
    }
    f.accounts.login(with("Ann", &token)).await.unwrap();
    for guesses in flood {
        guesses.abort();
    }
}
