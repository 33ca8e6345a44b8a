//! The server is killed at every step of its journal, and started again.
