//! Replacements whose way back was interrupted itself.

use crate::common::{IMAGE, OTHER_IMAGE, World, image};
use crate::{ended, with_archive};
use botstead_runtime::ErrorKind;
use botstead_store::{OperationKind, OperationState};
use botstead_workspace::CreateEvent;
use futures_util::StreamExt;

#[tokio::test]
async fn a_restore_whose_way_back_was_interrupted_keeps_its_archive() {
    for restarted in [false, true] {
        let mut world = World::new().await;
        let bot = with_archive(&world).await;
        let (memory, w) = (&world.memory, &world.workspaces);
        memory.fail_next("snapshots.open", ErrorKind::ResourceExhausted, 1);
        memory.lose_answer_next("containers.switch", ErrorKind::Unavailable, 1);
        w.restore_data(&world.owner, bot, None).await.unwrap_err();
        match restarted {
            true => world.restart().await,
            false => w.stop(&world.owner, bot).await.unwrap(),
        }
        assert_eq!(world.archives(bot).len(), 1, "{restarted}");
        let restored = ended(&world, bot, OperationKind::Restore).await;
        assert_eq!(restored.state, OperationState::Failed, "{restarted}");
        assert_eq!(world.read(bot).await.as_deref(), Some("present"));
        world.check_whole().await;
    }
}

#[tokio::test]
async fn a_change_of_image_whose_way_back_was_interrupted_records_the_image_before() {
    for restarted in [false, true] {
        let mut world = World::new().await;
        let bot = world.running().await;
        world.write(bot, "present").await;
        let (memory, w) = (&world.memory, &world.workspaces);
        memory.fail_next("snapshots.open", ErrorKind::ResourceExhausted, 1);
        memory.lose_answer_next("containers.switch", ErrorKind::Unavailable, 1);
        let changed = w.change_image(&world.owner, bot, image(OTHER_IMAGE)).await;
        let events: Vec<_> = changed.unwrap().collect().await;
        assert!(matches!(events.last(), Some(CreateEvent::Failed(_))));
        match restarted {
            true => world.restart().await,
            false => w.stop(&world.owner, bot).await.unwrap(),
        }
        assert_eq!(world.record(bot).await.image.reference, image(IMAGE));
        let changed = ended(&world, bot, OperationKind::ChangeImage).await;
        assert_eq!(changed.state, OperationState::Failed, "{restarted}");
        assert_eq!(world.read(bot).await.as_deref(), Some("present"));
        world.check_whole().await;
    }
}
