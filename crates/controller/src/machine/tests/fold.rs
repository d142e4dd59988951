//! From several boot servers' reports to one record.

use magnetite_api::{
    BootReport, BootReportSpec,
    report::{
        BootFailure,
        BootStepName::{AgentStarted, ConfigFetched, FirmwareSeen, KernelFetched, NodeReady},
        Inventory, Subject, SubjectKind,
    },
};

use super::*;
use crate::machine::fold::{clean, inventory_of, is_about, newest_boot};

fn report(boot: BootRecord) -> Arc<BootReport> {
    let subject = Subject { kind: SubjectKind::Machine, name: "box-1".into(), uid: "uid-1".into() };
    let server = boot.server.clone();
    let spec = BootReportSpec {
        subject,
        server,
        boot: Some(boot),
        inventory: None,
        install: None,
        wipe: None,
        artifacts: vec![],
    };
    Arc::new(BootReport::new("box-1.server-1", spec))
}

#[test]
fn the_newest_boot_wins() {
    let old = report(boot(0, &[(FirmwareSeen, 0), (NodeReady, 90)]));
    let new = report(boot(500, &[(FirmwareSeen, 500)]));
    let folded = newest_boot(&machine(), &[old, new]).unwrap();
    assert_eq!(folded.started_at, Time(t(500)));
}

#[test]
fn of_two_servers_that_saw_one_boot_the_one_that_served_it_tells() {
    let served = report(boot(0, &[(FirmwareSeen, 0), (KernelFetched, 9)]));
    let overheard = report(boot(1, &[(FirmwareSeen, 1)]));
    let folded = newest_boot(&machine(), &[served, overheard]).unwrap();
    assert_eq!(folded.furthest().unwrap().name, KernelFetched);
}

#[test]
fn a_report_that_was_deleted_takes_no_history_with_it() {
    let mut machine = machine();
    machine.status.as_mut().unwrap().boot = Some(Box::new(boot(100, &[(AgentStarted, 130)])));
    assert_eq!(newest_boot(&machine, &[] as &[Arc<BootReport>]).unwrap().started_at, Time(t(100)));
    let older = report(boot(0, &[(FirmwareSeen, 0)]));
    assert_eq!(newest_boot(&machine, &[older]).unwrap().started_at, Time(t(100)));
    // The same boot, told anew, is taken from the report.
    let mut told = boot(100, &[(AgentStarted, 130)]);
    told.server = "server-2".into();
    assert_eq!(newest_boot(&machine, &[report(told)]).unwrap().server, "server-2");
}

#[test]
fn a_report_on_a_machine_that_was_deleted_is_not_about_its_successor() {
    let mut machine = machine();
    let report = report(boot(0, &[]));
    assert!(is_about(&report, &machine));
    machine.metadata.uid = Some("uid-2".into());
    assert!(!is_about(&report, &machine));
}

#[test]
fn hostile_text_is_cut_and_stripped() {
    assert_eq!(clean("a\u{1b}[31mb\nc\u{202e}d\0", 99), "a[31mb cd");
    assert_eq!(clean("äöü", 2), "äö");
    let mut hostile = boot(0, &[(ConfigFetched, 5)]);
    hostile.steps = vec![hostile.steps[0].clone(); 99];
    hostile.steps[0].detail = Some("x\u{7}".repeat(999));
    hostile.steps[0].count = -5;
    hostile.address = Some("not an address".into());
    hostile.failure = Some(BootFailure {
        step: ConfigFetched,
        reason: "Bad; rm -rf /".repeat(9),
        message: "m\r\n".repeat(999),
        at: Time(t(5)),
    });
    for _ in 0..9 {
        hostile.previous.push(BootRecord { started_at: Time(t(-100)), ..hostile.clone() }.in_brief());
    }
    let folded = newest_boot(&machine(), &[report(hostile)]).unwrap();
    assert_eq!(folded.previous.len(), 1, "one boot, told nine times");
    let told = folded.previous[0].failure.as_ref().unwrap();
    assert!(told.reason.len() <= 64 && told.message.len() <= 300);
    assert_eq!(folded.steps.len(), 32);
    assert_eq!(folded.steps[0].detail.as_ref().unwrap().len(), 200);
    assert_eq!(folded.steps[0].count, 1);
    assert_eq!(folded.address, None);
    let failure = folded.failure.unwrap();
    assert!(failure.reason.len() <= 64 && failure.reason.chars().all(|c| c.is_ascii_alphanumeric()));
    assert!(failure.message.len() <= 300 && !failure.message.contains('\r'));
}

#[test]
fn an_inventory_stays_until_another_comes() {
    let mut machine = machine();
    let kept = Inventory { cpus: 4, ..Inventory::default() };
    machine.status.as_mut().unwrap().inventory = Some(Box::new(kept.clone()));
    let silent = report(boot(9, &[]));
    assert_eq!(inventory_of(&machine, std::slice::from_ref(&silent)), Some(kept));
    let mut telling = BootReport::clone(&silent);
    telling.spec.inventory = Some(Inventory { cpus: 8, product: Some("a\nb".into()), ..Inventory::default() });
    let told = inventory_of(&machine, &[Arc::new(telling)]).unwrap();
    assert_eq!((told.cpus, told.product.as_deref()), (8, Some("a b")));
}

/// R8, R24: what is installed in the wanted intent counts before all else, and what the status knew is not forgotten for an older report.
#[test]
fn what_is_installed_stays_installed() {
    use magnetite_api::install::{InstallState, InstallStatus};
    let said = |intent: &str, state, at: i64| InstallStatus {
        intent: intent.into(),
        state,
        disk: Some("vda\u{202e}\n".into()),
        image: None,
        at: Time(t(at)),
        message: None,
    };
    let report = |install: InstallStatus| {
        let mut report = BootReport::clone(&report(boot(0, &[])));
        report.spec.install = Some(install);
        Arc::new(report)
    };
    let mut machine = machine();
    let none: [Arc<BootReport>; 0] = [];
    assert_eq!(super::super::fold::install_of(&machine, &none), None);
    let wanted = machine.wanted_intent().to_owned();
    let reports = [
        report(said(&wanted, InstallState::Installed, 5)),
        report(said(&wanted, InstallState::Failed, 9)),
        report(said("older", InstallState::Installed, 99)),
    ];
    let found = super::super::fold::install_of(&machine, &reports).unwrap();
    assert_eq!((found.intent.as_str(), found.state, found.at), (wanted.as_str(), InstallState::Installed, Time(t(5))));
    assert_eq!(found.disk.as_deref(), Some("vda "), "cut and stripped");
    machine.status.get_or_insert_default().install = Some(Box::new(said(&wanted, InstallState::Installed, 7)));
    assert!(machine.is_installed());
    assert_eq!(super::super::fold::install_of(&machine, &none).unwrap().state, InstallState::Installed, "kept");
    machine.spec.boot_intent = Some("another".into());
    assert!(!machine.is_installed());
    assert_eq!(super::super::fold::install_of(&machine, &reports).unwrap().intent, "older", "what is on the disk");
    let now = [report(said("another", InstallState::Installing, 8))];
    assert_eq!(super::super::fold::install_of(&machine, &now).unwrap().state, InstallState::Installing);
}
