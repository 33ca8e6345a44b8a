//! Promises of [`crate::Users`].

use super::samples::{add_bot_of, add_user, at, user};
use super::{Fixture, STRANGE_CURSORS, assert_kind, request, walk};
use crate::{ErrorKind, UserPatch};
use botstead_types::{Role, UserId};
use std::collections::HashSet;

/// What was written is what is read, to the microsecond.
pub async fn an_account_reads_back(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut written = user("Ann");
    written.display_name = None;
    written.role = Role::Member;
    written.is_active = false;
    store.users.create(&written).await.unwrap();
    assert_eq!(store.users.get(written.id).await.unwrap(), written);
}

/// Neither an id nor a name is used twice.
pub async fn names_are_unique_without_regard_to_case(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let ann = add_user(&store, "Ann").await;
    assert_kind(
        store.users.create(&user("aNN")).await,
        ErrorKind::AlreadyExists,
    );
    let mut other = user("bert");
    other.id = ann.id;
    assert_kind(store.users.create(&other).await, ErrorKind::AlreadyExists);
    assert_eq!(store.users.get(ann.id).await.unwrap(), ann);
}

/// The name keeps its spelling and is found by any.
pub async fn an_account_is_found_by_its_name_in_any_case(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let ann = add_user(&store, "Ann").await;
    for name in ["Ann", "ann", "ANN"] {
        assert_eq!(store.users.by_username(name).await.unwrap(), ann);
    }
    for name in ["", "an", "ann ", "%", "A_n"] {
        assert_kind(store.users.by_username(name).await, ErrorKind::NotFound);
    }
}

/// `NotFound` from everything that names an account.
pub async fn what_is_missing_is_not_found(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let id = UserId::generate();
    assert_kind(store.users.get(id).await, ErrorKind::NotFound);
    assert_kind(
        store.users.update(id, &UserPatch::default()).await,
        ErrorKind::NotFound,
    );
    assert_kind(store.users.delete(id).await, ErrorKind::NotFound);
}

/// A patch touches the fields that it names and no other.
pub async fn updates_are_partial(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    add_user(&store, "admin").await;
    let mut expected = add_user(&store, "ann").await;
    let patches = [
        UserPatch {
            display_name: Some(None),
            ..UserPatch::default()
        },
        UserPatch {
            role: Some(Role::Member),
            ..UserPatch::default()
        },
        UserPatch {
            is_active: Some(false),
            ..UserPatch::default()
        },
        UserPatch {
            password_hash: Some("$new".to_owned()),
            ..UserPatch::default()
        },
        UserPatch::default(),
    ];
    for patch in patches {
        let before = expected.updated_at;
        let returned = store.users.update(expected.id, &patch).await.unwrap();
        if let Some(name) = &patch.display_name {
            expected.display_name.clone_from(name);
        }
        expected.role = patch.role.unwrap_or(expected.role);
        expected.is_active = patch.is_active.unwrap_or(expected.is_active);
        if let Some(hash) = &patch.password_hash {
            expected.password_hash.clone_from(hash);
        }
        assert!(returned.updated_at >= before, "the change was not noted");
        expected.updated_at = returned.updated_at;
        assert_eq!(returned, expected);
        assert_eq!(store.users.get(expected.id).await.unwrap(), expected);
    }
}

/// Nothing takes the last active admin away.
pub async fn the_last_active_admin_stays(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let admin = add_user(&store, "admin").await;
    let mut inactive = user("inactive");
    inactive.is_active = false;
    store.users.create(&inactive).await.unwrap();
    let mut member = user("member");
    member.role = Role::Member;
    store.users.create(&member).await.unwrap();
    let demote = UserPatch {
        role: Some(Role::Member),
        ..UserPatch::default()
    };
    let deactivate = UserPatch {
        is_active: Some(false),
        ..UserPatch::default()
    };
    for patch in [&demote, &deactivate] {
        assert_kind(
            store.users.update(admin.id, patch).await,
            ErrorKind::Conflict,
        );
    }
    assert_kind(store.users.delete(admin.id).await, ErrorKind::Conflict);
    assert_eq!(store.users.get(admin.id).await.unwrap(), admin);
    // Others come and go, and with a second admin the first can.
    store.users.update(member.id, &deactivate).await.unwrap();
    store.users.delete(inactive.id).await.unwrap();
    add_user(&store, "second").await;
    store.users.update(admin.id, &demote).await.unwrap();
    store.users.delete(admin.id).await.unwrap();
}

/// Two admins who demote each other at the same time do not both succeed.
pub async fn concurrent_demotions_leave_an_admin(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let admin = add_user(&store, &format!("admin-{n}")).await;
        let store = store.clone();
        tasks.spawn(async move {
            let patch = UserPatch {
                is_active: Some(false),
                ..UserPatch::default()
            };
            store.users.update(admin.id, &patch).await
        });
    }
    // Some run while the later ones are still being added; whoever is refused stays active.
    let mut refused = 0;
    while let Some(result) = tasks.join_next().await {
        if let Err(error) = result.unwrap() {
            assert_eq!(error.kind(), ErrorKind::Conflict);
            refused += 1;
        }
    }
    assert!(refused >= 1, "all admins were deactivated");
    let users = store.users.list(&request(100, None)).await.unwrap().items;
    let active = users.iter().filter(|user| user.is_active).count();
    assert_eq!(active, refused);
}

/// An account that owns bots is not deleted, and the bots stay.
pub async fn an_owner_of_bots_is_not_deleted(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    add_user(&store, "admin").await;
    let owner = add_user(&store, "owner").await;
    let bot = add_bot_of(&store, owner.id).await;
    assert_kind(store.users.delete(owner.id).await, ErrorKind::Conflict);
    assert_eq!(store.users.get(owner.id).await.unwrap(), owner);
    assert_eq!(store.bots.get(bot.id).await.unwrap(), bot);
}

/// Pages have every account exactly once, oldest first, while others are added.
pub async fn pages_walk_all_accounts_once(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = Vec::new();
    for n in 0..23 {
        let mut user = user(&format!("user-{n}"));
        // Several were made at the same time, and not in the order of their ids.
        user.created_at = at(100 - n / 4);
        store.users.create(&user).await.unwrap();
        expected.push((user.created_at, user.id));
    }
    expected.sort();
    let walked = walk(
        4,
        async |page| store.users.list(&page).await,
        async || {
            let mut user = user(&format!("late-{}", UserId::generate()));
            user.created_at = at(1_000);
            store.users.create(&user).await.unwrap();
        },
    )
    .await;
    let walked: Vec<_> = walked
        .iter()
        .map(|user| (user.created_at, user.id))
        .take(expected.len())
        .collect();
    assert_eq!(walked, expected);
    let distinct: HashSet<_> = walked.iter().collect();
    assert_eq!(distinct.len(), walked.len());
}

/// `InvalidArgument` for a cursor that no page gave.
pub async fn strange_cursors_are_refused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    for cursor in STRANGE_CURSORS {
        assert_kind(
            store.users.list(&request(1, Some((*cursor).into()))).await,
            ErrorKind::InvalidArgument,
        );
    }
}
