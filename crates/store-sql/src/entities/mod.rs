//! The tables as the queries see them. Values are kept in portable types: ids as text, times as
//! microseconds since 1970, structures as JSON text.
#![allow(unreachable_pub, reason = "sea-orm's derives expect public names")]

pub(crate) mod addresses;
pub(crate) mod bots;
pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod image_configs;
pub(crate) mod operations;
pub(crate) mod users;
pub(crate) mod versions;
