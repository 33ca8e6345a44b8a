//! The Botstead server.

fn main() {}
