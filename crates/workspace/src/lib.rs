//! The use cases of a bot's workspace: the crate that other services embed.
