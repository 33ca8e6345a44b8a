//! What the tests share: servers, a client, images and registries, and a look at the host.

mod client;
mod fixtures;
mod host;
mod server;

pub(crate) use client::{Answer, Client, Events};
pub(crate) use fixtures::{busybox_image, faulty, image_for_user, registry, run_async, slow_image};
pub(crate) use host::{eventually, mounts_below, processes_below};
pub(crate) use server::{IMAGE, Server, Settings, shared};
