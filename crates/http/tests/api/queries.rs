//! Queries: what a route does not know is refused, and what is wrong is named.

use crate::support::Api;
use reqwest::Method;
use serde_json::json;

const SOME_ID: &str = "0198a8a5-0000-7000-8000-000000000001";

#[tokio::test(flavor = "multi_thread")]
async fn no_route_passes_over_a_parameter_that_it_does_not_know() {
    let api = Api::start().await;
    let document = serde_json::to_value(botstead_http::openapi()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let public = operation["security"].as_array().unwrap().is_empty();
            if public || method == Method::HEAD {
                continue;
            }
            let parts = path.split('/').map(|part| match part.starts_with('{') {
                true => SOME_ID,
                false => part,
            });
            let path = format!("{}?unheard_of=1", parts.collect::<Vec<_>>().join("/"));
            let reply = api.call(&api.admin, method, &path, Some(json!({}))).await;
            let problem = reply.expect_problem(400, "invalid_query");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("`unheard_of`"), "{path}: {detail}");
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misspelt_removes_nothing() {
    let api = Api::start().await;
    let bot = api.bot_with_workspace().await;
    for path in [&bot, &format!("{bot}/container")] {
        let reply = api.delete(&format!("{path}?preserve=true")).await;
        let problem = reply.expect_problem(400, "invalid_query");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("`preserve_data"),
            "{problem}"
        );
    }
    api.get(&format!("{bot}/container")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_wrong_is_named() {
    let api = Api::start().await;
    for (query, expected) in [
        (
            "limit=x",
            "limit \"x\" is not valid: a whole number is expected",
        ),
        (
            "limit=99999999999",
            "limit \"99999999999\" is not valid: the number is too large",
        ),
    ] {
        let reply = api.get(&format!("/bots?{query}")).await;
        let problem = reply.expect_problem(400, "invalid_query");
        assert_eq!(problem["detail"], expected);
    }
}
