//! Disks of a box: which one is meant, how an image comes onto it, how it says what was done to it, how it is wiped.
//!
//! What decides is pure: [`choose`] looks at values that [`device`] read, [`marker`] says whether an intent is done. What acts
//! ([`install`], [`wipe`]) acts on a [`target::Target`], which is a disk on a box and a file with faults in a test. Nothing here has a
//! clock, a runtime or a network: an image comes from a [`source::Source`].
//!
//! No `ioctl` is called, which would take `unsafe`: zeroing goes by `fallocate`, which block devices understand, and erasing by a
//! drive's own means goes by the tools of the running system (`nvme`, `hdparm`), where it has them.

pub mod choose;
pub mod config;
pub mod device;
pub mod image;
pub mod install;
pub mod marker;
pub mod partitions;
pub mod source;
pub mod sparse;
pub mod target;
pub mod wipe;
