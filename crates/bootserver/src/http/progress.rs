//! The agents' reports: how far a box is, and what it is made of. Hostile input, like all that a box says.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kube::ResourceExt;
use magnetite_api::{
    Machine, Sha256,
    install::{InstallState, WipeState, WipedDisk},
    join::ReportRequest,
    report::{BootStepName, Inventory},
};
use magnetite_daemon::log::chain;

use super::{Peer, body::Posted, guard::AgentLink, later, refuse};
use crate::{
    app::{App, Cluster},
    metrics::count,
    record::{Detail, clean},
};

/// A box tells how far it is.
pub async fn report(
    State(app): State<Arc<App>>,
    peer: Peer,
    AgentLink { machine, now }: AgentLink,
    Posted(body): Posted<ReportRequest>,
) -> Response {
    let told = |outcome| count(&app.metrics.progress, outcome);
    let malformed = |why: &str| {
        told("malformed");
        refuse(StatusCode::BAD_REQUEST, "BadRequest", clean(why, 300))
    };
    let report = match body {
        Ok(report) => report,
        Err(why) => return malformed(&why),
    };
    if report.step < BootStepName::AgentStarted {
        return malformed("an agent reports AgentStarted and what comes after it");
    }
    if machine.is_held() && (report.step != BootStepName::AgentStarted || report.failure.is_some()) {
        // It does nothing that there would be to report, and its link is anybody's who read its config.
        return malformed("a box that is held reports AgentStarted alone");
    }
    // Before the limit: who cannot sign must not use up the share of who can.
    if let Err(doubt) = app.signatures.check(&report, &machine) {
        told(doubt.as_str());
        if app.signatures.told.is_new(machine.name_any(), now) {
            let (machine, reason) = (machine.name_any(), doubt.as_str());
            tracing::warn!(machine, peer = %peer.0, reason, "a report was refused: it is not by the key that claimed the machine");
        }
        return refuse(StatusCode::FORBIDDEN, "ReportNotSigned", doubt.to_string());
    }
    let ReportRequest { step, detail, failure, inventory, wiped, signature: _ } = report;
    if !app.limits.reports.admit(machine.name_any(), now) {
        told("too_many");
        return later("Busy", "one report a second", 1);
    }
    told("taken");
    if let Some(inventory) = inventory {
        app.records.inventory(&machine, bounded(inventory), now);
    }
    match failure {
        Some(failure) => {
            let why = || Some(format!("{}: {}", failure.reason, failure.message));
            match step {
                BootStepName::Installing => {
                    app.records.install(&machine, InstallState::Failed, None, why(), None, now);
                }
                BootStepName::Wiping => app.records.wipe(&machine, WipeState::Failed, Vec::new(), why(), now),
                _ => {}
            }
            app.records.fail(&machine, step, &failure.reason, &failure.message, now);
        }
        None => {
            let install = |state, disk| {
                app.records.install(&machine, state, disk, None, image_of(&app, &machine), now);
            };
            match step {
                BootStepName::Installing => install(InstallState::Installing, None),
                BootStepName::Installed => install(InstallState::Installed, detail.clone()),
                BootStepName::Wiping => app.records.wipe(&machine, WipeState::Wiping, Vec::new(), None, now),
                BootStepName::Wiped => {
                    let disks = wiped.into_iter().take(64).map(bounded_disk).collect();
                    app.records.wipe(&machine, WipeState::Wiped, disks, None, now);
                }
                _ => {}
            }
            let detail = Detail { words: detail, ..Detail::default() }.at_peer(peer.ip());
            app.records.step(&machine, step, detail, now);
            match step {
                BootStepName::SystemBooted => booted(&app, &machine).await,
                BootStepName::Installed | BootStepName::Wiped => remembered(&app, &machine).await,
                _ => {}
            }
        }
    }
    StatusCode::NO_CONTENT.into_response()
}

/// That a machine did what was wanted is on disk before the box hears that its report was taken: after a crash it must not be
/// installed again. Without a cluster nobody else closes its window; in one the controller does, once it has the report.
async fn booted(app: &App, machine: &Machine) {
    let name = machine.name_any();
    let written = match &app.cluster {
        Cluster::None(windows) => {
            let (windows, name) = (Arc::clone(windows), name.clone());
            tokio::task::spawn_blocking(move || windows.fulfil(&name)).await.unwrap_or(Ok(()))
        }
        Cluster::Client(_) => app.folder.write(app, &name, true).await.map(drop),
    };
    if let Err(error) = written {
        tracing::error!(machine = name, error = chain(&error), "that the machine booted is not remembered");
    }
}

/// That a machine is installed, or wiped, is on disk before the box hears that its report was taken, and restarts: whatever the API server says
/// or forgets, it is then sent on to its disk.
async fn remembered(app: &App, machine: &Machine) {
    let name = machine.name_any();
    if let Err(error) = app.folder.write(app, &name, true).await {
        tracing::error!(
            machine = name,
            error = chain(&error),
            "what the machine did to its disks is not remembered here"
        );
    }
}

/// The image that a machine installs, as its Profile says now.
fn image_of(app: &App, machine: &Machine) -> Option<Sha256> {
    let architecture = app.records.get(&machine.name_any())?.boot.architecture?;
    Some(app.profile(&app.view(), machine).ok()?.spec.image(architecture)?.sha256)
}

/// What a box says of a disk, cut to what the schema takes.
fn bounded_disk(disk: WipedDisk) -> WipedDisk {
    let WipedDisk { name, serial, model, mut methods, bytes, seconds, verified_bytes } = disk;
    let text = |text: Option<String>| text.map(|text| clean(&text, 128));
    methods.truncate(4);
    WipedDisk {
        name: clean(&name, 64),
        serial: text(serial),
        model: text(model),
        methods,
        bytes,
        seconds,
        verified_bytes,
    }
}

/// What a box says it is made of, cut to what the schema takes.
pub fn bounded(mut inventory: Inventory) -> Inventory {
    let trim = |text: &mut Option<String>| {
        if let Some(text) = text {
            *text = clean(text, 128);
        }
    };
    let inv = &mut inventory;
    for text in [
        &mut inv.manufacturer,
        &mut inv.product,
        &mut inv.serial,
        &mut inv.firmware_version,
        &mut inv.kernel,
        &mut inv.cpu_model,
    ] {
        trim(text);
    }
    inv.bmc_address = inv.bmc_address.as_deref().map(|text| clean(text, 45));
    inv.firmware = inv.firmware.as_deref().map(|text| clean(text, 16));
    inv.disks.truncate(64);
    inv.nics.truncate(64);
    inv.gpus.truncate(64);
    for disk in &mut inv.disks {
        disk.name = clean(&disk.name, 64);
        trim(&mut disk.model);
        trim(&mut disk.serial);
    }
    for nic in &mut inv.nics {
        nic.name = clean(&nic.name, 64);
        nic.driver = nic.driver.as_deref().map(|text| clean(text, 64));
    }
    for gpu in &mut inv.gpus {
        (gpu.address, gpu.vendor) = (clean(&gpu.address, 16), clean(&gpu.vendor, 4));
        (gpu.device, gpu.class) = (clean(&gpu.device, 4), clean(&gpu.class, 6));
    }
    inventory
}
