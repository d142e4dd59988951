//! Facts about a Machine. The only place of this reconciler that looks at the stores; all of it is memory.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::Lookup};
use magnetite_api::{
    Fingerprint, Machine, MachineClaim, Profile,
    claim::Decision,
    conditions::reason,
    install::{InstallStatus, WipeState, WipeStatus},
    machine::{DeletionPolicy, IntentState},
    profile::{JoinMode, OnReboot},
    report::{BootRecord, Inventory},
    update::UpdateSpec,
};
use magnetite_boot::{
    discovery::{Known, identify},
    fleet::Conflict,
    select::{Chosen, Profiles, profile_for},
};

use super::{fold, held::HeldSeen};
use crate::{
    context::Context,
    csr,
    discovery::rules,
    drain::{self, Drain},
    error::Error,
    node::{
        self, NodeSeen,
        marks::{self, Marks},
    },
    profile::{
        artifacts::{self, Files},
        renders::{self, Trouble},
        reports_on,
    },
    rollout::plan::ceiling,
};

/// No API server to join is known: neither the Profile nor the controller's flags name one.
pub const NO_API_SERVER: &str = "NoApiServer";

/// Everything that the plan may know.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The Machine.
    pub machine: Arc<Machine>,
    /// Other Machines that declare one of its identifiers or its node name.
    pub conflicts: Vec<Conflict>,
    /// The Profile that it boots.
    pub profile: Result<ProfileSeen, Trouble>,
    /// Its newest boot.
    pub boot: Option<BootRecord>,
    /// What it is made of.
    pub inventory: Option<Inventory>,
    /// What is on its disk, or on the way there.
    pub install: Option<InstallStatus>,
    /// Where it stands among those that are to be wiped.
    pub wipe: WipeSeen,
    /// Where it stands among those that are to be installed anew; nothing, if it is not one of them.
    pub reinstall: Option<Turn>,
    /// The Node of its node name.
    pub node: Option<NodeSeen>,
    /// Its claims.
    pub claims: Vec<ClaimSeen>,
    /// Certificate requests of its node that nobody decided.
    pub open_requests: Vec<String>,
    /// Of one that is held and told what it is made of: what that comes to.
    pub held: Option<HeldSeen>,
    /// The Pods that have to leave its Node, where they were looked at.
    pub pods: Option<Drain>,
}

/// What matters of the wiping of machines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WipeSeen {
    /// What its agent said of its own.
    pub reported: Option<WipeStatus>,
    /// Its place among those: those that were begun come first, and those that were deleted earlier.
    pub turn: Turn,
}

/// A place among machines of which only so many may be dealt with at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// How many come before it.
    pub before: usize,
    /// How many may be dealt with at once.
    pub limit: usize,
}

impl Turn {
    /// True while it has to wait.
    pub fn waits(self) -> bool {
        self.before >= self.limit
    }
}

/// What matters of a Profile.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileSeen {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// Whether its system is booted over the network each time.
    pub lives_in_memory: bool,
    /// Whether what it boots is an installer that asks for its templates.
    pub boots_an_installer: bool,
    /// How its machines join.
    pub join: JoinMode,
    /// What stands in the way of booting this Machine.
    pub trouble: Option<Trouble>,
    /// True if no boot server reported on its files yet.
    pub unreported: bool,
    /// The labels and annotations that the Node should carry.
    pub marks: Marks,
    /// How its machines are updated.
    pub update: UpdateSpec,
    /// The number under which it lets this machine update itself, if it does.
    pub admission: Option<i64>,
}

/// What matters of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSeen {
    /// Its name.
    pub name: String,
    /// The intent that it is for.
    pub intent: String,
    /// Its claim key, as a person compares it.
    pub fingerprint: Option<Fingerprint>,
    /// Where it came from, as the boot server saw it.
    pub address: String,
    /// When it came.
    pub created_at: Option<Timestamp>,
    /// What was decided.
    pub decision: Option<Decision>,
    /// When.
    pub decided_at: Option<Timestamp>,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

impl ClaimSeen {
    /// True if it was refused for the sake of another key.
    pub fn is_rival(&self) -> bool {
        self.decision == Some(Decision::Denied) && reason::is_another_key(&self.reason)
    }

    fn of(claim: &MachineClaim) -> Self {
        let status = claim.status.clone().unwrap_or_default();
        Self {
            name: claim.name_any(),
            intent: claim.spec.intent.clone(),
            fingerprint: claim.spec.fingerprint(),
            address: fold::clean(&claim.spec.address, 45),
            created_at: claim.creation_timestamp().map(|time| time.0),
            decision: status.decision,
            decided_at: status.decided_at.map(|time| time.0),
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
        }
    }
}

/// Looks.
pub fn observe(machine: &Arc<Machine>, ctx: &Context) -> Observed {
    let stores = &ctx.stores;
    let (name, node_name) = (machine.name_any(), machine.node_name());
    let mut reports = stores.reports.state_filter(|report| fold::is_about(report, machine));
    // A store has no order, and of two servers that saw the same of a boot the last one tells of it: always the same one.
    reports.sort_by_key(|report| report.name_any());
    let mut claims: Vec<_> = stores
        .claims
        .state_filter(|claim| claim.spec.machine == name)
        .iter()
        .map(|claim| ClaimSeen::of(claim))
        .collect();
    claims.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
    let requests = stores.requests.state_filter(|csr| csr::is_open(csr) && csr::asked_by(csr, &node_name));
    let inventory = fold::inventory_of(machine, &reports);
    let boot = fold::newest_boot(machine, &reports);
    let held = inventory.as_ref().and_then(|inventory| held(machine, boot.as_ref(), inventory, ctx));
    Observed {
        machine: Arc::clone(machine),
        conflicts: conflicts(machine, &name, &node_name, ctx),
        profile: profile(machine, inventory.as_ref(), ctx),
        boot,
        inventory,
        install: fold::install_of(machine, &reports),
        wipe: wipe(machine, fold::wipe_of(machine, &reports), ctx),
        reinstall: reinstall(machine, ctx),
        node: stores.node(&node_name).map(|node| NodeSeen::of(&node)),
        claims,
        open_requests: requests.iter().map(|csr| csr.name_any()).collect(),
        held,
        pods: None,
    }
}

/// Looks at the Pods of its Node where they are to leave it. Nobody watches all Pods of a cluster for the few that matter here.
///
/// # Errors
/// The API server did not answer.
pub async fn look_at_pods(seen: &mut Observed, ctx: &Context) -> Result<(), Error> {
    if seen.drains()
        && let Some(node) = seen.own_node()
    {
        seen.pods = Some(drain::look(&ctx.client, &node.name, &ctx.refusals).await?);
    }
    Ok(())
}

/// What a box that is held is known by, and what the rules make of it.
fn held(machine: &Machine, boot: Option<&BootRecord>, inventory: &Inventory, ctx: &Context) -> Option<HeldSeen> {
    let mac = *machine.spec.macs.first().filter(|_| machine.spec.hold)?;
    let machines = ctx.stores.machines.state();
    let others = machines.iter().map(|other| &**other);
    let Known { doubts, .. } = identify(mac, boot, inventory, Some(machine), others);
    Some(HeldSeen { doubts, choice: rules::decide(&ctx.stores.rules.state(), mac, inventory) })
}

/// Machines that are to be wiped, in an order that all replicas and all reconciles see alike (threats.md, R9).
fn wipe(machine: &Machine, reported: Option<WipeStatus>, ctx: &Context) -> WipeSeen {
    if machine.metadata.deletion_timestamp.is_none() || machine.spec.deletion_policy != DeletionPolicy::Wipe {
        return WipeSeen { reported, ..WipeSeen::default() };
    }
    let state = |machine: &Machine| machine.wanted_wipe().map_or(WipeState::Pending, |wipe| wipe.state);
    let place = |machine: &Machine| {
        let deleted = machine.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        (state(machine) == WipeState::Pending, deleted, machine.name_any())
    };
    let mine = place(machine);
    let first = |other: &Machine| {
        let wipes = other.metadata.deletion_timestamp.is_some() && other.spec.deletion_policy == DeletionPolicy::Wipe;
        wipes && state(other) != WipeState::Wiped && place(other) < mine
    };
    WipeSeen { reported, turn: turn(first, ctx.settings.wipes_at_once, ctx) }
}

/// The place of a machine before which these come, where no more than 10, 5 %, or what a flag says, may be dealt with at once.
fn turn(first: impl Fn(&Machine) -> bool, flag: Option<usize>, ctx: &Context) -> Turn {
    let machines = &ctx.stores.machines;
    let limit = ceiling(None, machines.len()).min(flag.unwrap_or(usize::MAX));
    Turn { before: machines.state_filter(first).len(), limit }
}

/// Machines whose disk is to be overwritten by another `spec.bootIntent`, in an order that all reconciles see alike (threats.md, R9): a slip in
/// a template must not take a fleet. An update's intents have a ceiling of their own, and a box that never was anything has nothing to lose.
fn reinstall(machine: &Machine, ctx: &Context) -> Option<Turn> {
    // Of nearly all machines their status says that they are none of them, and the Profiles' selectors need not be read.
    overwrites(machine)?;
    let profiles = Profiles::read(&ctx.stores.profiles.state());
    let mine = place(machine, &profiles)?;
    let first = |other: &Machine| {
        place(other, &profiles).is_some_and(|place| (place, other.name_any()) < (mine, machine.name_any()))
    };
    Some(turn(first, ctx.settings.reinstalls_at_once, ctx))
}

/// Which of the machines that are installed anew come first: those whose window is open (false). Nothing, for a machine that is none of them.
pub(super) fn place(machine: &Machine, profiles: &Profiles) -> Option<bool> {
    let waits = overwrites(machine)?;
    // An installer that asks for templates overwrites disks as well.
    let profile = profiles.of(machine).ok()?;
    (profile.spec.install.is_some() || !profile.spec.templates.is_empty()).then_some(waits)
}

/// The same of one whose Profile installs, by its status alone.
fn overwrites(machine: &Machine) -> Option<bool> {
    let status = machine.status.as_ref()?;
    let stays = machine.metadata.deletion_timestamp.is_none() && !machine.is_held();
    let (intent, declared) = (status.intent.as_ref()?, machine.declared_intent());
    // Of another intent: what is being installed for the first time overwrites nothing.
    let identity = status.identity.as_ref().is_some_and(|identity| identity.intent != declared);
    let install = status.install.as_ref().is_some_and(|install| install.intent != declared);
    let was_something = identity || install || status.booted_revision.is_some();
    let update = status.update.as_ref().is_some_and(|update| update.base == declared && update.intent != declared);
    let waits = intent.id != declared && !update;
    let begun = intent.id == declared && intent.state == IntentState::Open;
    (was_something && stays && (waits || begun)).then_some(waits)
}

/// The fleet knows who shares an address; a shared node name is as bad, since only one box can have it.
fn conflicts(machine: &Machine, name: &str, node_name: &str, ctx: &Context) -> Vec<Conflict> {
    let mut conflicts = ctx.stores.fleet().conflicts(machine);
    let same = |other: &Machine| node::is_named(other, node_name) && other.metadata.name.as_deref() != Some(name);
    let others = ctx.stores.machines.state_filter(same);
    let field = format!("spec.nodeName {node_name}");
    conflicts.extend(others.iter().map(|other| Conflict { field: field.clone(), other: other.name_any() }));
    conflicts.sort();
    conflicts
}

fn profile(machine: &Arc<Machine>, inventory: Option<&Inventory>, ctx: &Context) -> Result<ProfileSeen, Trouble> {
    let profiles = ctx.stores.profiles.state();
    let found = profile_for(machine, &profiles)
        .map_err(|error| Trouble { reason: error.reason(), message: error.to_string() })?;
    let files = artifacts::for_machine(&found, &reports_on(&found, ctx));
    let trouble = no_api_server(&found, ctx).or_else(|| unrendered(&found, machine, ctx)).or_else(|| match &files {
        Files::Ready | Files::Unknown => None,
        Files::Fetching { missing: _, message } => {
            Some(Trouble { reason: reason::ARTIFACT_FETCHING, message: message.clone() })
        }
        Files::Failed(message) => Some(Trouble { reason: reason::ARTIFACT_FAILED, message: message.clone() }),
    });
    Ok(ProfileSeen {
        name: found.name().map(|name| name.into_owned()).unwrap_or_default(),
        revision: found.revision().to_owned(),
        lives_in_memory: found.spec.install.is_none() && found.spec.boot.on_reboot == OnReboot::Network,
        boots_an_installer: found.spec.install.is_none() && !found.spec.templates.is_empty(),
        join: found.spec.join.mode,
        trouble,
        unreported: files == Files::Unknown,
        marks: marks::wanted(machine, Some(&found), inventory),
        update: found.spec.update(),
        admission: admission(&found, machine),
    })
}

fn admission(profile: &Profile, machine: &Machine) -> Option<i64> {
    let rollout = profile.status.as_ref()?.rollout.as_ref()?;
    let (name, uid) = (machine.name_any(), machine.metadata.uid.as_ref()?);
    let ours = rollout.admitted.iter().filter(|admission| admission.machine == name && admission.uid == *uid);
    ours.map(|admission| admission.number).max()
}

fn unrendered(profile: &Chosen, machine: &Machine, ctx: &Context) -> Option<Trouble> {
    match renders::texts(profile, &ctx.stores) {
        Err(trouble) => Some(trouble),
        Ok(texts) => ctx.renders.dry_run(profile, machine, &texts),
    }
}

fn no_api_server(profile: &Profile, ctx: &Context) -> Option<Trouble> {
    let join = &profile.spec.join;
    let known = join.api_server.is_some() || ctx.settings.join_api_server.is_some();
    (join.mode == JoinMode::Certificate && !known).then(|| Trouble {
        reason: NO_API_SERVER,
        message: format!(
            "no API server to join is known: set spec.join.apiServer of the Profile {}, or the controller's \
             --join-api-server",
            profile.name_any()
        ),
    })
}
