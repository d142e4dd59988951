//! What the boot servers say about a Profile's files, put together.

use std::collections::BTreeMap;

use magnetite_api::{
    BootReport, Profile, Sha256,
    profile::ArchBoot,
    report::{ArtifactReport, ArtifactState},
};

/// Whether the files are at hand, at one boot server or in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Files {
    /// All of them.
    Ready,
    /// Nobody said so of all of them.
    Unknown,
    /// Some are on their way; what and where.
    Fetching(String),
    /// Some are missing or wrong; what and where.
    Failed(String),
}

/// Every file that a Profile names, with its field.
pub fn declared(profile: &Profile) -> BTreeMap<String, Sha256> {
    let mut files = BTreeMap::new();
    for (architecture, boot) in profile.spec.boot.architectures() {
        let ArchBoot { kernel, initrds, files: named, command_line: _ } = boot;
        let field = |rest: String| format!("spec.boot.{architecture}.{rest}");
        files.insert(field("kernel".to_owned()), kernel.sha256);
        files.extend(initrds.iter().enumerate().map(|(i, file)| (field(format!("initrds[{i}]")), file.sha256)));
        files.extend(named.iter().map(|(name, file)| (field(format!("files.{name}")), file.sha256)));
    }
    files
}

/// What each boot server says. A report about a sum that is no longer declared says nothing.
fn by_server(profile: &Profile, reports: &[impl AsRef<BootReport>]) -> Vec<Files> {
    let declared = declared(profile);
    let each = reports.iter().map(|report| {
        let spec = &report.as_ref().spec;
        let current: Vec<&ArtifactReport> =
            spec.artifacts.iter().filter(|file| declared.values().any(|sum| *sum == file.sha256)).collect();
        let describe = |file: &ArtifactReport| describe(file, &spec.server);
        let bad = |file: &&&ArtifactReport| {
            matches!(file.state, ArtifactState::Missing | ArtifactState::WrongSum | ArtifactState::Failed)
        };
        if let Some(file) = current.iter().find(bad) {
            return Files::Failed(describe(file));
        }
        if let Some(file) = current.iter().find(|file| file.state == ArtifactState::Fetching) {
            return Files::Fetching(describe(file));
        }
        let known = |sum: &Sha256| current.iter().any(|file| file.sha256 == *sum);
        if declared.values().all(known) { Files::Ready } else { Files::Unknown }
    });
    each.collect()
}

fn describe(file: &ArtifactReport, server: &str) -> String {
    let ArtifactReport { field, sha256: _, state, bytes: _, message } = file;
    let state = match state {
        ArtifactState::Ready => "is at hand",
        ArtifactState::Fetching => "is being fetched",
        ArtifactState::Missing => "is missing",
        ArtifactState::WrongSum => "has another SHA-256 than declared",
        ArtifactState::Failed => "could not be fetched or read",
    };
    let detail = message.as_deref().map_or(String::new(), |message| format!(": {message}"));
    let text = format!("{field} {state} at the boot server {server}{detail}");
    crate::machine::fold::clean(&text, 512)
}

/// For the Profile: the worst of all boot servers, since each of them should have every file. Nothing of
/// some is no worse than all of one.
pub fn for_profile(profile: &Profile, reports: &[impl AsRef<BootReport>]) -> Files {
    let all = by_server(profile, reports);
    let worst = all.iter().filter(|files| matches!(files, Files::Fetching(_) | Files::Failed(_))).max().cloned();
    worst.unwrap_or(if all.contains(&Files::Ready) { Files::Ready } else { Files::Unknown })
}

/// For a Machine: the best of all boot servers, since one that has every file is enough to boot from.
pub fn for_machine(profile: &Profile, reports: &[impl AsRef<BootReport>]) -> Files {
    by_server(profile, reports).into_iter().min().unwrap_or(Files::Unknown)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use magnetite_api::{
        BootReportSpec, ProfileSpec,
        profile::{Artifact, BootSpec},
        report::{Subject, SubjectKind},
    };

    use super::*;

    fn profile() -> Profile {
        let file = |name: &str| Artifact { sha256: Sha256::of(name.as_bytes()), ..Artifact::default() };
        let boot = ArchBoot { kernel: file("k"), initrds: vec![file("i")], ..ArchBoot::default() };
        let boot = BootSpec { x86_64: Some(boot), ..BootSpec::default() };
        Profile::new("p", ProfileSpec { boot, ..ProfileSpec::default() })
    }

    fn report(server: &str, files: &[(&str, ArtifactState)]) -> Arc<BootReport> {
        let artifact = |(name, state): &(&str, ArtifactState)| ArtifactReport {
            field: format!("spec.boot.x86_64.{name}"),
            sha256: Sha256::of(name.as_bytes()),
            state: *state,
            bytes: 0,
            message: None,
        };
        let subject = Subject { kind: SubjectKind::Profile, name: "p".into(), uid: "u".into() };
        let artifacts = files.iter().map(artifact).collect();
        let spec = BootReportSpec { subject, server: server.into(), boot: None, inventory: None, artifacts };
        Arc::new(BootReport::new("profile.p", spec))
    }

    #[test]
    fn one_server_that_has_all_is_enough_for_a_machine_and_not_for_the_profile() {
        use ArtifactState::{Missing, Ready};
        let reports = [report("a", &[("k", Ready), ("i", Ready)]), report("b", &[("k", Ready), ("i", Missing)])];
        assert_eq!(for_machine(&profile(), &reports), Files::Ready);
        let Files::Failed(message) = for_profile(&profile(), &reports) else { panic!("b misses a file") };
        assert_eq!(message, "spec.boot.x86_64.i is missing at the boot server b");
    }

    #[test]
    fn silence_and_old_sums_say_nothing() {
        use ArtifactState::{Ready, WrongSum};
        assert_eq!(for_profile(&profile(), &Vec::<Arc<BootReport>>::new()), Files::Unknown);
        assert_eq!(for_machine(&profile(), &[report("a", &[("k", Ready)])]), Files::Unknown);
        assert_eq!(for_profile(&profile(), &[report("a", &[("old", WrongSum)])]), Files::Unknown);
    }
}
