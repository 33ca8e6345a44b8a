//! States that a bot can bring about inside its workspace: from each, every call is answered in bounded time
//! and without an error of the server, and the workspace can be stopped, started, exported, brought back to a
//! good version and deleted.

use crate::client::{Answer, Workspace};
use crate::server::{IMAGE, Server, folder};
use botstead_image_fixtures::{Compression, Image, LayerBuilder, busybox, oci_archive};
use reqwest::Method;
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;

/// No call of these takes so long on a busy machine.
const BOUND: Duration = Duration::from_secs(90);

/// What is done inside as root, in a shell whose end and failures do not matter.
const STATES: &[&str] = &[
    // Users and groups.
    "rm /etc/passwd; mkdir /etc/passwd",
    "rm /etc/passwd; mkfifo /etc/passwd",
    "rm /etc/passwd; ln -s passwd /etc/passwd",
    "rm /etc/passwd; ln -s ../../nowhere /etc/passwd",
    "rm /etc/passwd; ln -s /proc/1/mem /etc/passwd",
    "rm /etc/passwd; ln -s /dev/zero /etc/passwd",
    "rm /etc/passwd; dd if=/dev/zero of=/etc/passwd bs=1M count=8",
    "rm /etc/passwd; mknod /etc/passwd c 1 5",
    "chmod 0 /etc/passwd; echo 'x:::::::::' > /etc/passwd",
    "rm /etc/group; mkfifo /etc/group",
    "mkdir -p /etc/group/x",
    "rm -rf /etc/passwd /etc/group /etc/shadow",
    // Directories that a start mounts on, or needs.
    "rm -rf /etc; echo file > /etc",
    "mv /etc /moved",
    "mv /etc /moved; ln -s /moved /etc",
    "mv /etc /moved; ln -s etc /etc",
    "rm -rf /tmp; echo file > /tmp",
    "rm -rf /run/*; echo file > /run",
    "mv /run /moved; ln -s /proc /run",
    "ln -sf /etc/passwd /etc/resolv.conf; ln -sf loop /etc/loop",
    "rm -rf /bin /usr",
    "rm -rf /root /home; ln -s / /home",
    "for d in /*; do rm -rf $d & done; sleep 1",
    "chmod 0 /",
    // The bot's data.
    "rm -rf /data",
    "rm -rf /data; echo file > /data",
    "rm -rf /data; ln -s nowhere /data",
    "rm -rf /data; ln -s data /data",
    "rm -rf /data; ln -s / /data",
    "rm -rf /data; ln -s /proc/self /data",
    "rm -rf /data; ln -s /dev /data",
    "rm -rf /data; mkfifo /data",
    "chmod 0 /data",
    "mv /data /else; ln -s else /data",
    "ln -s /data/x /data/x; mkfifo /data/pipe; mknod /data/null c 1 3",
    // Trees and names.
    "cd /data; n=$(printf %0200d 0); i=0; while [ $i -lt 40 ]; do mkdir $n && cd $n; i=$((i+1)); done; echo deep > leaf",
    "cd /; i=0; while [ $i -lt 2500 ]; do mkdir d && cd d; i=$((i+1)); done; echo deep > leaf",
    "cd /data; for i in $(seq 3000); do : > \"f $i\"; done",
    "cd /data; : > \"$(printf '\\377\\001\\n')\"; mkdir \"$(printf %0255d 0)\"",
    "cd /data; : > a; i=0; while [ $i -lt 300 ]; do ln a a$i; i=$((i+1)); done",
    "dd if=/dev/zero of=/data/sparse bs=1 count=1 seek=2T",
    "touch -d @-5000000000 /data/old; touch -d @9999999999 /data/new; chmod 7777 /data/old",
    // What runs.
    "kill -9 -1; kill -STOP -1",
    "kill -TERM 1; kill -INT 1; kill -9 1",
    "trap '' TERM HUP INT; (while :; do sleep 1; done) & (while :; do :; done) &",
    "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done",
    "yes > /dev/shm/full; yes > /dev/full",
    "cd /run/botstead/host; for i in $(seq 100); do : > $i; done; rm -f agent.sock",
    "cd /run/botstead/host; mv agent.sock other; mkfifo agent.sock",
    "cd /run/botstead/host; rm agent.sock; mkdir agent.sock",
    "umount -l /etc/hosts; umount -l /run/botstead/host; mount -t tmpfs x /data",
];

/// The answer, which comes in time and is no error of the server; a host without room is one of the test's.
async fn answered(what: &str, call: impl Future<Output = Answer>) -> Answer {
    let answer = tokio::time::timeout(BOUND, call).await;
    let Ok(answer) = answer else {
        panic!("{what}: no answer in {BOUND:?}");
    };
    // A bot may end its own computer.
    let ended = what.contains("kill -TERM 1") && answer.body["code"] == "workspace_unreachable";
    assert!(
        answer.status < 500 || ended,
        "{what}: {} {}",
        answer.status,
        answer.body
    );
    answer
}

impl Workspace {
    async fn call(&self, what: &str, method: Method, call: &str, body: Option<Value>) -> Answer {
        let request = self
            .client
            .request(method, &format!("{}{call}", self.path))
            .timeout(BOUND);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        answered(&format!("{what}\n{call}"), self.client.send(request)).await
    }
}

#[tokio::test]
async fn from_any_state_there_is_a_way_to_every_other() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo good > /data/note").await;
    assert_eq!(workspace.snapshot().await, 1);
    for state in STATES {
        let what = *state;
        let call = async |method: Method, path: &str, body: Option<Value>| {
            workspace.call(what, method, path, body).await
        };
        let (get, post) = (Method::GET, Method::POST);
        let line = json!({"command": format!("({what}) >/dev/null 2>&1"), "timeout_seconds": 20});
        call(post.clone(), "/exec", Some(line)).await;
        call(get.clone(), "", None).await;
        call(get.clone(), "/metrics", None).await;
        call(get.clone(), "/fs/list?path=/data", None).await;
        call(get.clone(), "/fs/read?path=/etc/passwd", None).await;
        call(get.clone(), "/fs/search?path=/data&pattern=zzz", None).await;
        let run = json!({"command": ["/bin/true"], "timeout_seconds": 5});
        call(post.clone(), "/exec", Some(run)).await;
        let made = call(post.clone(), "/snapshots", Some(json!({}))).await;
        assert_eq!(made.status, 201, "{what}: {}", made.body);
        let version = made.body["version"].as_u64().unwrap();
        let changes = format!("/snapshots/1/diff/{version}");
        call(get.clone(), &changes, None).await;
        call(post.clone(), "/data/export?format=tar.zst", None).await;
        call(post.clone(), "/stop", None).await;
        let started = call(post.clone(), "/start", None).await;
        if started.status >= 400 {
            let told = call(get.clone(), "", None).await.body["last_error"].to_string();
            assert!(told.len() > 10, "{what}: {told}");
        }
        call(post.clone(), "/data/export?format=tar.gz", None).await;
        let back = call(
            post.clone(),
            "/snapshots/rollback",
            Some(json!({"version": 1})),
        )
        .await;
        assert_eq!(back.status, 200, "{what}: {}", back.body);
        if started.status >= 400 {
            assert_eq!(call(post, "/start", None).await.status, 200, "{what}");
        }
        workspace.reachable().await;
        assert_eq!(workspace.sh("cat /data/note").await, "good", "{what}");
    }
    // The last state as the present one.
    let line = format!("({}) >/dev/null 2>&1; true", STATES[0]);
    workspace.sh(&line).await;
    let path = format!("{}?delete_versions=true", workspace.path);
    let deleted = workspace.client.delete(&path);
    answered("delete", deleted).await.ok();
    server.nothing_left().await;
}

/// An image of busybox with this on top.
fn image(layer: LayerBuilder, config: Option<(&str, Value)>) -> Image {
    let base = busybox(std::path::Path::new("/bin/busybox"), &[Compression::Gzip]).unwrap();
    let mut image = Image::builder();
    for layer in base.layers {
        image = image.layer(layer);
    }
    image = image.layer(layer.build(Compression::Gzip).unwrap());
    if let Some((key, value)) = config {
        image = image.config(key, value);
    }
    image.build()
}

#[tokio::test]
async fn images_that_cannot_start_are_refused_with_the_reason_and_cost_nothing() {
    let server = Server::start().await;
    let layer = LayerBuilder::new;
    let long = format!("LONG={}", "x".repeat(140_000));
    let images = [
        (
            "bare-env",
            image(layer(), Some(("Env", json!(["A=1", "BARE"])))),
            "BARE",
        ),
        (
            "long-env",
            image(layer(), Some(("Env", json!([long])))),
            "LONG",
        ),
        (
            "etc-file",
            image(layer().file("etc", 0o644, "x"), None),
            "/etc",
        ),
        (
            "hosts-dir",
            image(layer().dir("etc/hosts", 0o755), None),
            "/etc/hosts",
        ),
        (
            "resolv-dir",
            image(layer().dir("etc/resolv.conf", 0o755), None),
            "/etc/resolv.conf",
        ),
        (
            "passwd-dir",
            image(layer().dir("etc/passwd", 0o755), None),
            "/etc/passwd",
        ),
        (
            "proc-link",
            image(layer().symlink("proc", "data"), None),
            "/proc",
        ),
        (
            "etc-loop",
            image(layer().symlink("etc", "etc"), None),
            "a link on the way",
        ),
    ];
    let workspace = server.client.running().await;
    workspace.sh("echo kept > /data/note").await;
    for (name, image, named) in images {
        let reference = format!("localhost/test/{name}:1");
        let mut archive = Vec::new();
        oci_archive(&mut archive, &[(Some(&reference), &image)], None).unwrap();
        assert_eq!(server.client.import(archive).await.status, 201, "{name}");
        let other = server.client.workspace(&server.client.bot().await);
        let events = other.create(json!({"image": reference})).await;
        let last = events.last().unwrap();
        let codes = [json!("image_unusable"), json!("cannot_start")];
        assert!(codes.contains(&last["code"]), "{name}: {events:?}");
        let told = last["message"].as_str().unwrap();
        assert!(told.contains(named), "{name}: {told}");
        for path in ["/var/lib", "/tmp/", "/run/bs"] {
            assert!(!told.contains(path), "{name}: {told}");
        }
        other.get().await.refused(404, "workspace_not_found");
        // And as another image of a workspace that runs.
        let call = format!("{}/image", workspace.path);
        let request = workspace.client.request(Method::PUT, &call);
        let request = request.json(&json!({"image": reference}));
        let text = request.send().await.unwrap().text().await.unwrap();
        let code = last["code"].as_str().unwrap();
        assert!(text.contains(code), "{name}: {text}");
        assert_eq!(workspace.sh("cat /data/note").await, "kept", "{name}");
        assert_eq!(workspace.info().await["image"], IMAGE, "{name}");
        workspace.idle(name).await;
    }
}

#[tokio::test]
async fn what_is_refused_ends_nothing_that_runs() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.sh("echo one > /data/note").await;
    assert_eq!(workspace.snapshot().await, 1);
    let path = format!("{}/snapshots", workspace.path);
    let listed = async || workspace.client.get(&path).await.ok()["snapshots"].clone();
    let before = listed().await;
    let detached = json!({"command": "sleep 1000", "detach": true});
    let exec = workspace.exec(detached).await.body["exec_id"].clone();
    let restore = async |body: Value| workspace.post("/snapshots/1/restore-path", body).await;
    restore(json!({"path": "/data/mistyped"}))
        .await
        .refused(404, "path_not_found");
    restore(json!({"path": "/data/note", "target": "/etc/passwd/below"}))
        .await
        .refused(422, "path_in_the_way");
    workspace.sh("mv /data /else; echo file > /data").await;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, "new", &b""[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    workspace
        .import(archive, "merge")
        .await
        .refused(422, "data_not_a_directory");
    let path = format!("{}/exec/{}", workspace.path, exec.as_str().unwrap());
    let found = workspace.client.get(&path).await.ok();
    assert_eq!(found["running"], true, "{found}");
    assert_eq!(listed().await, before);
}

#[tokio::test]
async fn the_user_of_an_image_has_a_home_low_ports_and_shared_memory() {
    let folder = folder("botstead-e2e-");
    let data = folder.path().join("data");
    let server = Server::start_with_workspace(folder, data, "shm_bytes = 33554432\n").await;
    let reference = "localhost/test/user:1";
    let layer = LayerBuilder::new().dir("data", 0o755);
    let user = image(layer, Some(("User", json!("bot"))));
    let mut archive = Vec::new();
    oci_archive(&mut archive, &[(Some(reference), &user)], None).unwrap();
    assert_eq!(server.client.import(archive).await.status, 201);
    let workspace = server.client.workspace(&server.client.bot().await);
    let events = workspace.create(json!({"image": reference})).await;
    assert_eq!(events.last().unwrap()["type"], "complete", "{events:?}");
    assert_eq!(
        workspace.sh("id -u; echo x > /data/x; cat ~/x").await,
        "1000\nx"
    );
    let port = "nc -l -p 80 -e /bin/echo got & sleep 0.2; nc 127.0.0.1 80 </dev/null";
    assert_eq!(workspace.sh(port).await, "got");
    let groups = "cat /proc/sys/net/ipv4/ping_group_range";
    assert_eq!(
        workspace.sh(groups).await.split_whitespace().last(),
        Some("2147483647")
    );
    // Another image with another user has the same home, and can read what is in it.
    workspace.sh("echo mine > /data/mine; chmod 600 /data/mine; mkdir -m 700 /data/d; echo x > /data/d/x").await;
    let other = "localhost/test/user:2";
    let root = image(LayerBuilder::new(), Some(("User", json!("4321"))));
    let mut archive = Vec::new();
    oci_archive(&mut archive, &[(Some(other), &root)], None).unwrap();
    assert_eq!(server.client.import(archive).await.status, 201);
    let request = workspace
        .client
        .request(Method::PUT, &format!("{}/image", workspace.path));
    let request = request.json(&json!({"image": other}));
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\"type\":\"complete\""), "{text}");
    let read = "id -u; cat /data/mine /data/d/x; echo y > /data/y";
    assert_eq!(workspace.sh(read).await, "4321\nmine\nx");
    let size = "df -k /dev/shm | tail -1 | awk '{print $2}'";
    assert_eq!(workspace.sh(size).await, "32768");
}
