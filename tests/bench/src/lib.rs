//! The benchmark: the boot server and its peers on one machine, in one run, asked by the same generators.
//!
//! The generators ([`load`]) know protocols and no server; a peer ([`peers`]) is a process in a namespace and what it is asked for. Peers of a row
//! take turns, round after round, so that whatever else the machine does falls on all of them; the median of the rounds counts. Only ratios
//! within a row mean anything: generator and server share the processors.

mod link;
pub mod load;
mod peers;
mod row;
mod rows;
mod stats;

pub use row::{Figure, Row};
pub use rows::{Options, names, run};
