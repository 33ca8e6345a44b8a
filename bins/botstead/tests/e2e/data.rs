//! Data out of a workspace and into one.

use crate::client::{Answer, Workspace};
use crate::server::{IMAGE, Server};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use std::io::Write;

impl Workspace {
    pub(crate) async fn export_as(&self, format: &str) -> Vec<u8> {
        let call = format!("{}/data/export?format={format}", self.path);
        let answer = self.client.request(Method::POST, &call).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().to_vec()
    }

    pub(crate) async fn import(&self, archive: Vec<u8>, mode: &str) -> Answer {
        self.import_with(archive, &format!("mode={mode}")).await
    }

    /// With this query.
    async fn import_with(&self, archive: Vec<u8>, query: &str) -> Answer {
        let call = format!("{}/data/import?{query}", self.path);
        let form = Form::new().part("file", Part::bytes(archive).file_name("data.tar"));
        let request = self.client.request(Method::POST, &call).multipart(form);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        Answer {
            status,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    /// Everything below `/data`: names, modes, owners, times, targets and contents.
    async fn picture(&self) -> String {
        self.sh(
            "cd /data && find . -mindepth 1 | sort | while IFS= read -r f; do stat -c '%n %f %u:%g %Y' \"$f\"; \
             done; find . -type f | sort | while IFS= read -r f; do stat -c %h \"$f\"; md5sum \"$f\"; done; \
             find . -type l | sort | while IFS= read -r f; do readlink \"$f\"; done",
        )
        .await
    }

    async fn furnish(&self) {
        self.sh(
            "cd /data; mkdir -p d/e empty; echo one > d/e/one; ln d/e/one hard; ln -s ../outside d/link; \
             chmod 4750 d/e/one; chown 12:34 d; busybox truncate -s 5M sparse; echo end >> sparse; \
             printf x > \"$(printf 'bad\\377name')\"; busybox touch -d '2001-02-03 04:05:06' d/e/one",
        )
        .await;
    }
}

#[tokio::test]
async fn data_goes_out_and_comes_in_again() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.furnish().await;
    workspace.detached(json!(["sleep", "1000"])).await;
    let picture = workspace.picture().await;
    for format in ["tar.gz", "tar.zst"] {
        let before = server.leftovers();
        let archive = workspace.export_as(format).await;
        // It ran on, and nothing of the export is left.
        assert_eq!(workspace.sh("ps | grep -c '[s]leep 1000'").await, "1");
        server.becomes(&before).await;
        let other = server.client.running().await;
        other
            .sh("echo kept > /data/kept; echo old > /data/hard")
            .await;
        let answer = other.import(archive.clone(), "merge").await.ok();
        assert_eq!(answer["imported"], true, "{answer}");
        other.reachable().await;
        assert_eq!(other.sh("cat /data/kept; rm /data/kept").await, "kept");
        assert_eq!(other.picture().await, picture, "{format}");
        other.sh("echo extra > /data/extra").await;
        let safety = other.import(archive, "replace").await.ok();
        assert_eq!(other.picture().await, picture, "{format}");
        other
            .rollback(safety["safety_version"].as_u64().unwrap())
            .await;
        assert_eq!(other.sh("cat /data/extra").await, "extra");
    }
}

#[tokio::test]
async fn preserved_data_comes_back_in_the_next_workspace() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.furnish().await;
    let picture = workspace.picture().await;
    let delete = format!("{}?preserve_data=true", workspace.path);
    assert_eq!(workspace.client.delete(&delete).await.status, 204);
    workspace
        .client
        .delete(&delete)
        .await
        .refused(404, "workspace_not_found");
    server.nothing_left().await;

    // Not when it is not wanted; it stays then.
    let events = workspace
        .create(json!({"image": IMAGE, "restore_data": false}))
        .await;
    let made = &events.last().unwrap()["container"];
    assert_eq!(
        (&made["data_restored"], &made["has_preserved_data"]),
        (&json!(false), &json!(true)),
        "{events:?}"
    );
    assert_eq!(workspace.sh("ls /data").await, "");
    assert_eq!(workspace.client.delete(&workspace.path).await.status, 204);

    let events = workspace.create(json!({"image": IMAGE})).await;
    assert!(
        events.iter().any(|event| event["type"] == "restoring"),
        "{events:?}"
    );
    let made = &events.last().unwrap()["container"];
    assert_eq!(
        (&made["data_restored"], &made["has_preserved_data"]),
        (&json!(true), &json!(false)),
        "{events:?}"
    );
    assert_eq!(workspace.picture().await, picture);

    // By a call of its own, into a workspace that has other data.
    assert_eq!(workspace.client.delete(&delete).await.status, 204);
    workspace
        .create(json!({"image": IMAGE, "restore_data": false}))
        .await;
    workspace.sh("echo other > /data/other").await;
    assert_eq!(
        workspace.post("/data/restore", json!({})).await.ok(),
        json!({"restored": true})
    );
    workspace.reachable().await;
    assert_eq!(workspace.picture().await, picture);
    workspace
        .post("/data/restore", json!({}))
        .await
        .refused(404, "no_preserved_data");
}

#[tokio::test]
async fn data_behind_a_link_is_preserved_and_archives_are_kept_side_by_side() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let delete = format!("{}?preserve_data=true", workspace.path);
    workspace
        .sh("cd /; mkdir -p /home; mv /data /home/ada; ln -s ../home/ada /data; echo one > /data/note")
        .await;
    assert_eq!(workspace.client.delete(&delete).await.status, 204);
    let without = json!({"image": IMAGE, "restore_data": false});
    workspace.create(without.clone()).await;
    workspace.sh("echo two > /data/note").await;
    workspace
        .sh("cd /; mv /data /home; ln -s nowhere /data")
        .await;
    workspace
        .client
        .delete(&delete)
        .await
        .refused(422, "data_not_a_directory");
    workspace.reachable().await;
    // Commands begin in `/data`, which leads nowhere.
    let back = json!({"command": "rm /data; mv /home/data /data", "cwd": "/"});
    assert_eq!(workspace.exec(back).await.ok()["exit_code"], 0);
    assert_eq!(workspace.client.delete(&delete).await.status, 204);

    let list = format!("{}/preserved", workspace.path);
    let kept = workspace.client.get(&list).await.ok();
    let ids: Vec<_> = kept["items"].as_array().unwrap().iter().collect();
    assert_eq!(ids.len(), 2, "{kept}");
    workspace.create(without).await;
    let oldest = json!({"id": ids[1]["id"]});
    workspace.post("/data/restore", oldest).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/note").await, "one");
    workspace.post("/data/restore", json!({})).await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("cat /data/note").await, "two");
}

#[tokio::test]
async fn a_workspace_gets_another_image_and_keeps_its_data() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.furnish().await;
    workspace.sh("echo gone > /etc/gone").await;
    let picture = workspace.picture().await;
    let other = "localhost/test/other:latest";
    let image = botstead_image_fixtures::busybox(
        std::path::Path::new("/bin/busybox"),
        &[botstead_image_fixtures::Compression::Gzip],
    )
    .unwrap();
    let mut archive = Vec::new();
    botstead_image_fixtures::oci_archive(&mut archive, &[(Some(other), &image)], None).unwrap();
    assert_eq!(server.client.import(archive).await.status, 201);
    let call = format!("{}/image", workspace.path);
    let request = workspace.client.request(Method::PUT, &call);
    let text = request
        .json(&json!({"image": other}))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains("\"type\":\"complete\""), "{text}");
    workspace.reachable().await;
    let info = workspace.info().await;
    assert_eq!(info["image"], other);
    assert_eq!(workspace.picture().await, picture);
    assert_eq!(
        workspace.sh("ls /etc/gone 2>/dev/null || echo none").await,
        "none"
    );
    // Back across the change: image and files.
    workspace.rollback(1).await;
    assert_eq!(workspace.info().await["image"], IMAGE);
    assert_eq!(workspace.sh("cat /etc/gone").await, "gone");
    assert_eq!(workspace.picture().await, picture);
}

/// A tar of these headers as they are, valid or not.
fn tar_of(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, target, data) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A tar of a file with this record in its extended header.
fn tar_with(key: &str, value: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([(key, value)]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "marked", &b""[..])
        .unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("gzip")
        .arg("-9")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut into = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || into.write_all(&bytes).unwrap());
    let packed = child.wait_with_output().unwrap();
    writer.join().unwrap();
    packed.stdout
}

#[tokio::test]
async fn a_bad_archive_changes_nothing() {
    use tar::EntryType as Kind;
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace.furnish().await;
    workspace.detached(json!(["sleep", "1000"])).await;
    let picture = workspace.picture().await;
    let good: (&str, Kind, &str, &[u8]) = ("data/fine", Kind::Regular, "", b"fine");
    for (what, entry) in [
        (
            "dots",
            vec![("data/../../evil", Kind::Regular, "", &b"x"[..])],
        ),
        (
            "absolute",
            vec![("/etc/evil", Kind::Regular, "", &b"x"[..])],
        ),
        (
            "beneath a link",
            vec![
                ("data/l", Kind::Symlink, "/etc", &b""[..]),
                ("data/l/evil", Kind::Regular, "", &b"x"[..]),
            ],
        ),
        ("a device", vec![("data/sda", Kind::Block, "", &b""[..])]),
        (
            "a hard link out",
            vec![("data/h", Kind::Link, "/etc/shadow", &b""[..])],
        ),
    ] {
        let mut entries = vec![good];
        entries.extend(entry);
        let answer = workspace.import(tar_of(&entries), "replace").await;
        let detail = answer.body["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let name = entries
            .last()
            .unwrap()
            .0
            .trim_start_matches("data/")
            .trim_start_matches('/');
        assert_eq!(answer.status, 422, "{what}: {answer:?}");
        answer.refused(422, "archive_refused");
        assert!(
            detail.contains(name.rsplit('/').next().unwrap()),
            "{what}: {detail}"
        );
        assert_eq!(workspace.picture().await, picture, "{what}");
    }
    // More than any disk here has room for.
    let mut bomb = tar::Header::new_ustar();
    bomb.set_path("data/bomb").unwrap();
    bomb.set_size(1 << 50);
    bomb.set_cksum();
    workspace
        .import(gzip(bomb.as_bytes()), "replace")
        .await
        .refused(507, "insufficient_storage");
    // What the kernel or the disk does not take is said before anything is touched.
    let value = "7".repeat(60_000);
    for (key, value) in [
        ("SCHILY.xattr.user.large", value.as_bytes()),
        ("SCHILY.xattr.security.capability", b"what"),
        (
            "SCHILY.xattr.system.posix_acl_access",
            b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff",
        ),
    ] {
        let answer = workspace.import(tar_with(key, value), "merge").await;
        let detail = answer.body["detail"].to_string();
        answer.refused(422, "archive_refused");
        assert!(
            detail.contains("entry 1 ") && detail.contains("marked"),
            "{detail}"
        );
        assert_eq!(workspace.picture().await, picture, "{key}");
    }
    // What leads through a link of the workspace's own is refused before it is stopped, too.
    workspace.sh("ln -s /etc /data/out").await;
    let versions = format!("{}/snapshots/tree", workspace.path);
    let before = workspace.client.get(&versions).await.ok()["versions"].clone();
    for entry in ["data/out/evil", "out/evil"] {
        let through = tar_of(&[
            ("data/", Kind::Directory, "", b""),
            (entry, Kind::Regular, "", b"x"),
        ]);
        let answer = workspace.import(through, "merge").await;
        answer.refused(422, "archive_refused");
    }
    let after = workspace.client.get(&versions).await.ok()["versions"].clone();
    assert_eq!(after, before);
    workspace.sh("rm /data/out; ! test -e /etc/evil").await;
    // Every cut of a good one.
    let mut random = vec![0_u8; 300 << 10];
    let mut state = 1_u32;
    for byte in &mut random {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let folder: (&str, Kind, &str, &[u8]) = ("data/", Kind::Directory, "", b"");
    let whole = gzip(&tar_of(&[
        folder,
        ("data/random", Kind::Regular, "", &random),
    ]));
    let mut cuts = 0;
    for cut in (0..whole.len()).step_by(64 << 10) {
        let answer = workspace.import(whole[..cut].to_vec(), "replace").await;
        assert_eq!(answer.status, 422, "cut at {cut}: {answer:?}");
        cuts += 1;
    }
    assert!(cuts >= 4);
    assert_eq!(workspace.picture().await, picture);
    // Nothing was even stopped.
    assert_eq!(workspace.sh("ps | grep -c '[s]leep 1000'").await, "1");
    workspace.import(whole, "replace").await.ok();
    workspace.reachable().await;
    assert_eq!(workspace.sh("ls /data").await, "random");
}

#[tokio::test]
async fn what_a_workspace_exports_it_imports_again() {
    let server = Server::start().await;
    let workspace = server.client.running().await;
    workspace
        .sh(
            "cd /data; dd if=/dev/zero of=zeros bs=1M count=310 2>/dev/null; \
             busybox fallocate -l 64M given; busybox truncate -s 2T sparse; printf end >> sparse",
        )
        .await;
    let sizes = "cd /data; stat -c '%n %s' given sparse zeros; tail -c 3 sparse; \
                 test $(du -k sparse | cut -f1) -lt 1000 && echo small";
    let expected = workspace.sh(sizes).await;
    assert!(expected.ends_with("endsmall"), "{expected}");
    for format in ["tar.zst", "tar.gz"] {
        let archive = workspace.export_as(format).await;
        assert!(archive.len() < 1 << 20, "{}", archive.len());
        let other = server.client.running().await;
        let answer = other.import(archive, "replace").await.ok();
        assert_eq!(answer["imported"], true, "{answer}");
        other.reachable().await;
        assert_eq!(other.sh(sizes).await, expected, "{format}");
        // What was given without anything in it takes no room again.
        assert_eq!(other.sh("du -k /data/given | cut -f1").await, "0");
    }
}

#[tokio::test]
async fn an_import_gives_everything_to_whom_it_shall_belong() {
    use tar::EntryType::{Directory, Regular};
    let server = Server::start().await;
    let workspace = server.client.running().await;
    let archive = tar_of(&[
        ("implied/inner/file", Regular, "", b"x"),
        ("own", Directory, "", b""),
    ]);
    let owners = "cd /data; stat -c '%n %u:%g' implied implied/inner implied/inner/file own";
    let all = |owner: &str| {
        format!("implied {owner}\nimplied/inner {owner}\nimplied/inner/file {owner}\nown {owner}")
    };
    for (query, expected) in [
        ("mode=replace&as_user=bot", "1000:1000"),
        ("mode=replace&as_user=7:8", "7:8"),
        ("mode=replace&as_user=7", "7:0"),
        // Of the workspace itself: root in this image.
        ("mode=replace&as_user=", "0:0"),
        ("mode=replace&as_user=bot:root", "1000:0"),
        ("mode=replace", "0:0"),
    ] {
        workspace.import_with(archive.clone(), query).await.ok();
        workspace.reachable().await;
        assert_eq!(workspace.sh(owners).await, all(expected), "{query}");
    }
    workspace.detached(json!(["sleep", "1000"])).await;
    let refused = workspace
        .import_with(archive.clone(), "as_user=nobody")
        .await;
    refused.refused(422, "no_such_user");
    // Nothing was even stopped.
    assert_eq!(workspace.sh("ps | grep -c '[s]leep 1000'").await, "1");

    // Where the image has a user of its own, what the archive only implies is that user's.
    let binary = std::path::Path::new("/bin/busybox");
    let image = botstead_image_fixtures::busybox_builder(binary, &[]).unwrap();
    let image = image.config("User", json!("bot")).build();
    let reference = "localhost/test/users:latest";
    let mut bytes = Vec::new();
    botstead_image_fixtures::oci_archive(&mut bytes, &[(Some(reference), &image)], None).unwrap();
    assert_eq!(server.client.import(bytes).await.status, 201);
    let other = server.client.workspace(&server.client.bot().await);
    other.create(json!({"image": reference})).await;
    other.import_with(archive, "mode=replace").await.ok();
    other.reachable().await;
    assert_eq!(
        other.sh(owners).await,
        "implied 1000:1000\nimplied/inner 1000:1000\nimplied/inner/file 0:0\nown 0:0"
    );
}
