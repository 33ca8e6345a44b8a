//! Set-up, tests and chores of the repository.

fn main() {}
