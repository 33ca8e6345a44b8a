//! What `/data` can be when it is saved, and archives of preserved data side by side.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use botstead_runtime::ErrorKind;
use botstead_store::{OperationKind, OperationState};
use botstead_types::{BotId, PageRequest, PreservedId};
use botstead_workspace::{
    ArchiveFormat, CreateEvent, CreateRequest, DeleteRequest, ImportMode, PreservedArchive,
};
use common::{IMAGE, OTHER_IMAGE, World, image, request};
use futures_util::StreamExt;

const PRESERVE: DeleteRequest = DeleteRequest {
    preserve_data: true,
    delete_versions: false,
};

impl World {
    /// Makes `/data` a symbolic link, as a program inside would.
    async fn link_data(&self, bot: BotId, target: &str) {
        let key = self.record(bot).await.snapshot;
        self.memory.write_link(&key, "data", target);
    }

    async fn preserved_of(&self, bot: BotId) -> Vec<PreservedArchive> {
        let page = PageRequest::default();
        let found = self.workspaces.preserved(&self.owner, bot, &page).await;
        found.unwrap().items
    }

    /// A workspace whose data was preserved; it holds this.
    async fn preserve(&self, bot: BotId, content: &str) {
        self.create_empty(bot).await;
        self.write(bot, content).await;
        let w = &self.workspaces;
        w.delete(&self.owner, bot, PRESERVE).await.unwrap();
    }

    async fn create_empty(&self, bot: BotId) {
        let without = CreateRequest {
            restore_data: Some(false),
            ..request(IMAGE)
        };
        let events = self.workspaces.create(&self.owner, bot, without).await;
        let events: Vec<_> = events.unwrap().collect().await;
        assert!(matches!(events.last(), Some(CreateEvent::Complete(_))));
    }
}

#[tokio::test]
async fn what_a_link_in_place_of_data_leads_to_is_preserved() {
    let world = World::new().await;
    for target in ["/home/ada", "home/ada", "../../home/ada", "/srv/hop"] {
        let bot = world.running().await;
        world.write_to(bot, "home/ada/file", "mine").await;
        let key = world.record(bot).await.snapshot;
        world.memory.write_link(&key, "srv/hop", "../home/ada");
        world.link_data(bot, target).await;
        let w = &world.workspaces;
        w.delete(&world.owner, bot, PRESERVE).await.unwrap();
        assert_eq!(world.preserved_of(bot).await.len(), 1, "{target}");
        world.create(bot).await;
        assert_eq!(world.read(bot).await.as_deref(), Some("mine"), "{target}");
        world.check_whole().await;
    }
}

#[tokio::test]
async fn a_deletion_that_cannot_preserve_what_stands_at_data_is_refused() {
    let world = World::new().await;
    for target in [
        "/nowhere",
        "/",
        "/etc/file",
        "/data",
        "..",
        "/proc/self/root",
    ] {
        let bot = world.running().await;
        world.write_to(bot, "etc/file", "mine").await;
        world.link_data(bot, target).await;
        let w = &world.workspaces;
        for _ in 0..2 {
            let refused = w.delete(&world.owner, bot, PRESERVE).await.unwrap_err();
            assert_eq!(refused.code(), "data_not_a_directory", "{target}");
        }
        let refused = w.export_data(&world.owner, bot, ArchiveFormat::TarGz).await;
        let refused = refused.err().map(|error| error.code());
        assert_eq!(refused, Some("data_not_a_directory"), "{target}");
        let kept = world.read_from(bot, "etc/file").await;
        assert_eq!(kept.as_deref(), Some("mine"), "{target}");
        assert!(w.get(&world.owner, bot).await.unwrap().task_running);
        world.check_whole().await;
    }
    let bot = world.running().await;
    world.write_to(bot, "data", "a file").await;
    let w = &world.workspaces;
    let refused = w.delete(&world.owner, bot, PRESERVE).await.unwrap_err();
    assert_eq!(refused.code(), "data_not_a_directory");
    assert!(refused.to_string().contains("is not a directory"));
    // Where there is nothing, there is nothing to save.
    let key = world.record(bot).await.snapshot;
    world.memory.remove_file(&key, "data");
    w.delete(&world.owner, bot, PRESERVE).await.unwrap();
    assert_eq!(world.preserved_of(bot).await, []);
}

/// It is told to whoever asked, and nobody else has to do anything about it.
#[tokio::test]
async fn an_import_that_the_workspace_has_no_place_for_is_undone_and_no_fault() {
    let world = World::new().await;
    let other = world.running().await;
    world.write(other, "theirs").await;
    let archive = world.export(other, ArchiveFormat::TarGz).await;
    let bot = world.running().await;
    world.write_to(bot, "etc/file", "mine").await;
    world.link_data(bot, "/etc/file").await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt().with_writer(log.reopen().unwrap());
    let logged = tracing::subscriber::set_default(lines.finish());
    tracing::info!("the log is kept");
    let refused = world.import(bot, &archive, ImportMode::Merge).await;
    drop(logged);
    assert_eq!(refused.unwrap_err().code(), "data_not_a_directory");
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("is kept") && !log.contains("ERROR"), "{log}");
    let kept = world.read_from(bot, "etc/file").await;
    assert_eq!(kept.as_deref(), Some("mine"));
    world.check_whole().await;
}

#[tokio::test]
async fn data_behind_a_link_is_exported_merged_into_and_taken_to_another_image() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write_to(bot, "home/ada/file", "mine").await;
    world.link_data(bot, "/home/ada").await;
    let archive = world.export(bot, ArchiveFormat::TarGz).await;
    let other = world.running().await;
    world
        .import(other, &archive, ImportMode::Replace)
        .await
        .unwrap();
    assert_eq!(world.read(other).await.as_deref(), Some("mine"));

    // An import that merges keeps what is there, wherever that is.
    world.write(other, "theirs").await;
    world.write_to(other, "data/more", "more").await;
    let archive = world.export(other, ArchiveFormat::TarGz).await;
    world.write_to(bot, "home/ada/own", "own").await;
    world
        .import(bot, &archive, ImportMode::Merge)
        .await
        .unwrap();
    for (path, content) in [("file", "theirs"), ("more", "more"), ("own", "own")] {
        let found = world.read_from(bot, &format!("home/ada/{path}")).await;
        assert_eq!(found.as_deref(), Some(content), "{path}");
    }

    let events = world
        .workspaces
        .change_image(&world.owner, bot, image(OTHER_IMAGE))
        .await
        .unwrap();
    let events: Vec<_> = events.collect().await;
    assert!(matches!(events.last(), Some(CreateEvent::Complete(_))));
    assert_eq!(world.read(bot).await.as_deref(), Some("theirs"));
    assert_eq!(
        world.read_from(bot, "data/own").await.as_deref(),
        Some("own")
    );

    // What is replaced makes way; what the link led to stays where it is.
    world.write_to(bot, "home/ada/left", "left").await;
    world.link_data(bot, "/home/ada").await;
    world
        .import(bot, &archive, ImportMode::Replace)
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("theirs"));
    let left = world.read_from(bot, "home/ada/left").await;
    assert_eq!(left.as_deref(), Some("left"));
    world.check_whole().await;
}

#[tokio::test]
async fn archives_are_kept_side_by_side_until_each_is_restored_or_discarded() {
    let world = World::new().await;
    let (bot, w) = (world.bot().await, &world.workspaces);
    for content in ["one", "two", "three"] {
        world.preserve(bot, content).await;
    }
    let kept = world.preserved_of(bot).await;
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|archive| archive.size_bytes > 0));
    assert!(
        kept.is_sorted_by(|one, other| one.id > other.id),
        "newest first"
    );
    let page = PageRequest {
        limit: 2,
        cursor: None,
    };
    let first = w.preserved(&world.owner, bot, &page).await.unwrap();
    let page = PageRequest {
        cursor: first.next_cursor,
        ..page
    };
    let second = w.preserved(&world.owner, bot, &page).await.unwrap();
    assert_eq!([first.items, second.items].concat(), kept);
    assert_eq!(second.next_cursor, None);

    world.create_empty(bot).await;
    w.restore_data(&world.owner, bot, Some(kept[2].id))
        .await
        .unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("one"));
    assert_eq!(world.preserved_of(bot).await, kept[..2]);
    for archive in [kept[2].id, PreservedId::generate()] {
        let gone = w.restore_data(&world.owner, bot, Some(archive)).await;
        assert_eq!(gone.unwrap_err().code(), "no_preserved_data");
        let gone = w.discard_preserved(&world.owner, bot, archive).await;
        assert_eq!(gone.unwrap_err().code(), "no_preserved_data");
    }
    w.restore_data(&world.owner, bot, None).await.unwrap();
    assert_eq!(
        world.read(bot).await.as_deref(),
        Some("three"),
        "the newest"
    );
    assert!(w.get(&world.owner, bot).await.unwrap().has_preserved_data);
    w.discard_preserved(&world.owner, bot, kept[1].id)
        .await
        .unwrap();
    assert_eq!(world.preserved_of(bot).await, []);
    assert!(!w.get(&world.owner, bot).await.unwrap().has_preserved_data);
    world.check_whole().await;
}

#[tokio::test]
async fn a_restore_beside_a_deletion_removes_what_it_brought_back_and_nothing_else() {
    let world = World::new().await;
    let bot = world.bot().await;
    world.preserve(bot, "one").await;
    world.create_empty(bot).await;
    world.write(bot, "two").await;
    let w = &world.workspaces;
    let delete = async {
        // A busy machine may make it wait for longer than it is willing to.
        loop {
            match w.delete(&world.owner, bot, PRESERVE).await {
                Err(error) if error.code() == "busy" => {}
                deleted => break deleted,
            }
        }
    };
    let (restored, deleted) = tokio::join!(w.restore_data(&world.owner, bot, None), delete);
    deleted.unwrap();
    let kept = world.preserved_of(bot).await.len();
    // Both archives, or the one in which the restored data went away again: `two` is in a version then.
    let versions = world.store.versions.list(bot).await.unwrap();
    assert_eq!(kept + versions.len(), 2, "{restored:?}");
    let mut found = Vec::new();
    for version in versions {
        found.push(
            world
                .memory
                .read_file(&version.snapshot, "data/file")
                .unwrap(),
        );
    }
    for archive in world.preserved_of(bot).await {
        world.create_empty(bot).await;
        w.restore_data(&world.owner, bot, Some(archive.id))
            .await
            .unwrap();
        let content = world.read(bot).await.unwrap();
        found.push(content.into());
        w.delete(&world.owner, bot, DeleteRequest::default())
            .await
            .unwrap();
    }
    found.sort();
    assert_eq!(found, ["one", "two"]);
}

#[tokio::test]
async fn an_archive_of_an_earlier_server_is_found_brought_back_and_removed() {
    let world = World::new().await;
    let bot = world.bot().await;
    world.preserve(bot, "old").await;
    let written = world.archives(bot).pop().unwrap();
    let earlier = world.preserved().join(format!("{bot}.tar.zst"));
    std::fs::rename(written, &earlier).unwrap();
    world.preserve(bot, "new").await;
    let kept = world.preserved_of(bot).await;
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[1].id.to_string(), bot.to_string(), "the oldest");
    world.create(bot).await;
    assert_eq!(world.read(bot).await.as_deref(), Some("new"));
    assert!(earlier.exists());
    let w = &world.workspaces;
    w.restore_data(&world.owner, bot, None).await.unwrap();
    assert_eq!(world.read(bot).await.as_deref(), Some("old"));
    assert!(!earlier.exists());
    world.check_whole().await;
}

#[tokio::test]
async fn an_older_journal_removes_no_newer_archive_of_an_earlier_server() {
    for is_newer in [true, false] {
        let mut world = World::new().await;
        let bot = world.bot().await;
        world.preserve(bot, "old").await;
        let written = world.archives(bot).pop().unwrap();
        let earlier = world.preserved().join(format!("{bot}.tar.zst"));
        std::fs::rename(written, &earlier).unwrap();
        let aside = world.preserved().join("aside");
        std::fs::copy(&earlier, &aside).unwrap();
        world.create_empty(bot).await;
        let w = &world.workspaces;
        w.restore_data(&world.owner, bot, None).await.unwrap();
        assert!(!earlier.exists());
        world.settled().await;
        w.close(common::LONG).await;
        // The journal as an earlier server wrote it, in the middle of that; then the same name is used for
        // another archive.
        let operations = &world.store.operations;
        let page = PageRequest::default();
        let listed = operations.list(bot, &page).await.unwrap().items;
        let mut all = listed.into_iter();
        let mut restore = all.find(|one| one.kind == OperationKind::Restore).unwrap();
        let tomorrow = chrono::Utc::now() + chrono::Days::new(1);
        operations.forget_finished(tomorrow).await.unwrap();
        restore.state = OperationState::Running;
        restore.step = "recorded".to_owned();
        restore.input.as_object_mut().unwrap().remove("preserved");
        operations.begin(&restore, false).await.unwrap();
        std::fs::copy(&aside, &earlier).unwrap();
        if !is_newer {
            let file = std::fs::File::open(&earlier).unwrap();
            let before = restore.created_at - chrono::TimeDelta::seconds(1);
            file.set_modified(before.into()).unwrap();
        }
        world.restart().await;
        assert!(operations_are_over(&world).await);
        assert_eq!(earlier.exists(), is_newer);
    }
}

async fn operations_are_over(world: &World) -> bool {
    world
        .store
        .operations
        .unfinished()
        .await
        .unwrap()
        .is_empty()
}

#[tokio::test]
async fn what_a_killed_server_left_of_an_archive_is_thrown_away_and_whole_ones_stay() {
    let mut world = World::new().await;
    let bot = world.bot().await;
    world.preserve(bot, "one").await;
    world.create_empty(bot).await;
    world.write(bot, "two").await;
    let whole = world.archives(bot).pop().unwrap();
    let folder = whole.parent().unwrap();
    let partial = folder.join(format!(".{}.tar.zst.partial", PreservedId::generate()));
    std::fs::write(&partial, "half").unwrap();
    // As an operator puts beside them what is not to be lost.
    let copied = folder.join("copy-of-monday.tar.zst");
    std::fs::write(&copied, "copied").unwrap();
    assert_eq!(world.preserved_of(bot).await.len(), 1);
    // It dies while it begins to save.
    world.memory.stop_answering_after(3);
    let w = &world.workspaces;
    w.delete(&world.owner, bot, PRESERVE).await.unwrap_err();
    world.memory.answer_again();
    world.restart().await;
    let w = &world.workspaces;
    w.delete(&world.owner, bot, PRESERVE).await.unwrap();
    assert!(!partial.exists());
    assert!(copied.exists());
    assert!(whole.exists());
    assert_eq!(world.preserved_of(bot).await.len(), 2);
}

#[tokio::test]
async fn an_archive_of_a_deletion_that_failed_afterwards_is_not_kept() {
    let world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    let w = &world.workspaces;
    // There is no room for the archive.
    world
        .memory
        .fail_next("snapshots.open", ErrorKind::ResourceExhausted, 1);
    let refused = w.delete(&world.owner, bot, PRESERVE).await.unwrap_err();
    assert_eq!(refused.code(), "insufficient_storage");
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert_eq!(world.preserved_of(bot).await, []);
    assert!(w.get(&world.owner, bot).await.unwrap().task_running);
    world.check_whole().await;
}

#[tokio::test]
async fn data_is_not_preserved_on_a_disk_that_is_nearly_full() {
    let mut world = World::new().await;
    let bot = world.running().await;
    world.write(bot, "mine").await;
    world
        .restart_with(|config| config.min_free_bytes = u64::MAX)
        .await;
    let w = &world.workspaces;
    let refused = w.delete(&world.owner, bot, PRESERVE).await.unwrap_err();
    assert_eq!(refused.code(), "insufficient_storage");
    assert_eq!(world.read(bot).await.as_deref(), Some("mine"));
    assert!(w.get(&world.owner, bot).await.unwrap().task_running);
}
