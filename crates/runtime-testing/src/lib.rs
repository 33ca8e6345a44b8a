//! An in-memory runtime and the conformance suite that every backend passes.
