//! What every reconcile has at hand, and what happens around each of them.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource, ResourceExt,
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
    },
};

use magnetite_tpm::verifier::Authorities;

use crate::{
    drain::Refusals,
    error::{Class, Error},
    lease::Leader,
    metrics::Metrics,
    power::{self, pace::Pace},
    preflight::Preflight,
    profile::{history::Histories, renders::Renders},
    rollout::{ApiServerVersion, Places},
    stores::Stores,
};

/// One reconcile may take this long: the client waits for an answer without end.
const LIMIT: Duration = Duration::from_secs(30);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Pause after a conflict: the watch brings the newer object within this time.
const CONFLICT: Duration = Duration::from_millis(300);
/// How often one that does not lead looks whether it does.
const FOLLOW: Duration = Duration::from_secs(10);
/// Failures are remembered of this many objects: names come from strangers too.
const REMEMBERED: usize = 10_000;
/// Longest note of an Event that the API server takes is 1024 bytes.
const NOTE: usize = 900;

/// What the flags say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The API server as machines reach it, where a Profile does not say.
    pub join_api_server: Option<String>,
    /// The cluster's certificate authority, PEM.
    pub join_ca: String,
    /// Node names that no Machine may have.
    pub reserved_node_names: Vec<String>,
    /// Our own namespace, where the Secrets of Profiles are.
    pub namespace: String,
    /// Makers of TPMs that are believed; none: all are.
    pub tpm_authorities: Option<Authorities>,
    /// How many machines may be updated at once, whatever Profiles say.
    pub update_ceiling: Option<u32>,
    /// So many Machines may be held before none is made for further boxes that are found. None: no boxes are looked for.
    pub discovered_at_most: Option<usize>,
    /// At most so many machines are wiped at once, whatever the size of the site.
    pub wipes_at_once: Option<usize>,
    /// At most so many machines are installed anew at once.
    pub reinstalls_at_once: Option<usize>,
}

/// What every reconcile has at hand.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The API server, for evictions. A budget that says no answers with 429, which kube's client would take for "come again" and
    /// repeat for longer than a reconcile may take: this one passes it on.
    pub evictor: Client,
    /// What the watches brought.
    pub stores: Stores,
    /// What the flags say.
    pub settings: Settings,
    /// Whether this process may write.
    pub leader: Leader,
    /// Counters.
    pub metrics: Metrics,
    /// What was rendered already.
    pub renders: Renders,
    /// Ways into the cluster that pass beside us.
    pub preflight: Preflight,
    /// Which revisions of Profiles are kept.
    pub histories: Histories,
    /// What was said to evictions.
    pub refusals: Refusals,
    /// How many machines each Profile lets update itself.
    pub places: Places,
    /// The API server's version.
    pub api_server: ApiServerVersion,
    /// When each machine's power is looked at next.
    pub pace: Pace,
    /// The time. An argument of everything that decides.
    pub clock: fn() -> Timestamp,
    reporter: Reporter,
    failures: Mutex<HashMap<(&'static str, String), u32>>,
}

impl Context {
    /// A context.
    pub fn new(
        client: Client,
        stores: Stores,
        settings: Settings,
        leader: Leader,
        metrics: Metrics,
        clock: fn() -> Timestamp,
    ) -> Self {
        let reporter = magnetite_api::names::MANAGER_CONTROLLER.into();
        let failures = Mutex::default();
        let (renders, preflight, pace) = (Renders::default(), Preflight::default(), Pace::default());
        let (refusals, places, api_server) = (Refusals::default(), Places::default(), ApiServerVersion::default());
        Self {
            evictor: client.clone(),
            client,
            stores,
            settings,
            leader,
            metrics,
            renders,
            histories: Histories::default(),
            preflight,
            refusals,
            places,
            api_server,
            pace,
            clock,
            reporter,
            failures,
        }
    }

    /// With a client of its own for evictions.
    pub fn with_evictor(self, evictor: Client) -> Self {
        Self { evictor, ..self }
    }

    /// Publishes an Event. That it cannot is logged and no more: no decision hangs on it.
    pub async fn publish(&self, regarding: &ObjectReference, type_: EventType, reason: &str, action: &str, note: &str) {
        let note: String = note.chars().filter(|c| !c.is_control()).take(NOTE).collect();
        let note = cut(note, NOTE);
        let event =
            Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None };
        // A recorder of its own each time: within six minutes, a shared one counts a second refusal up under the first one's note.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(&event, regarding).await {
            tracing::warn!(error = &error as &dyn std::error::Error, reason, "an Event was not published");
        }
    }

    fn failed(&self, kind: &'static str, name: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= REMEMBERED {
            failures.clear();
        }
        let count = failures.entry((kind, name.to_owned())).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn succeeded(&self, kind: &'static str, name: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, name.to_owned()));
    }
}

fn cut(mut text: String, bytes: usize) -> String {
    while text.len() > bytes {
        text.pop();
    }
    text
}

/// A part of `span` that differs from object to object and is the same each time: it spreads what would
/// otherwise happen at once.
pub fn jitter(name: &str, span: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let thousandth = u32::try_from(hasher.finish() % 1000).unwrap_or_default();
    span * thousandth / 1000
}

/// The pause before the next try after `count` failures in a row.
pub fn pause(class: Class, count: u32, name: &str) -> Duration {
    let (first, longest) = BACKOFF;
    match class {
        Class::Conflict if count < 10 => CONFLICT + jitter(name, CONFLICT),
        Class::Conflict | Class::Transient => {
            let pause = first.saturating_mul(1 << count.saturating_sub(1).min(16)).min(longest);
            pause + jitter(name, pause / 4)
        }
        Class::Invalid => longest + jitter(name, longest / 4),
    }
}

/// Runs one reconcile as every kind's is run: only where this process leads, within a time limit, counted.
///
/// # Errors
/// Those of the reconcile.
pub async fn guarded<K, F>(
    kind: &'static str,
    object: Arc<K>,
    ctx: Arc<Context>,
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
) -> Result<Action, Error>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Action, Error>>,
{
    if !ctx.leader.is_leading() {
        // Leadership that was lost and won again within a moment must not lose this object's timer.
        return Ok(Action::requeue(FOLLOW + jitter(&object.name_any(), FOLLOW)));
    }
    let name = object.name_any();
    let limit = if kind == power::KIND { power::LIMIT } else { LIMIT };
    let work = reconcile(object, Arc::clone(&ctx));
    let result = match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { seconds: limit.as_secs() }),
    };
    match &result {
        Ok(_) => {
            ctx.succeeded(kind, &name);
            ctx.metrics.reconciled(kind, "ok");
        }
        Err(error) => ctx.metrics.reconciled(kind, error.label()),
    }
    result
}

/// What to do after a failed reconcile.
pub fn after_failure<K>(kind: &'static str, object: &K, error: &Error, ctx: &Context) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let name = object.name_any();
    let count = ctx.failed(kind, &name);
    let pause = pause(error.class(), count, &name);
    match error.class() {
        Class::Conflict => tracing::debug!(kind, name, "changed by another in the meantime"),
        Class::Invalid | Class::Transient => tracing::warn!(
            kind,
            name,
            failures = count,
            retry_ms = pause.as_millis(),
            error = error as &dyn std::error::Error,
            "reconcile failed"
        ),
    }
    Action::requeue(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_up_to_a_limit() {
        let pauses: Vec<_> = (1..12).map(|count| pause(Class::Transient, count, "m").as_secs()).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(pauses[0] <= 2 && *pauses.last().unwrap() <= 375, "{pauses:?}");
        assert!(pause(Class::Conflict, 1, "m") < Duration::from_secs(1));
        assert!(pause(Class::Transient, u32::MAX, "m") <= Duration::from_secs(375));
    }

    #[test]
    fn a_note_is_cut_at_a_character() {
        assert_eq!(cut("aä".to_owned(), 2), "a");
    }
}
