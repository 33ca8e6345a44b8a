//! Paths of requests for files.
#![cfg_attr(feature = "libfuzzer", no_main)]

botstead_fuzz::target!(botstead_agent::files::fuzz::path);
