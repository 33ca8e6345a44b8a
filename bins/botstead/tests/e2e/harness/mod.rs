//! What the tests share: servers, a client, images and registries, and a look at the host.

mod client;
mod fixtures;
mod host;
mod server;

pub(crate) use client::Client;
pub(crate) use fixtures::{busybox_image, faulty, image_for_user, registry, slow_image};
pub(crate) use host::eventually;
pub(crate) use server::{IMAGE, Server, Settings, shared};
