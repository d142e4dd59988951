//! Where the view comes from: a cluster, or a folder.

pub mod catalog;
pub mod cluster;
pub mod heard;
pub mod mirror;
pub mod snapshot;
pub mod windows;
