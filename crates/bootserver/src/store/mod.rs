//! Where the view comes from: a cluster, or a folder.

pub mod catalog;
pub mod cluster;
pub mod heard;
mod mirror;
pub mod snapshot;
pub mod windows;
