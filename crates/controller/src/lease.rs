//! Who of several controllers may write: a Lease, renewed while we live.
//!
//! Kubernetes' leases do not fence: a leader that was stopped for a minute may come back and still believe.
//! So leadership here is a moment on the monotonic clock until which it is certain, and every write besides
//! carries a resourceVersion or is idempotent.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use magnetite_api::names::MANAGER_CONTROLLER;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::code;

/// Others may take the lease this long after its last renewal that they saw.
const DURATION: Duration = Duration::from_secs(15);
/// We stop writing this long after our last renewal, well before others begin.
const CERTAIN: Duration = Duration::from_secs(10);
/// How often it is renewed or tried for; also the limit of one try.
const RETRY: Duration = Duration::from_secs(2);

/// Whether this process leads. Cheap to clone and to ask.
#[derive(Debug, Clone)]
pub struct Leader {
    until: watch::Receiver<Option<Instant>>,
    always: bool,
}

impl Leader {
    /// Leads without a lease: the only controller there is.
    pub fn always() -> Self {
        Self { until: watch::channel(None).1, always: true }
    }

    /// Leads until a moment that the simulation sets: it plays the lease.
    #[cfg(test)]
    pub fn by_hand() -> (watch::Sender<Option<Instant>>, Self) {
        let (until, seen) = watch::channel(None);
        (until, Self { until: seen, always: false })
    }

    /// True while leadership is certain.
    pub fn is_leading(&self) -> bool {
        self.always || self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this process leads.
    pub async fn leading(&mut self) {
        while !self.is_leading() {
            if self.until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What a look at the lease tells to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// Ours, or nobody's, or its holder has been silent for too long: write it.
    Take,
    /// Another's, and alive.
    Leave,
}

/// The lease as it was last seen to change, on our own clock: a remote clock is not trusted.
#[derive(Debug, Clone, PartialEq)]
struct Sighting {
    version: Option<String>,
    at: Instant,
}

fn decide(holder: Option<&str>, me: &str, sighting: &Sighting, now: Instant) -> Move {
    match holder {
        None | Some("") => Move::Take,
        Some(holder) if holder == me => Move::Take,
        Some(_) if now.duration_since(sighting.at) > DURATION => Move::Take,
        Some(_) => Move::Leave,
    }
}

/// Competes for the lease until `stop`, then gives it back.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    me: String,
    until: watch::Sender<Option<Instant>>,
    sighting: Option<Sighting>,
}

impl Elector {
    /// An elector for the lease `name`, and the answer to who leads.
    pub fn new(api: Api<Lease>, name: &str, me: String) -> (Self, Leader) {
        let (until, seen) = watch::channel(None);
        let elector = Self { api, name: name.to_owned(), me, until, sighting: None };
        (elector, Leader { until: seen, always: false })
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let started = Instant::now();
            match tokio::time::timeout(RETRY, self.step()).await {
                Ok(Ok(true)) => self.lead_until(Some(started + CERTAIN)),
                Ok(Ok(false)) => self.lead_until(None),
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the lease was not renewed");
                }
                Err(_) => tracing::warn!("the lease was not renewed: no answer"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => break,
            }
        }
        let led = self.until.borrow().is_some();
        self.lead_until(None);
        if led {
            self.release().await;
        }
    }

    fn lead_until(&self, until: Option<Instant>) {
        self.until.send_if_modified(|now| {
            if now.is_some() != until.is_some() {
                tracing::info!(leading = until.is_some(), identity = %self.me, "leadership changed");
            }
            std::mem::replace(now, until) != until
        });
    }

    /// One try. True: the lease is ours from now on.
    async fn step(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            return self.won(self.api.create(&params(), &self.fresh()).await);
        };
        let seen = Sighting { version: lease.resource_version(), at: Instant::now() };
        let sighting = match self.sighting.take() {
            Some(old) if old.version == seen.version => old,
            _ => seen,
        };
        self.sighting = Some(sighting.clone());
        let spec = lease.spec.get_or_insert_default();
        if decide(spec.holder_identity.as_deref(), &self.me, &sighting, Instant::now()) == Move::Leave {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        if spec.holder_identity.as_deref() != Some(&self.me) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.holder_identity = Some(self.me.clone());
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
        // The lease carries the resourceVersion that was read: of two that try, one is refused.
        self.won(self.api.replace(&self.name, &params(), &lease).await)
    }

    fn won(&self, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(_) => Ok(true),
            Err(error) if code(&error) == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fresh(&self) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            acquire_time: Some(now.clone()),
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            lease_transitions: Some(0),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, spec: Some(spec) }
    }

    /// Gives the lease back, so that the next one need not wait for it to run out.
    async fn release(&self) {
        let give_back = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.me) {
                spec.holder_identity = None;
                self.api.replace(&self.name, &params(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(RETRY, give_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the lease was not given back");
            }
            Err(_) => tracing::debug!("the lease was not given back: no answer"),
        }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() }
}

/// Two processes of one Pod name are not the same holder: one of them may be the ghost of the other.
pub fn identity(host: &str) -> String {
    let started = Timestamp::now().as_microsecond();
    format!("{host}_{}_{started:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_only_when_its_holder_is_silent() {
        let now = Instant::now();
        let seen = |ago: u64| Sighting { version: None, at: now.checked_sub(Duration::from_secs(ago)).unwrap() };
        assert_eq!(decide(None, "a", &seen(0), now), Move::Take);
        assert_eq!(decide(Some(""), "a", &seen(0), now), Move::Take);
        assert_eq!(decide(Some("a"), "a", &seen(0), now), Move::Take);
        assert_eq!(decide(Some("b"), "a", &seen(14), now), Move::Leave);
        assert_eq!(decide(Some("b"), "a", &seen(16), now), Move::Take);
    }

    #[test]
    fn a_leader_that_was_stopped_for_long_no_longer_leads() {
        let (tx, rx) = watch::channel(Some(Instant::now() + Duration::from_secs(5)));
        let leader = Leader { until: rx, always: false };
        assert!(leader.is_leading());
        tx.send_replace(Instant::now().checked_sub(Duration::from_secs(1)));
        assert!(!leader.is_leading());
    }
}
