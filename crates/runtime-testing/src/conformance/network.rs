//! Promises of [`botstead_runtime::Network`].
#![allow(missing_docs, reason = "the name of a test is its promise")]

use super::{Context, Program, done, refused};
use botstead_runtime::ErrorKind::{InvalidArgument, NotFound};
use botstead_runtime::{Endpoint, EndpointStatus};
use botstead_types::ContainerId;
use std::net::Ipv4Addr;

/// A container id, whose namespace is removed after the test.
fn id(cx: &Context) -> ContainerId {
    cx.spec(&cx.fixture().base(), Program::Forever).id
}

/// A connected namespace.
async fn connected(cx: &Context) -> (ContainerId, Endpoint) {
    let (id, address) = (id(cx), cx.address());
    let endpoint = Endpoint { address };
    done(cx.network.ensure_host().await);
    done(cx.network.create_namespace(&id).await);
    done(cx.network.attach(&id, &endpoint).await);
    (id, endpoint)
}

async fn is_up(cx: &Context, id: &ContainerId, endpoint: &Endpoint) -> bool {
    done(cx.network.status(id, endpoint).await) == EndpointStatus::Up
}

pub async fn the_gateway_is_in_the_subnet(cx: Context) {
    let info = cx.network.info();
    assert!(info.subnet.contains(&info.gateway));
    assert!(info.mtu >= 576);
    let loopback = info
        .dns
        .nameservers
        .iter()
        .any(|server| server.is_loopback());
    assert!(
        !loopback,
        "a loopback name server would be the container itself"
    );
}

pub async fn preparing_the_host_again_changes_nothing(cx: Context) {
    let (id, endpoint) = connected(&cx).await;
    done(cx.network.ensure_host().await);
    assert!(is_up(&cx, &id, &endpoint).await);
}

pub async fn a_namespace_is_made_once(cx: Context) {
    let id = id(&cx);
    done(cx.network.ensure_host().await);
    let path = done(cx.network.create_namespace(&id).await);
    assert_eq!(done(cx.network.create_namespace(&id).await), path);
    let all = done(cx.network.list().await);
    assert_eq!(all.iter().filter(|listed| **listed == id).count(), 1);
}

pub async fn a_connected_container_is_up(cx: Context) {
    let (id, endpoint) = connected(&cx).await;
    assert!(is_up(&cx, &id, &endpoint).await);
    done(cx.network.attach(&id, &endpoint).await);
    assert!(is_up(&cx, &id, &endpoint).await);
}

pub async fn what_is_not_connected_is_broken(cx: Context) {
    let id = id(&cx);
    let endpoint = Endpoint {
        address: cx.address(),
    };
    done(cx.network.ensure_host().await);
    assert!(!is_up(&cx, &id, &endpoint).await);
    done(cx.network.create_namespace(&id).await);
    assert!(!is_up(&cx, &id, &endpoint).await);
}

pub async fn another_address_is_not_up(cx: Context) {
    let (id, _) = connected(&cx).await;
    let endpoint = Endpoint {
        address: cx.address(),
    };
    assert!(!is_up(&cx, &id, &endpoint).await);
}

pub async fn an_address_outside_the_subnet_is_refused(cx: Context) {
    let id = id(&cx);
    done(cx.network.ensure_host().await);
    done(cx.network.create_namespace(&id).await);
    let endpoint = Endpoint {
        address: Ipv4Addr::new(203, 0, 113, 1),
    };
    refused(cx.network.attach(&id, &endpoint).await, InvalidArgument);
}

pub async fn a_missing_namespace_cannot_be_connected(cx: Context) {
    let id = id(&cx);
    let endpoint = Endpoint {
        address: cx.address(),
    };
    done(cx.network.ensure_host().await);
    refused(cx.network.attach(&id, &endpoint).await, NotFound);
}

pub async fn removing_it_leaves_the_others(cx: Context) {
    let (id, endpoint) = connected(&cx).await;
    let (other, others) = connected(&cx).await;
    done(cx.network.remove(&id).await);
    assert!(!done(cx.network.list().await).contains(&id));
    assert!(!is_up(&cx, &id, &endpoint).await);
    assert!(is_up(&cx, &other, &others).await);
    done(cx.network.remove(&id).await);
}
