//! The whole of it in one process, run again and again from seeds: controllers, boot servers, boxes, rogues, an API server, and
//! everything that goes wrong between them. docs/simulation.md says what is real here and what is played.

mod clock;
mod cluster;
mod controller;
mod disk;
mod faults;
mod keys;
mod kubelet;
mod laws;
mod metal;
mod network;
mod random;
mod scene;
mod server;
mod tests;
mod trace;
mod workload;
mod world;
