//! Every error as the reply that a client gets.

use super::mapping::{accounts_status, workspace_status};
use super::*;
use actix_web::body::to_bytes;
use botstead_accounts as accounts;
use botstead_store as store;
use botstead_types::{BotId, InvalidValue, OperationId};
use botstead_workspace as workspace;
use serde_json::Value;

const BOT: &str = "0198a8a5-0000-7000-8000-000000000001";

fn bot() -> BotId {
    BOT.parse().unwrap()
}

/// The reply as a client sees it: status, the headers that depend on the problem, body.
async fn seen(problem: impl Into<Problem>) -> Value {
    let reply = problem.into().render("r1", "/bots/x");
    let header = |name: &str| {
        let value = reply.headers().get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let mut seen = serde_json::json!({
        "status": reply.status().as_u16(),
        "content-type": header("content-type"),
    });
    for name in ["retry-after", "www-authenticate", "allow"] {
        if let Some(value) = header(name) {
            seen[name] = value.into();
        }
    }
    let body = to_bytes(reply.into_body()).await.unwrap();
    seen["body"] = serde_json::from_slice(&body).unwrap();
    seen
}

#[actix_web::test]
async fn problems_look_like_this() {
    let busy = workspace::Error::Busy {
        operation: "0198a8a5-0000-7000-8000-00000000000a"
            .parse::<OperationId>()
            .unwrap(),
        what: "snapshot",
    };
    let down = workspace::Error::Store(store::Error::new(
        store::ErrorKind::Unavailable,
        "read bot",
        BOT,
    ));
    insta::assert_json_snapshot!(
        "problems",
        [
            seen(workspace::Error::WorkspaceNotFound(bot())).await,
            seen(busy).await,
            seen(down).await,
            seen(workspace::Error::Unsupported("not here".to_owned())).await,
            seen(workspace::Error::InsufficientStorage {
                free_bytes: 1,
                needed_bytes: 2,
            })
            .await,
            seen(accounts::Error::InvalidCredentials).await,
            seen(accounts::Error::TooManyAttempts {
                retry_after: Duration::from_millis(2500),
            })
            .await,
            seen(InvalidValue::new("bot id", "../x", "expected a UUID")).await,
            seen(Problem::from_status(StatusCode::METHOD_NOT_ALLOWED).allowing("GET".to_owned()))
                .await,
            seen(
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "no answer")
                    .unavailable(vec!["database", "runtime"]),
            )
            .await,
        ]
    );
}

#[test]
fn every_kind_has_its_status() {
    use workspace::ErrorKind as Kind;
    for (kind, status) in [
        (Kind::Invalid, 400),
        (Kind::Forbidden, 403),
        (Kind::NotFound, 404),
        (Kind::Conflict, 409),
        (Kind::Cancelled, 409),
        (Kind::Unprocessable, 422),
        (Kind::Internal, 500),
        (Kind::Unsupported, 501),
        (Kind::Unavailable, 503),
        (Kind::ResourceExhausted, 507),
    ] {
        assert_eq!(workspace_status(kind).as_u16(), status, "{kind:?}");
    }
    use accounts::ErrorKind as Account;
    for (kind, status) in [
        (Account::InvalidArgument, 400),
        (Account::Unauthenticated, 401),
        (Account::Forbidden, 403),
        (Account::NotFound, 404),
        (Account::Conflict, 409),
        (Account::TooLarge, 413),
        (Account::TooManyRequests, 429),
        (Account::Internal, 500),
        (Account::Unavailable, 503),
    ] {
        assert_eq!(accounts_status(kind).as_u16(), status, "{kind:?}");
    }
}

#[actix_web::test]
async fn an_internal_cause_is_for_the_log_only() {
    let broken = store::Error::new(store::ErrorKind::Internal, "read row", "secret-subject")
        .with_source(std::io::Error::other("secret-source"));
    let problem = Problem::from(workspace::Error::Store(broken));
    let cause = problem.rare.cause.clone().unwrap();
    assert!(cause.contains("secret-subject") && cause.contains("secret-source"));
    let reply = seen(problem).await;
    assert_eq!(reply["status"], 500);
    assert!(!reply.to_string().contains("secret"), "{reply}");
}

#[actix_web::test]
async fn the_sources_of_any_other_failure_are_for_the_log_only() {
    let down = store::Error::new(store::ErrorKind::Unavailable, "read bot", BOT)
        .with_source(std::io::Error::other("secret-source"));
    let problem = Problem::from(workspace::Error::Store(down));
    assert!(
        problem
            .rare
            .cause
            .clone()
            .unwrap()
            .contains("secret-source")
    );
    let reply = seen(problem).await;
    assert_eq!(reply["status"], 503);
    assert!(!reply.to_string().contains("secret"), "{reply}");
}
