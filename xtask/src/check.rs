//! `cargo xtask up --check`: the main job against the running server, over HTTP, as a user would do
//! it. Everything that it makes, it removes again, also when a step fails.

mod registry;

use crate::api::{Api, Reply, escaped};
use crate::apt::{self, Need, need};
use crate::up::{self, admin::Temporary, layout::Place};
use anyhow::{Context, Result, bail, ensure};
use registry::Registry;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Instant;

/// What the check needs besides a running server: a registry, what pushes to it, and what is pushed.
const NEEDS: &[Need] = &[
    need("docker-registry", "docker-registry"),
    need("skopeo", "skopeo"),
    need("busybox-static", "busybox"),
];

/// What is written and read in the workspace.
const FILE: &str = "/data/check";

/// Runs the check, as the given admin or as one that is made for it.
pub(crate) fn run(place: &Place, password: Option<&str>) -> Result<()> {
    apt::ensure(NEEDS)?;
    let url = up::running_url(place)?;
    let address = place.read_config()?.registry()?;
    println!("\nChecking the main job at {url}");
    let began = Instant::now();
    let outcome = match password {
        Some(password) => {
            let api = timed("sign in", || {
                Api::new(&url).login(up::admin::FIRST, password)
            })?;
            with_registry(&api, address)
        }
        None => {
            let admin = timed("sign in as an admin made for this check", || {
                Temporary::create(place, &url)
            })?;
            with_registry(&admin.api, address)
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => println!("check passed in {seconds:.1} s, nothing left behind"),
        Err(_) => println!("check FAILED after {seconds:.1} s"),
    }
    outcome
}

/// Runs one step and prints its time.
fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let result = work();
    let mark = if result.is_ok() { "ok  " } else { "FAIL" };
    println!(
        "  {mark} {:>8.1} ms  {name}",
        began.elapsed().as_secs_f64() * 1e3
    );
    result.with_context(|| format!("check \"{name}\" failed"))
}

fn with_registry(api: &Api, address: SocketAddr) -> Result<()> {
    let registry = timed("start a registry", || Registry::start(address))?;
    let image = timed("push an image to it", || registry.push_busybox())?;
    let bot = timed("create a bot", || {
        let name = format!("xtask-check-{}", std::process::id());
        let bot = api.post("/bots", &json!({"name": name}))?.expect(201)?;
        text(&bot, "id")
    })?;
    let outcome = Workspace {
        api,
        path: format!("/bots/{bot}/container"),
    }
    .main_job(&image);
    // Whatever happened, and in this order: an image in use stays.
    let bot_gone = timed("delete the bot", || {
        api.delete(&format!("/bots/{bot}"))?.expect(204)?;
        api.get(&format!("/bots/{bot}"))?.expect(404)
    });
    let image_gone = timed("delete the image", || {
        api.delete(&format!("/images/{}", escaped(&image)))?
            .expect_any(&[200, 204])?;
        let images = api.get("/images")?.expect(200)?.to_string();
        ensure!(!images.contains(&image), "the image is still listed");
        Ok(())
    });
    outcome.and(bot_gone.map(drop)).and(image_gone)
}

/// One bot's container.
struct Workspace<'a> {
    api: &'a Api,
    path: String,
}

impl Workspace<'_> {
    fn main_job(&self, image: &str) -> Result<()> {
        timed("create, with progress of the pull", || self.create(image))?;
        timed("look at it", || self.expect_running(true))?;
        timed("read its metrics", || self.metrics())?;
        timed("write a file", || self.write("one"))?;
        timed("read it by a command", || self.expect_printed("one"))?;
        timed("ask for a terminal", || self.terminal())?;
        let first = timed("snapshot", || self.snapshot("first"))?;
        timed("change the file", || self.write("two"))?;
        let second = timed("snapshot again", || self.snapshot("second"))?;
        ensure!(second > first, "version {second} came after {first}");
        timed("list the snapshots", || self.list(&[first, second]))?;
        timed("roll back", || self.rollback(first))?;
        timed("read the old content", || self.expect_content("one"))?;
        timed("roll forward", || self.rollback(second))?;
        timed("read the new content", || self.expect_content("two"))?;
        timed("stop", || {
            self.post("/stop", &json!({}))?.expect(200)?;
            self.expect_running(false)
        })?;
        timed("start", || {
            self.post("/start", &json!({}))?.expect(200)?;
            self.expect_running(true)
        })?;
        timed("read the content after the restart", || {
            self.expect_content("two")
        })?;
        timed("delete", || {
            self.api.delete(&self.path)?.expect(204)?;
            self.api.get(&self.path)?.expect(404).map(drop)
        })
    }

    fn post(&self, what: &str, body: &Value) -> Result<Reply> {
        self.api.post(&format!("{}{what}", self.path), body)
    }

    fn create(&self, image: &str) -> Result<()> {
        let mut events = Vec::new();
        let body = json!({"image": image});
        let refusal = self
            .api
            .stream(&self.path, &body, |event| events.push(event.clone()))?;
        if let Some(reply) = refusal {
            bail!(
                "answered {} instead of a stream: {}",
                reply.status,
                reply.body
            );
        }
        judge_events(&events)
    }

    fn expect_running(&self, running: bool) -> Result<()> {
        let container = self.api.get(&self.path)?.expect(200)?;
        ensure!(
            container["task_running"] == running,
            "task_running is not {running}: {container}"
        );
        let status = if running { "running" } else { "stopped" };
        ensure!(container["status"] == status, "not {status}: {container}");
        Ok(())
    }

    fn metrics(&self) -> Result<()> {
        let answer = self
            .api
            .get(&format!("{}/metrics", self.path))?
            .expect(200)?;
        ensure!(
            answer["status"]["task_running"] == true,
            "no running task: {answer}"
        );
        let memory = answer["metrics"]["memory"]["usage_bytes"].as_u64();
        ensure!(memory > Some(0), "no memory in use: {answer}");
        Ok(())
    }

    fn write(&self, content: &str) -> Result<()> {
        let body = json!({"path": FILE, "content": content});
        self.post("/fs/write", &body)?.expect(200).map(drop)
    }

    fn expect_content(&self, content: &str) -> Result<()> {
        let call = format!("{}/fs/read?path={FILE}", self.path);
        let found = text(&self.api.get(&call)?.expect(200)?, "content")?;
        ensure!(
            found == content,
            "the file holds {found:?}, not {content:?}"
        );
        Ok(())
    }

    fn expect_printed(&self, content: &str) -> Result<()> {
        let body = json!({"command": ["cat", FILE]});
        let answer = self.post("/exec", &body)?.expect(200)?;
        ensure!(
            answer["exit_code"] == 0 && answer["stdout"] == content,
            "the command answered {answer}"
        );
        Ok(())
    }

    fn terminal(&self) -> Result<()> {
        let call = format!("{}/terminal", self.path);
        let answer = self.api.get(&call)?.expect(200)?;
        ensure!(answer["available"] == true, "there is none: {answer}");
        Ok(())
    }

    fn snapshot(&self, name: &str) -> Result<u64> {
        let answer = self
            .post("/snapshots", &json!({"snapshot_name": name}))?
            .expect_any(&[200, 201])?;
        answer["version"]
            .as_u64()
            .with_context(|| format!("no version in {answer}"))
    }

    fn list(&self, versions: &[u64]) -> Result<()> {
        let answer = self
            .api
            .get(&format!("{}/snapshots", self.path))?
            .expect(200)?;
        let listed = answer["snapshots"].as_array().context("no list")?;
        for version in versions {
            ensure!(
                listed
                    .iter()
                    .any(|snapshot| snapshot["version"] == *version),
                "version {version} is not listed: {answer}"
            );
        }
        Ok(())
    }

    fn rollback(&self, version: u64) -> Result<()> {
        let answer = self
            .post("/snapshots/rollback", &json!({"version": version}))?
            .expect(200)?;
        ensure!(
            answer["rolled_back_to"] == version,
            "went elsewhere: {answer}"
        );
        Ok(())
    }
}

/// The create stream as the contract has it: `pulling` first, progress of an image that had to be
/// pulled, `creating`, and `complete` last.
fn judge_events(events: &[Value]) -> Result<()> {
    let kinds: Vec<_> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    let last = events.last().context("the stream was empty")?;
    ensure!(
        kinds.last() == Some(&"complete"),
        "the creation failed: {last}"
    );
    ensure!(
        kinds.first() == Some(&"pulling"),
        "no `pulling` first: {kinds:?}"
    );
    for kind in ["pull_progress", "creating"] {
        ensure!(kinds.contains(&kind), "no `{kind}`: {kinds:?}");
    }
    ensure!(last["container"]["started"] == true, "not started: {last}");
    Ok(())
}

fn text(object: &Value, key: &str) -> Result<String> {
    let value = object[key].as_str();
    Ok(value
        .with_context(|| format!("no text {key:?} in {object}"))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str) -> Value {
        json!({"type": kind})
    }

    #[test]
    fn a_stream_is_judged_by_its_order_and_end() {
        let complete = json!({"type": "complete", "container": {"started": true}});
        let good = [
            event("pulling"),
            event("pull_progress"),
            event("creating"),
            complete.clone(),
        ];
        judge_events(&good).unwrap();
        let failed = json!({"type": "error", "message": "no such image"});
        for bad in [
            &[][..],
            &good[..3],
            &good[1..],
            &[event("pulling"), event("creating"), complete],
            &[event("pulling"), failed],
        ] {
            assert!(judge_events(bad).is_err(), "{bad:?}");
        }
    }
}
