//! What a long-running process is told by signals.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use botstead_server::process::{install_tls_provider, shutdown_signal};
use std::time::Duration;

#[tokio::test]
async fn a_signal_asks_for_shutdown() {
    let token = shutdown_signal().unwrap();
    assert!(!token.is_cancelled());
    // To this process, whose handlers are installed now.
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(10), token.cancelled());
    asked.await.unwrap();
}

#[test]
fn a_tls_provider_is_chosen_once() {
    install_tls_provider();
    install_tls_provider();
    assert!(rustls::crypto::CryptoProvider::get_default().is_some());
}
