//! What stands in the way of machines joining, or lets others in: the whole installation at a glance.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::version::Info};
use kube::{Api, Client, ResourceExt, api::ListParams};
use magnetite_api::{
    BootReport, Machine, Phase, Profile,
    conditions::{self, AUTO_RENEW_BYPASS, JOIN_BYPASS_POSSIBLE, READY, UNCONTESTED, reason},
};

use crate::{
    cluster::refusal,
    error::Error,
    style::{
        Style,
        Tone::{Bad, Bold, Good},
        plain,
    },
};

/// Name of the controller's Lease.
const LEASE: &str = "magnetite-controller";
/// A Lease that was not renewed for so long is nobody's.
const SILENT: SignedDuration = SignedDuration::from_secs(60);
/// API servers since this one say with which certificate a request was made.
const TELLS_CERTIFICATES: u32 = 32;
/// How many names of a kind are shown.
const NAMED: usize = 5;

/// What was found out.
#[derive(Debug)]
pub struct Facts {
    /// The API server's version.
    pub version: Info,
    /// The controller's Lease, if it may be read.
    pub lease: Result<Option<Lease>, String>,
    /// All Profiles.
    pub profiles: Vec<Profile>,
    /// All Machines.
    pub machines: Vec<Machine>,
    /// All reports of boot servers, if they may be read.
    pub reports: Result<Vec<BootReport>, String>,
}

/// Asks the cluster.
///
/// # Errors
/// The cluster does not answer, or Magnetite's kinds are not there.
pub async fn examine(client: &Client, namespace: &str) -> Result<Facts, Error> {
    let version = client.apiserver_version().await.map_err(|error| refusal("its version", error))?;
    let profiles: Api<Profile> = Api::all(client.clone());
    let profiles = match profiles.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(Error::NotInstalled("profiles")),
        Err(error) => return Err(refusal("Profiles", error)),
    };
    let machines: Api<Machine> = Api::all(client.clone());
    let machines = machines.list(&ListParams::default()).await.map_err(|error| refusal("Machines", error))?.items;
    let lease: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = lease.get_opt(LEASE).await.map_err(|error| refusal("Leases", error).to_string());
    let reports: Api<BootReport> = Api::all(client.clone());
    let reports = reports.list(&ListParams::default()).await;
    let reports = reports.map(|list| list.items).map_err(|error| refusal("boot reports", error).to_string());
    Ok(Facts { version, lease, profiles, machines, reports })
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, and what to do.
    pub says: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// To be mended.
    Bad,
}

/// What follows from the facts. Pure.
pub fn findings(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let Facts { version, lease, profiles, machines, reports } = facts;
    let mut found = vec![api_server(version), controller(lease, now), boot_servers(reports, profiles)];
    found.extend(bypass(profiles, JOIN_BYPASS_POSSIBLE, "others that join", Grade::Bad));
    found.extend(bypass(profiles, AUTO_RENEW_BYPASS, "others that renew", Grade::Note));
    found.push(ready("Profiles", profiles.iter().map(|profile| (profile.name_any(), of_profile(profile))).collect()));
    found.push(ready("Machines", machines.iter().map(|machine| (machine.name_any(), of_machine(machine))).collect()));
    found.extend(waits(machines));
    found.extend(contested(machines));
    found
}

fn api_server(version: &Info) -> Finding {
    let minor: Option<u32> = version.minor.trim_end_matches('+').parse().ok();
    let says = plain(&version.git_version);
    match minor.filter(|_| version.major == "1") {
        Some(minor) if minor < TELLS_CERTIFICATES => Finding {
            grade: Grade::Note,
            what: "API server",
            says: format!(
                "{says} does not say with which certificate a kubelet asks: what a rogue was given before a conflict was \
                 settled is renewed on. Kubernetes 1.{TELLS_CERTIFICATES} and later do"
            ),
        },
        _ => Finding { grade: Grade::Good, what: "API server", says },
    }
}

fn controller(lease: &Result<Option<Lease>, String>, now: Timestamp) -> Finding {
    let finding = |grade, says| Finding { grade, what: "controller", says };
    let spec = match lease {
        Err(why) => return finding(Grade::Note, plain(why)),
        Ok(None) => {
            return finding(
                Grade::Bad,
                "there is no Lease magnetite-controller: is it installed in another namespace (-n)?".to_owned(),
            );
        }
        Ok(Some(lease)) => lease.spec.clone().unwrap_or_default(),
    };
    let (holder, renewed) = (spec.holder_identity.unwrap_or_default(), spec.renew_time.map(|time| time.0));
    match renewed.map(|renewed| now.duration_since(renewed)) {
        Some(silent) if silent < SILENT && !holder.is_empty() => {
            finding(Grade::Good, format!("{} leads", plain(&holder)))
        }
        Some(silent) => finding(
            Grade::Bad,
            format!(
                "nobody leads since {} s: claims are not decided; look at its Pods and their logs",
                silent.as_secs()
            ),
        ),
        None => finding(Grade::Bad, "nobody leads: claims are not decided; look at its Pods and their logs".to_owned()),
    }
}

fn boot_servers(reports: &Result<Vec<BootReport>, String>, profiles: &[Profile]) -> Finding {
    let finding = |grade, says| Finding { grade, what: "boot servers", says };
    let reports = match reports {
        Err(why) => return finding(Grade::Note, plain(why)),
        Ok(reports) => reports,
    };
    let mut servers: Vec<_> = reports.iter().map(|report| plain(&report.spec.server)).collect();
    servers.sort();
    servers.dedup();
    match servers.len() {
        0 if profiles.is_empty() => finding(
            Grade::Note,
            "none has reported: without a Profile there is nothing to report. Ask again once there is one".to_owned(),
        ),
        0 => finding(
            Grade::Bad,
            "none has reported: machines are not answered; look at their Pods and their logs".to_owned(),
        ),
        _ => finding(Grade::Good, format!("{} reported", few(&servers))),
    }
}

/// Each Profile says the same of the cluster; the first that says it speaks for all.
fn bypass(profiles: &[Profile], kind: &str, what: &'static str, grade: Grade) -> Option<Finding> {
    let mut conditions = profiles.iter().filter_map(|profile| {
        let status = profile.status.as_ref()?;
        conditions::find(&status.conditions, kind)
    });
    let condition = conditions.next()?;
    let grade = if condition.status == "True" { grade } else { Grade::Good };
    Some(Finding { grade, what, says: plain(&condition.message) })
}

fn of_profile(profile: &Profile) -> Option<String> {
    let status = profile.status.as_ref();
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions::find(conditions, READY);
    ready.filter(|ready| ready.status == "False").map(|ready| ready.reason.clone())
}

fn of_machine(machine: &Machine) -> Option<String> {
    let status = machine.status.as_ref()?;
    (status.phase == Some(Phase::Failed)).then(|| status.reason.clone().unwrap_or_default())
}

fn ready(what: &'static str, all: Vec<(String, Option<String>)>) -> Finding {
    let total = all.len();
    let failed: Vec<_> =
        all.into_iter().filter_map(|(name, why)| Some(format!("{} ({})", plain(&name), plain(&why?)))).collect();
    if failed.is_empty() {
        return Finding { grade: Grade::Good, what, says: format!("none of {total} has failed") };
    }
    let says = format!("{} of {total} failed: {}", failed.len(), few(&failed));
    Finding { grade: Grade::Bad, what, says }
}

fn waits(machines: &[Machine]) -> Option<Finding> {
    let waiting = machines.iter().filter_map(|machine| {
        let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let claimed = conditions::find(conditions, conditions::CLAIMED);
        let key = claimed.is_some_and(|claimed| claimed.reason == reason::AWAITING_APPROVAL);
        // Its key is to be compared, or nobody said yet what it is to be.
        (key || machine.spec.hold).then(|| plain(&machine.name_any()))
    });
    let waiting: Vec<_> = waiting.collect();
    let first = waiting.first()?;
    let says = format!("{} wait for a person: kubectl magnetite approve {first}", few(&waiting));
    Some(Finding { grade: Grade::Note, what: "approvals", says })
}

fn contested(machines: &[Machine]) -> Option<Finding> {
    let contested = machines.iter().filter(|machine| {
        let status = machine.status.as_ref();
        let found = status.and_then(|status| conditions::find(&status.conditions, UNCONTESTED));
        found.is_some_and(|condition| condition.status == "False")
    });
    let contested: Vec<_> = contested.map(|machine| plain(&machine.name_any())).collect();
    let first = contested.first()?;
    let says = format!("two keys claim {}: kubectl magnetite conflict {first}", few(&contested));
    Some(Finding { grade: Grade::Bad, what: "conflicts", says })
}

fn few(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

/// The findings as text.
pub fn text(findings: &[Finding], style: Style) -> String {
    let mut out = String::new();
    for Finding { grade, what, says } in findings {
        let mark = match grade {
            Grade::Good => style.paint(Good, "✓"),
            Grade::Note => style.paint(Bold, "·"),
            Grade::Bad => style.paint(Bad, "✗"),
        };
        let _ = writeln!(out, "{mark} {what:<18} {says}");
    }
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::coordination::v1::LeaseSpec,
        apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    };
    use magnetite_api::{
        MachineSpec, MachineStatus, ProfileSpec, ProfileStatus,
        conditions::{Status, condition},
    };

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T03:00:00Z".parse().unwrap()
    }

    fn lease(silent: i64) -> Lease {
        let renewed = now() - SignedDuration::from_secs(silent);
        let spec = LeaseSpec {
            holder_identity: Some("controller-0".into()),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    fn says(
        kind: &str,
        status: Status,
        reason: &str,
        message: &str,
    ) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
        condition(&[], kind, status, reason, message, None, &Time(now()))
    }

    fn profile(bypass: Status) -> Profile {
        let mut profile = Profile::new("workers", ProfileSpec::default());
        let conditions = vec![
            says(JOIN_BYPASS_POSSIBLE, bypass, reason::FOREIGN_BINDING, "a bootstrap token may"),
            says(AUTO_RENEW_BYPASS, Status::False, reason::AS_DECLARED, "nobody renews"),
            says(READY, Status::True, reason::AS_DECLARED, ""),
        ];
        profile.status = Some(ProfileStatus { conditions, ..ProfileStatus::default() });
        profile
    }

    fn machine(name: &str, phase: Phase, condition: Option<(&str, Status, &str)>) -> Machine {
        let mut machine = Machine::new(name, MachineSpec::default());
        let conditions = condition.map(|(kind, status, reason)| says(kind, status, reason, "")).into_iter().collect();
        let reason = Some("NeverAsked".to_owned());
        machine.status = Some(MachineStatus { phase: Some(phase), reason, conditions, ..MachineStatus::default() });
        machine
    }

    fn facts() -> Facts {
        let version = Info { major: "1".into(), minor: "36".into(), git_version: "v1.36.3".into(), ..Info::default() };
        Facts {
            version,
            lease: Ok(Some(lease(3))),
            profiles: vec![profile(Status::False)],
            machines: vec![machine("r7-u01", Phase::Ready, None)],
            reports: Err("you may not read boot reports".into()),
        }
    }

    #[test]
    fn a_healthy_site() {
        let found = findings(&facts(), now());
        assert!(found.iter().all(|finding| finding.grade != Grade::Bad), "{found:?}");
        insta::assert_snapshot!(text(&found, Style::PLAIN));
    }

    #[test]
    fn before_there_is_a_profile_nobody_is_blamed() {
        let facts = Facts { reports: Ok(vec![]), profiles: vec![], machines: vec![], ..facts() };
        let findings = findings(&facts, now());
        let servers = findings.iter().find(|finding| finding.what == "boot servers").unwrap();
        assert_eq!(servers.grade, Grade::Note, "{servers:?}");
        assert!(findings.iter().all(|finding| finding.grade != Grade::Bad), "{findings:?}");
    }

    #[test]
    fn all_that_may_be_wrong() {
        let mut facts = facts();
        facts.version.minor = "31+".into();
        facts.lease = Ok(Some(lease(600)));
        facts.reports = Ok(vec![]);
        facts.profiles = vec![profile(Status::True)];
        facts.machines = vec![
            machine("r7-u01", Phase::Failed, Some((UNCONTESTED, Status::False, reason::CLAIM_CONFLICT))),
            machine(
                "r7-u02",
                Phase::Provisioning,
                Some((conditions::CLAIMED, Status::False, reason::AWAITING_APPROVAL)),
            ),
        ];
        insta::assert_snapshot!(text(&findings(&facts, now()), Style::PLAIN));
    }
}
