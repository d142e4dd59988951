//! The lab: a whole site made of real parts, on one machine, for `cargo xtask demo` and for the
//! end-to-end scenarios.
//!
//! A [`site::Site`] is a network of its own (network namespaces, so nothing is attached to this
//! machine's interfaces), a DHCP server that knows nothing about booting, and a Kubernetes control
//! plane. [`vm::Vm`]s with real firmware boot in it. Everything that takes long to make (the
//! Kubernetes binaries, the image that machines boot) is made once, below `target/lab`, by
//! [`prepare::prepare`].
//!
//! The lab is synchronous on purpose: it starts processes, waits for conditions and reads files.
//! It knows nothing of Magnetite's own types; it drives the cluster with `kubectl`, as a person
//! would.
//!
//! Nothing may outlive it. Every process dies with this one ([`proc`]), every namespace carries
//! this process's id in its name and is removed at the end, or by the next lab ([`net`]).

pub mod apt;
pub mod bmc;
pub mod capture;
pub mod clock;
pub mod control_plane;
pub mod crowd;
pub mod demo;
pub mod gate;
pub mod guest;
pub mod interrupt;
pub mod kea;
pub mod kube_build;
pub mod kubectl;
pub mod lan;
pub mod loaders;
pub mod magnetite;
pub mod net;
pub mod ovmf;
pub mod paths;
pub mod pki;
pub mod prepare;
pub mod proc;
pub mod progress;
pub mod rack;
pub mod rogue;
pub mod run_dir;
pub mod scenarios;
pub mod site;
pub mod stamp;
pub mod vm;
pub mod wait;
