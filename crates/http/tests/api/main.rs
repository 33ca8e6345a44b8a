//! The API over a real socket: every route's way to success, and how it fails.

mod container;
mod people;
mod rules;
mod support;
