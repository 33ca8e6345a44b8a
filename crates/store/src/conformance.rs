//! The conformance suite: one named test per promise.
