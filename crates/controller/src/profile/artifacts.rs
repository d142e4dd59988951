//! What the boot servers say about a Profile's files, put together.

use std::{cmp::Reverse, collections::BTreeMap};

use magnetite_api::{
    BootReport, Profile, Sha256,
    profile::ArchBoot,
    report::{ArtifactReport, ArtifactState},
};

/// Whether the files are at hand, at one boot server or in all. What is worse is more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Files {
    /// All of them.
    Ready,
    /// Nobody said so of all of them.
    Unknown,
    /// Some are on their way.
    Fetching {
        /// How much of a thousand is missing of the one of which most is.
        missing: u16,
        /// What and where.
        message: String,
    },
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
        let bad = |file: &&&ArtifactReport| match file.state {
            ArtifactState::Ready | ArtifactState::Fetching => false,
            ArtifactState::Missing
            | ArtifactState::WrongSum
            | ArtifactState::WrongArchitecture
            | ArtifactState::Failed => true,
        };
        if let Some(file) = current.iter().find(bad) {
            return Files::Failed(describe(file));
        }
        let coming = current.iter().filter(|file| file.state == ArtifactState::Fetching);
        let coming = coming.map(|file| (1000_u16.saturating_sub(file.per_mille().unwrap_or(0)), file));
        // Of several of which as much is missing, the first.
        if let Some((missing, file)) = coming.min_by_key(|(missing, _)| Reverse(*missing)) {
            return Files::Fetching { missing, message: describe(file) };
        }
        let known = |sum: &Sha256| current.iter().any(|file| file.sha256 == *sum);
        if declared.values().all(known) { Files::Ready } else { Files::Unknown }
    });
    each.collect()
}

fn describe(file: &ArtifactReport, server: &str) -> String {
    let ArtifactReport { field, sha256: _, state, bytes, total_bytes, message } = file;
    let counted = *bytes > 0 || total_bytes.is_some();
    if let (ArtifactState::WrongArchitecture, Some(words)) = (state, message) {
        return crate::machine::fold::clean(&format!("{words} on {server}"), 512);
    }
    // The boot server's words begin with the field, for those who have only them.
    let words = message.as_deref().map(|words| words.strip_prefix(&format!("{field}: ")).unwrap_or(words));
    let text = match state {
        ArtifactState::Fetching if counted => format!("fetching {field} on {server}: {}", file.progress()),
        ArtifactState::Fetching => format!("fetching {field} on {server}"),
        ArtifactState::Ready => format!("{field} is at hand on {server}"),
        ArtifactState::Missing => format!("{field} is missing on {server}"),
        ArtifactState::WrongSum => format!("{field} has another SHA-256 than declared on {server}"),
        ArtifactState::WrongArchitecture => format!("{field} is a kernel for another architecture on {server}"),
        ArtifactState::Failed => format!("{field} could not be fetched or read on {server}"),
    };
    let detail = words.filter(|_| !counted).map_or(String::new(), |words| format!(": {words}"));
    crate::machine::fold::clean(&format!("{text}{detail}"), 512)
}

/// For the Profile: the worst of all boot servers, since each of them should have every file. Nothing of
/// some is no worse than all of one.
pub fn for_profile(profile: &Profile, reports: &[impl AsRef<BootReport>]) -> Files {
    let all = by_server(profile, reports);
    let worst = all.iter().filter(|files| matches!(files, Files::Fetching { .. } | Files::Failed(_))).max().cloned();
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
            total_bytes: None,
            message: None,
        };
        let subject = Subject { kind: SubjectKind::Profile, name: "p".into(), uid: "u".into() };
        let artifacts = files.iter().map(artifact).collect();
        let spec = BootReportSpec {
            subject,
            server: server.into(),
            boot: None,
            inventory: None,
            install: None,
            wipe: None,
            artifacts,
        };
        Arc::new(BootReport::new("profile.p", spec))
    }

    #[test]
    fn one_server_that_has_all_is_enough_for_a_machine_and_not_for_the_profile() {
        use ArtifactState::{Missing, Ready};
        let reports = [report("a", &[("k", Ready), ("i", Ready)]), report("b", &[("k", Ready), ("i", Missing)])];
        assert_eq!(for_machine(&profile(), &reports), Files::Ready);
        let Files::Failed(message) = for_profile(&profile(), &reports) else { panic!("b misses a file") };
        assert_eq!(message, "spec.boot.x86_64.i is missing on b");
    }

    #[test]
    fn of_several_servers_the_one_that_has_least_speaks_for_the_profile_and_the_other_for_a_machine() {
        use ArtifactState::Fetching;
        let coming = |server, initrd, kernel| {
            let mut report = report(server, &[("k", Fetching), ("i", Fetching)]);
            let spec = &mut Arc::make_mut(&mut report).spec;
            for (file, bytes) in spec.artifacts.iter_mut().zip([kernel, initrd]) {
                let words = format!("{}: {bytes} of 157000000", file.field);
                (file.bytes, file.total_bytes, file.message) = (bytes, Some(157_000_000), Some(words));
            }
            report
        };
        let reports = [coming("boot-2", 100_000_000, 150_000_000), coming("boot-1", 61_900_000, 63_000_000)];
        let message = |files| match files {
            Files::Fetching { message, .. } => message,
            other => panic!("{other:?}"),
        };
        let least = "fetching spec.boot.x86_64.i on boot-1: 61 MB of 157 MB (39 %)";
        assert_eq!(message(for_profile(&profile(), &reports)), least);
        let most = "fetching spec.boot.x86_64.i on boot-2: 100 MB of 157 MB (63 %)";
        assert_eq!(message(for_machine(&profile(), &reports)), most);
        let begun = report("boot-3", &[("k", Fetching), ("i", ArtifactState::Ready)]);
        assert_eq!(message(for_profile(&profile(), &[begun])), "fetching spec.boot.x86_64.k on boot-3");
    }

    #[test]
    fn a_kernel_for_another_architecture_is_named() {
        let mut report = report("boot-1", &[("k", ArtifactState::WrongArchitecture), ("i", ArtifactState::Ready)]);
        let message = "spec.boot.aarch64.kernel is an x86_64 kernel".to_owned();
        Arc::make_mut(&mut report).spec.artifacts[0].message = Some(message);
        let words = "spec.boot.aarch64.kernel is an x86_64 kernel on boot-1".to_owned();
        assert_eq!(for_profile(&profile(), &[report]), Files::Failed(words));
    }

    #[test]
    fn silence_and_old_sums_say_nothing() {
        use ArtifactState::{Ready, WrongSum};
        assert_eq!(for_profile(&profile(), &Vec::<Arc<BootReport>>::new()), Files::Unknown);
        assert_eq!(for_machine(&profile(), &[report("a", &[("k", Ready)])]), Files::Unknown);
        assert_eq!(for_profile(&profile(), &[report("a", &[("old", WrongSum)])]), Files::Unknown);
    }
}
