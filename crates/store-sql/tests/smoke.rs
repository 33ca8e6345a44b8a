//! Smoke.
use botstead_store::*;
use botstead_store_sql::*;
use botstead_types::*;
use chrono::Utc;
#[tokio::test]
async fn smoke() {
    let d = tempfile::tempdir().unwrap();
    let s = SqlStore::open_temporary(d.path()).await.unwrap();
    let st = s.store();
    let now = Utc::now();
    let u = User {
        id: UserId::generate(),
        username: "Ann".into(),
        display_name: None,
        role: Role::Admin,
        is_active: true,
        password_hash: "x".into(),
        created_at: now,
        updated_at: now,
    };
    st.users.create(&u).await.unwrap();
    let b = Bot {
        id: BotId::generate(),
        owner: u.id,
        name: "b".into(),
        display_name: None,
        is_active: true,
        status: BotStatus::Ready,
        metadata: Default::default(),
        created_at: now,
        updated_at: now,
    };
    st.bots.create(&b).await.unwrap();
    st.bots.get(b.id).await.unwrap();
    let o = Operation {
        id: OperationId::generate(),
        bot: b.id,
        kind: OperationKind::DeleteBot,
        state: OperationState::Running,
        step: "a".into(),
        version: None,
        input: serde_json::json!({}),
        error: None,
        created_at: now,
        updated_at: now,
    };
    let w = st.operations.begin(&o, true).await.unwrap();
    assert_eq!(w.version.unwrap().get(), 1);
    for _ in 0..100 {
        st.transactions
            .apply(vec![Change::AppendEvent(NewEvent {
                bot: b.id,
                kind: "k".into(),
                detail: serde_json::json!({}),
                at: now,
            })])
            .await
            .unwrap();
    }
    let a = st
        .addresses
        .assign(
            b.id,
            "10.0.0.0/29".parse().unwrap(),
            "10.0.0.1".parse().unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(a.to_string(), "10.0.0.2");
    assert_eq!(
        st.events
            .list(
                b.id,
                &PageRequest {
                    limit: 10,
                    cursor: None
                }
            )
            .await
            .unwrap()
            .items
            .len(),
        10
    );
    st.transactions
        .apply(vec![Change::DeleteBot(b.id)])
        .await
        .unwrap();
    st.users
        .update(
            u.id,
            &UserPatch {
                is_active: Some(false),
                ..Default::default()
            },
        )
        .await
        .unwrap_err();
    s.close().await;
}
