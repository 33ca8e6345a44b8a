//! PID 1 of every workspace.

fn main() {}
