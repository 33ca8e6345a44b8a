//! The agent's parts: PID 1 of every workspace, which serves files, commands and terminals to the
//! server. `main` puts them together; tests and fuzz targets use them one by one.

pub mod files;
