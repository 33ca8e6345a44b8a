//! Promises of [`crate::Addresses`] and of the change that releases them.

use super::samples::{add_bot_of, add_user, apply};
use super::{Fixture, assert_kind};
use crate::{Change, ErrorKind, Result, Store};
use botstead_types::{BotId, UserId};
use std::collections::HashSet;
use std::net::Ipv4Addr;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

async fn assign(store: &Store, bot: BotId, subnet: &str) -> Result<Ipv4Addr> {
    let subnet = subnet.parse().unwrap();
    store.addresses.assign(bot, subnet, GATEWAY).await
}

async fn owner(store: &Store) -> UserId {
    add_user(store, "owner").await.id
}

async fn add_bots(store: &Store, count: usize) -> Vec<BotId> {
    let owner = owner(store).await;
    let mut bots = Vec::new();
    for _ in 0..count {
        bots.push(add_bot_of(store, owner).await.id);
    }
    bots
}

/// Not the network's, the broadcast or the gateway's address, wherever the gateway is.
pub async fn reserved_addresses_are_never_assigned(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = add_bots(&store, 5).await;
    for gateway in 1..=6 {
        let gateway = Ipv4Addr::new(10, 9, 0, gateway);
        let mut assigned = HashSet::new();
        for bot in &bots {
            let subnet = "10.9.0.0/29".parse().unwrap();
            let address = store.addresses.assign(*bot, subnet, gateway).await;
            let address = address.unwrap();
            assert_ne!(address, gateway);
            assert!((1..=6).contains(&address.octets()[3]), "{address}");
            assigned.insert(address);
        }
        assert_eq!(assigned.len(), bots.len());
        for bot in &bots {
            apply(&store, Change::ReleaseAddress(*bot)).await.unwrap();
        }
    }
}

/// The same bot gets the same address, also after a restart, and it is listed.
pub async fn an_address_stays(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut expected = Vec::new();
    for bot in add_bots(&store, 4).await {
        let address = assign(&store, bot, "10.9.0.0/24").await.unwrap();
        expected.push(crate::AssignedAddress { bot, address });
    }
    expected.sort_by_key(|assigned| assigned.bot);
    fixture.reopen().await;
    let store = fixture.store();
    for assigned in &expected {
        let again = assign(&store, assigned.bot, "10.9.0.0/24").await.unwrap();
        assert_eq!(again, assigned.address);
    }
    assert_eq!(store.addresses.list().await.unwrap(), expected);
}

/// `ResourceExhausted` when none is left; whoever has one keeps it.
pub async fn a_full_subnet_is_exhausted(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = add_bots(&store, 6).await;
    for bot in &bots[..5] {
        assign(&store, *bot, "10.9.0.0/29").await.unwrap();
    }
    assert_kind(
        assign(&store, bots[5], "10.9.0.0/29").await,
        ErrorKind::ResourceExhausted,
    );
    assign(&store, bots[0], "10.9.0.0/29").await.unwrap();
    assert_eq!(store.addresses.list().await.unwrap().len(), 5);
}

/// A released address is not given to the next bot, nor to the one after it.
pub async fn a_released_address_rests(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = add_bots(&store, 10).await;
    let first = assign(&store, bots[0], "10.9.0.0/28").await.unwrap();
    apply(&store, Change::ReleaseAddress(bots[0]))
        .await
        .unwrap();
    fixture.reopen().await;
    let store = fixture.store();
    for bot in &bots[1..] {
        let address = assign(&store, *bot, "10.9.0.0/28").await.unwrap();
        assert_ne!(address, first);
    }
}

/// Every address is used before the subnet counts as full.
pub async fn a_released_address_is_used_before_the_subnet_is_full(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = add_bots(&store, 6).await;
    let mut addresses = Vec::new();
    for bot in &bots[..5] {
        addresses.push(assign(&store, *bot, "10.9.0.0/29").await.unwrap());
    }
    for released in [0, 4, 2] {
        // Releasing what is not there is done as well.
        for _ in 0..2 {
            apply(&store, Change::ReleaseAddress(bots[released]))
                .await
                .unwrap();
        }
        let address = assign(&store, bots[5], "10.9.0.0/29").await.unwrap();
        assert_eq!(address, addresses[released]);
        apply(&store, Change::ReleaseAddress(bots[5]))
            .await
            .unwrap();
        let address = assign(&store, bots[released], "10.9.0.0/29").await.unwrap();
        assert_eq!(address, addresses[released]);
    }
}

/// When the subnet changes, a bot gets an address in the new one and loses the old.
pub async fn an_address_outside_of_the_subnet_is_replaced(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bots = add_bots(&store, 2).await;
    for subnet in ["10.8.0.0/24", "10.9.0.0/24", "10.7.0.0/24"] {
        let net: ipnet::Ipv4Net = subnet.parse().unwrap();
        let mut addresses = HashSet::new();
        for bot in &bots {
            let address = assign(&store, *bot, subnet).await.unwrap();
            assert!(net.contains(&address), "{address} is not in {subnet}");
            addresses.insert(address);
        }
        let listed = store.addresses.list().await.unwrap();
        let listed: HashSet<_> = listed.iter().map(|assigned| assigned.address).collect();
        assert_eq!(listed, addresses);
    }
}

/// Assignments at the same time never give an address twice.
pub async fn concurrent_assignments_are_distinct(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut tasks = tokio::task::JoinSet::new();
    for bot in add_bots(&store, 200).await {
        let store = store.clone();
        tasks.spawn(async move { assign(&store, bot, "10.9.0.0/24").await.unwrap() });
    }
    let mut addresses = HashSet::new();
    while let Some(address) = tasks.join_next().await {
        addresses.insert(address.unwrap());
    }
    assert_eq!(addresses.len(), 200);
}

/// Assignments to one bot at the same time give it one address.
pub async fn concurrent_assignments_to_one_bot_agree(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bots(&store, 1).await[0];
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        tasks.spawn(async move { assign(&store, bot, "10.9.0.0/24").await.unwrap() });
    }
    let mut addresses = HashSet::new();
    while let Some(address) = tasks.join_next().await {
        addresses.insert(address.unwrap());
    }
    assert_eq!(addresses.len(), 1);
}

/// `NotFound` when the bot does not exist.
pub async fn an_address_needs_its_bot(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    assert_kind(
        assign(&store, BotId::generate(), "10.9.0.0/24").await,
        ErrorKind::NotFound,
    );
    assert_eq!(store.addresses.list().await.unwrap(), []);
}

/// A subnet that is too small for anyone is full from the beginning.
pub async fn a_subnet_without_hosts_is_exhausted(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let bot = add_bots(&store, 1).await[0];
    for subnet in [
        "10.9.0.0/31",
        "10.9.0.0/32",
        "255.255.255.255/32",
        "0.0.0.0/32",
    ] {
        assert_kind(
            assign(&store, bot, subnet).await,
            ErrorKind::ResourceExhausted,
        );
    }
}
