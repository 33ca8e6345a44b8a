//! Creations: joined, left by their client, cancelled, cut short by the end of the server.

use super::harness::{
    Server, Settings, busybox_image, eventually, faulty, registry, shared, slow_image,
};
use botstead_image_fixtures::Fault;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Instant;

#[test]
fn two_creations_of_one_bot_are_one() {
    let server = shared();
    let (_registry, reference) = registry(&busybox_image());
    let bot = server.client.bot();
    let body = json!({ "image": reference });
    let streams: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| server.client.create_well(&bot, &body));
        let (one, two) = (start(), start());
        vec![one.join().unwrap(), two.join().unwrap()]
    });
    for events in &streams {
        assert_eq!(events[0]["type"], "pulling");
        let ends = events.iter().filter(|event| event["type"] == "complete");
        assert_eq!(ends.count(), 1);
    }
    let last = |events: &Vec<Value>| events.last().unwrap()["container"]["container_id"].clone();
    assert_eq!(last(&streams[0]), last(&streams[1]));
    let name = format!("workspace-{bot}");
    assert!(server.ctr_list(&["containers", "ls"]).contains(&name));
    let operations = server.client.get(&format!("/bots/{bot}/operations")).expect(200);
    let creations = operations["items"].as_array().unwrap().iter();
    assert_eq!(creations.filter(|o| o["kind"] == "create").count(), 1, "{operations}");
    server.client.delete_bot(&bot);
}

#[test]
fn a_creation_goes_on_when_its_client_leaves() {
    let server = shared();
    let client = &server.client;
    // The connection is cut a few times, so that the pull is under way when the client leaves.
    let source = faulty(&busybox_image(), Fault::CutBlob(2));
    let bot = client.bot();
    let body = json!({"image": source.reference("cut")});
    let mut events = client.stream(&format!("/bots/{bot}/container"), &body).unwrap();
    assert_eq!(events.next().unwrap()["type"], "pulling");
    drop(events);
    eventually("the workspace runs", || {
        let answer = client.get(&format!("/bots/{bot}/container"));
        (answer.status == 200 && answer.body["reachable"] == true).then_some(())
    });
    assert_eq!(client.sh(&bot, "echo works"), "works");
    client.delete_bot(&bot);
}

#[test]
fn a_hung_pull_is_ended_by_deleting_its_operation() {
    let server = Server::start(&Settings::default());
    let client = &server.client;
    let before = server.belongings();
    let source = faulty(&slow_image(), Fault::HangBlob);
    let bot = client.bot();
    let body = json!({"image": source.reference("hangs")});
    let mut events = client.stream(&format!("/bots/{bot}/container"), &body).unwrap();
    eventually("the pull hangs", || (source.blob_requests() > 0).then_some(()));
    let operation = client.last_operation(&bot).unwrap();
    assert_eq!(operation["cancellable"], true, "{operation}");
    let id = operation["id"].as_str().unwrap();
    let asked = Instant::now();
    client.delete(&format!("/bots/{bot}/operations/{id}")).expect(200);
    let last = events.by_ref().last().unwrap();
    assert!(asked.elapsed().as_secs() < 5);
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("cancelled")), "{last}");
    let operation = client.get(&format!("/bots/{bot}/operations/{id}")).expect(200);
    assert_eq!(operation["state"], "cancelled");
    client
        .get(&format!("/bots/{bot}/container"))
        .problem(404, "workspace_not_found");
    eventually("nothing is left", || (server.belongings() == before).then_some(()));
    // And the bot is not stuck.
    client.create_well(&bot, &json!({}));
}

#[test]
fn the_server_ends_within_its_grace_during_a_pull() {
    let mut server = Server::start(&Settings::default());
    let before = server.belongings();
    let source = faulty(&slow_image(), Fault::HangBlob);
    let bot = server.client.bot();
    let body = json!({"image": source.reference("hangs")});
    let events = server.client.stream(&format!("/bots/{bot}/container"), &body);
    let events = events.unwrap();
    eventually("the pull hangs", || (source.blob_requests() > 0).then_some(()));
    let asked = Instant::now();
    server.signal(Signal::SIGTERM);
    let reader = std::thread::spawn(move || events.last().unwrap());
    assert!(server.wait().success());
    let took = asked.elapsed();
    assert!(took.as_secs() < 12, "a grace of 4 s, and it took {took:?}");
    assert_eq!(reader.join().unwrap()["type"], "error");

    server.launch(&[]);
    let client = &server.client;
    client
        .get(&format!("/bots/{bot}/container"))
        .problem(404, "workspace_not_found");
    let operation = client.last_operation(&bot).unwrap();
    assert_ne!(operation["state"], "running", "{operation}");
    assert_eq!(server.belongings(), before);
    client.create_well(&bot, &json!({}));
    assert_eq!(client.sh(&bot, "echo works"), "works");
}
