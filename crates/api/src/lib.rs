//! The API of Magnetite, `magnetite.dev/v1alpha1`: what people write and what they read.
//!
//! This crate holds types and the rules that a value alone can answer. It has no client, no runtime and
//! no clock, so that the agent, the boot decision and any user's program can depend on it cheaply.
//! The doc comments of public fields become the text of `kubectl explain`.

#![allow(clippy::duplicated_attributes, reason = "each printcolumn of kube's derive repeats its keys")]

pub mod claim;
pub mod conditions;
pub mod discovery;
pub mod install;
pub mod join;
pub mod machine;
pub mod names;
pub mod netboot;
pub mod power;
pub mod profile;
pub mod report;
pub mod time;
pub mod tpm;
pub mod types;
pub mod update;

#[cfg(test)]
mod schema_tests;

pub use claim::{MachineClaim, MachineClaimSpec, MachineClaimStatus};
pub use discovery::{DiscoveryRule, DiscoveryRuleSpec, DiscoveryRuleStatus};
pub use machine::{Machine, MachineSpec, MachineStatus, Phase};
pub use profile::{Profile, ProfileSpec, ProfileStatus};
pub use report::{BootReport, BootReportSpec};
pub use types::{Architecture, Fingerprint, Ipv4Cidr, MacAddr, MachineUuid, Sha256};
