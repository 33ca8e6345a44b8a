//! The parts of the Botstead server's program: configuration, commands, and what a process needs
//! around the service itself.
//!
//! This crate owns nothing of what the server does, only how it is put together and operated.
//! `main` stays thin: it reads the command line and calls these modules.

pub mod admin;
pub mod backup;
pub mod config;
pub mod doctor;
pub mod installation;
pub mod memory;
mod notify;
pub mod process;
pub mod repair;
pub mod serve;
