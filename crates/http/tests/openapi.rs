//! The committed OpenAPI document is the one that the routes give.

use botstead_types::{BotId, PreservedId};
use std::path::Path;

#[test]
fn the_committed_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let mut expected = botstead_http::openapi().to_pretty_json().unwrap();
    expected.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == expected,
        "docs/openapi.json differs from the routes; run: UPDATE=1 cargo test -p botstead-http \
         --test openapi"
    );
}

#[test]
fn every_operation_is_described() {
    let document = serde_json::to_value(botstead_http::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{name} has no summary");
            assert!(operation["tags"][0].is_string(), "{name} has no tag");
            let text = operation["responses"].to_string();
            let told = text.matches("`too_many_calls`").count();
            assert!(told <= 1, "{name} says {told} times what it refuses");
            let responses = operation["responses"].as_object().unwrap();
            let problem = &responses["default"]["content"]["application/problem+json"];
            assert_eq!(
                problem["schema"]["$ref"], "#/components/schemas/Problem",
                "{name} does not say how it fails"
            );
        }
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "there is no schema {name}");
    }
}

#[test]
fn requests_that_messages_name_are_there() {
    let document = serde_json::to_value(botstead_http::openapi()).unwrap();
    let [list, discard] =
        botstead_http::unclaimed_archive_requests(BotId::generate(), PreservedId::generate());
    let export = botstead_http::export_unrecorded_request("a-name");
    for named in [list, discard, export] {
        let (method, path) = named.split_once(' ').unwrap();
        let is_it = |route: &str| {
            let (route, path) = (route.split('/'), path.split('/'));
            route.clone().count() == path.clone().count()
                && route.zip(path).all(|(a, b)| a.starts_with('{') || a == b)
        };
        let paths = document["paths"].as_object().unwrap();
        let found = paths.iter().find(|(route, _)| is_it(route));
        let (_, item) = found.unwrap_or_else(|| panic!("{named} is no request"));
        assert!(item.get(method.to_lowercase()).is_some(), "{named}");
    }
}
