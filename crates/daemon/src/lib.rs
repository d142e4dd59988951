//! What every Magnetite process needs once: logs, signals, supervision, the admin listener, the TLS provider,
//! the clock, and how long to wait before the next try.
//!
//! A process reads like this:
//!
//! ```no_run
//! # use magnetite_daemon::{admin, crypto, log, supervise};
//! # async fn run(logs: log::LogArgs, admin: admin::AdminArgs) -> Result<(), Box<dyn std::error::Error>> {
//! log::init(&logs)?;
//! crypto::install();
//! let stop = supervise::signals()?;
//! let readiness = admin::Readiness::default();
//! let synced = readiness.gate("store"); // closed until `synced.open()`
//! let listener = admin::Admin::bind(&admin).await?;
//! let metrics = prometheus_client::registry::Registry::default();
//! supervise::supervise(
//!     stop.clone(),
//!     vec![supervise::task("admin", listener.run(metrics, readiness, stop.clone()))],
//! )
//! .await?;
//! # Ok(())
//! # }
//! ```
//!
//! This crate knows nothing of Machines, Kubernetes or the network boot: what it holds is the same in all three
//! binaries, or it is elsewhere.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod crypto;
pub mod log;
pub mod supervise;

pub use supervise::{signals, supervise};
