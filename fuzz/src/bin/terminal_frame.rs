//! Text frames that a client sends on a terminal's WebSocket.
#![cfg_attr(feature = "libfuzzer", no_main)]

botstead_fuzz::target!(botstead_http::fuzz_terminal_frame);
