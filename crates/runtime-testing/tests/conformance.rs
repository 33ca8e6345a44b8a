//! The in-memory runtime keeps every promise of the ports, also when garbage is collected at
//! every moment.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use async_trait::async_trait;
use botstead_runtime::{ErrorKind, Runtime};
use botstead_runtime_testing::conformance::{Fixture, ImageFixture, Program};
use botstead_runtime_testing::memory::programs;
use botstead_runtime_testing::{ImageContent, InMemoryRuntime, PullScript, conformance_tests};
use botstead_types::{ImageRef, ResolvedImage, SnapshotKey};
use std::time::Duration;

struct Memory {
    memory: InMemoryRuntime,
    image: ResolvedImage,
    base: SnapshotKey,
}

impl Memory {
    async fn new() -> Self {
        Self::on(InMemoryRuntime::new())
    }

    /// One that can do little.
    async fn limited() -> Self {
        Self::on(InMemoryRuntime::limited(|capabilities| {
            capabilities.live_copies = false;
            capabilities.files = false;
        }))
    }

    fn on(memory: InMemoryRuntime) -> Self {
        let content = ImageContent::of_files([("/etc/os-release", "NAME=memory")])
            .with_layer([("/etc/hostname", "memory")]);
        let image = memory.add_image(&reference("localhost/base:1"), content);
        let top = memory.snapshots().into_iter().find(|s| s.parent.is_some());
        memory.add_remote_image(
            &reference("localhost/present:1"),
            ImageContent::of_files([("/one", "1")]).with_layer([("/two", "2")]),
            PullScript {
                steps: 3,
                step_time: Duration::from_millis(1),
                ..PullScript::default()
            },
        );
        memory.add_remote_image(
            &reference("localhost/unreachable:1"),
            ImageContent::default(),
            PullScript {
                fails_after: Some((0, ErrorKind::Unavailable)),
                ..PullScript::default()
            },
        );
        Self {
            memory,
            image,
            base: top.unwrap().key,
        }
    }

    async fn collecting() -> Self {
        let fixture = Self::new().await;
        fixture.memory.collect_always(true);
        fixture
    }
}

fn reference(text: &str) -> ImageRef {
    text.parse().unwrap()
}

#[async_trait]
impl Fixture for Memory {
    fn runtime(&self) -> Runtime {
        self.memory.runtime()
    }

    fn image(&self) -> ResolvedImage {
        self.image.clone()
    }

    fn base(&self) -> SnapshotKey {
        self.base.clone()
    }

    async fn put_file(&self, key: &SnapshotKey, path: &str, content: &[u8]) {
        self.memory.write_file(key, path, content.to_vec());
    }

    async fn read_file(&self, key: &SnapshotKey, path: &str) -> Option<Vec<u8>> {
        self.memory.read_file(key, path).map(Vec::from)
    }

    fn program(&self, program: Program) -> Vec<String> {
        match program {
            Program::Forever => vec!["/memory/forever".to_owned()],
            Program::Stubborn => vec![programs::STUBBORN.to_owned()],
            Program::Exit(code) => vec![programs::EXIT.to_owned(), code.to_string()],
            Program::Missing => vec![programs::MISSING.to_owned()],
        }
    }

    fn images(&self) -> Option<ImageFixture> {
        Some(ImageFixture {
            present: reference("localhost/present:1"),
            absent: reference("localhost/absent:1"),
            unreachable: reference("localhost/unreachable:1"),
        })
    }

    async fn clean_up(&self) {
        // The suite itself removed everything it made, on a passing test: nothing is left here.
        if !std::thread::panicking() {
            assert_eq!(self.memory.containers(), []);
            assert_eq!(self.memory.tasks(), []);
            assert_eq!(self.memory.leases(), []);
            assert_eq!(self.memory.namespaces(), []);
            let kept = self.memory.snapshots();
            let ours = |s: &&botstead_runtime::Snapshot| !s.key.as_str().starts_with("sha256:");
            assert_eq!(kept.iter().find(ours), None);
        }
    }
}

conformance_tests!(Memory::new);

mod while_garbage_is_collected {
    use super::*;

    conformance_tests!(Memory::collecting);
}

mod without_copies_and_files {
    use super::*;

    conformance_tests!(Memory::limited; copies, trees);
}

/// A promise that the macro does not name would never be tested.
#[test]
fn the_macro_names_every_promise() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/conformance");
    let macros = std::fs::read_to_string(format!("{folder}/macros.rs")).unwrap();
    let mut promises = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in source.lines() {
            let name = line
                .strip_prefix("pub async fn ")
                .and_then(|rest| rest.strip_suffix("(cx: Context) {"));
            if let Some(name) = name {
                promises += 1;
                let listed = macros.lines().any(|l| l.trim() == format!("{name},"));
                assert!(listed, "{name} is not in the macro");
            }
        }
    }
    assert!(promises > 60, "only {promises} promises were found");
}
