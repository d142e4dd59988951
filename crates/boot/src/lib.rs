//! The decision: who is this client, what does it boot, and what text does it get.
//!
//! Everything here is a function of values. No clock, no socket, no file: the boot server gives the facts
//! and carries the answers, and the controller asks the same code whether a Profile renders before any
//! machine depends on it.

pub mod capability;
pub mod client;
pub mod command_line;
pub mod diagnose;
pub mod discovery;
pub mod fleet;
pub mod history;
pub mod image;
pub mod ladder;
pub mod plan;
pub mod render;
pub mod scheme;
pub mod script;
pub mod select;
pub mod site;

#[cfg(test)]
mod fixtures;
