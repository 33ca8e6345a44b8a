//! The agent's parts: PID 1 of every workspace, which serves files, commands and terminals to the
//! server. `main` puts them together; tests and fuzz targets use them one by one.

mod agent;
mod children;
mod data;
mod descriptor;
mod environment;
pub mod files;
pub mod identity;
mod init;
mod listener;
mod log;
pub mod options;
mod processes;
pub mod serve;
mod worker;
