//! Archives of preserved data over HTTP.

use crate::support::Api;
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_listed_restored_by_id_and_discarded() {
    let api = Api::start().await;
    let bot = api.bot().await;
    let path = format!("{bot}/container");
    let list = format!("{path}/preserved");
    let empty = api.get(&list).await.expect(200);
    assert_eq!(empty, json!({"items": []}));
    for content in ["one", "two", "three"] {
        let create = json!({"restore_data": false});
        api.post(&path, create).await.events();
        let active = api.runtime.snapshots();
        let active = active
            .iter()
            .rfind(|found| found.kind.to_string() == "Active")
            .unwrap();
        api.runtime.write_file(&active.key, "data/note", content);
        let deleted = api.delete(&format!("{path}?preserve_data=true")).await;
        deleted.expect(204);
    }
    let kept = api.get(&list).await.expect(200);
    let items = kept["items"].as_array().unwrap();
    assert_eq!(items.len(), 3, "{kept}");
    assert!(items[0]["size_bytes"].as_u64().unwrap() > 0);
    assert!(items[0]["created_at"].is_string());
    let page = api.get(&format!("{list}?limit=1")).await.expect(200);
    assert_eq!(page["items"], json!([items[0]]));
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api
        .get(&format!("{list}?cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(rest["items"], json!(items[1..]));
    let wrong = api.get(&format!("{list}?cursor=x")).await;
    wrong.expect_problem(400, "invalid_value");

    let restore = format!("{path}/data/restore");
    let oldest = json!({"id": items[2]["id"]});
    let missing = api.post(&restore, oldest.clone()).await;
    missing.expect_problem(404, "workspace_not_found");
    api.post(&path, json!({"restore_data": false}))
        .await
        .events();
    api.post(&restore, json!({"id": "x"}))
        .await
        .expect_problem(400, "invalid_value");
    // A field that is passed over would bring the newest back, and remove it.
    let misspelt = api.post(&restore, json!({"idd": items[2]["id"]})).await;
    misspelt.expect_problem(400, "invalid_body");
    let restored = api.post(&restore, oldest.clone()).await.expect(200);
    assert_eq!(restored, json!({"restored": true}));
    let again = api.post(&restore, oldest).await;
    again.expect_problem(404, "no_preserved_data");
    let discard = format!("{list}/{}", items[1]["id"].as_str().unwrap());
    api.delete(&discard).await.expect(204);
    api.delete(&discard)
        .await
        .expect_problem(404, "no_preserved_data");
    assert_eq!(api.get(&path).await.expect(200)["has_preserved_data"], true);
    // The newest, and the only one that is left.
    api.post(&restore, json!({})).await.expect(200);
    let none = api.post(&restore, json!({})).await;
    none.expect_problem(404, "no_preserved_data");
    assert_eq!(
        api.get(&path).await.expect(200)["has_preserved_data"],
        false
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_preserved_of_a_bot_that_is_gone_is_listed_and_given_to_admins() {
    let api = Api::start().await;
    let bot = api.bot().await;
    let path = format!("{bot}/container");
    api.post(&path, json!({})).await.events();
    let active = api.runtime.snapshots();
    let active = active
        .iter()
        .rfind(|found| found.kind.to_string() == "Active")
        .unwrap();
    api.runtime.write_file(&active.key, "data/note", "mine");
    let archives = "/recovery/archives";
    let admin = async |method, path: &str| api.call(&api.admin, method, path, None).await;
    let list = admin(Method::GET, archives).await.expect(200);
    assert_eq!(list, json!({"items": []}));
    let deleted = api.delete(&format!("{bot}?preserve_data=true")).await;
    deleted.expect(204);

    let refused = api.get(archives).await;
    refused.expect_problem(403, "forbidden");
    let list = admin(Method::GET, archives).await.expect(200);
    let found = &list["items"][0];
    assert_eq!(found["bot_id"], bot.strip_prefix("/bots/").unwrap());
    let id = found["id"].as_str().unwrap();
    let one = format!("{archives}/{}/{id}", found["bot_id"].as_str().unwrap());
    let archive = admin(Method::GET, &one).await;
    assert_eq!(archive.status, 200);
    assert_eq!(archive.header("content-type"), "application/zstd");
    api.get(&one).await.expect_problem(403, "forbidden");
    admin(Method::DELETE, &one).await.expect(204);
    let gone = admin(Method::DELETE, &one).await;
    gone.expect_problem(404, "no_preserved_data");
}
