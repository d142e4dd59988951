//! Machines and Profiles that read as sentences, for the tests of this crate.

use std::sync::Arc;

use jiff::Timestamp;
use magnetite_api::{
    Architecture, Machine, MachineSpec, Profile, ProfileSpec, Sha256,
    install::InstallSpec,
    profile::{ArchBoot, Artifact, BootSpec, IgnitionSource, OnReboot, TemplateSource},
    report::{BootRecord, BootStep, BootStepName, Firmware},
    time::seconds,
};

use crate::select::Chosen;

pub(crate) struct MachineBuilder(Machine);

pub(crate) fn machine(name: &str) -> MachineBuilder {
    MachineBuilder(Machine::new(name, MachineSpec { boot_window_seconds: 3600, ..MachineSpec::default() }))
}

impl MachineBuilder {
    pub(crate) fn mac(mut self, mac: &str) -> Self {
        self.0.spec.macs.push(mac.parse().unwrap());
        self
    }
    pub(crate) fn uuid(mut self, uuid: &str) -> Self {
        self.0.spec.uuid = Some(uuid.parse().unwrap());
        self
    }
    pub(crate) fn serial(mut self, serial: &str) -> Self {
        self.0.spec.serial = Some(serial.to_owned());
        self
    }
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }
    pub(crate) fn profile(mut self, name: &str) -> Self {
        self.0.spec.profile = Some(name.to_owned());
        self
    }
    pub(crate) fn intent(mut self, id: &str) -> Self {
        self.0.spec.boot_intent = Some(id.to_owned());
        self
    }
    pub(crate) fn variable(mut self, key: &str, value: &str) -> Self {
        self.0.spec.variables.insert(key.to_owned(), value.to_owned());
        self
    }
    pub(crate) fn arc(self) -> Arc<Machine> {
        Arc::new(self.0)
    }
}

pub(crate) struct ProfileBuilder(Profile);

pub(crate) fn profile(name: &str) -> ProfileBuilder {
    let file = |path: &str| Artifact { url: None, file: Some(path.to_owned()), sha256: Sha256::of(path.as_bytes()) };
    let boot = ArchBoot {
        kernel: file("debian/vmlinuz"),
        initrds: vec![file("debian/initrd.img")],
        files: [("rootfs".to_owned(), file("debian/rootfs.squashfs"))].into(),
        command_line: vec!["console=ttyS0".to_owned()],
    };
    let boot = BootSpec { x86_64: Some(boot), ..BootSpec::default() };
    ProfileBuilder(Profile::new(name, ProfileSpec { boot, ..ProfileSpec::default() }))
}

impl ProfileBuilder {
    pub(crate) fn selecting(mut self, key: &str, value: &str) -> Self {
        let selector = self.0.spec.selector.get_or_insert_default();
        selector.match_labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }
    pub(crate) fn on_reboot(mut self, on_reboot: OnReboot) -> Self {
        self.0.spec.boot.on_reboot = on_reboot;
        self
    }
    pub(crate) fn argument(mut self, template: &str) -> Self {
        self.0.spec.boot.x86_64.as_mut().unwrap().command_line.push(template.to_owned());
        self
    }
    pub(crate) fn installing(mut self, image: &str) -> Self {
        self.0.spec.install = Some(InstallSpec { image: image.to_owned(), ..InstallSpec::default() });
        self
    }
    pub(crate) fn variable(mut self, key: &str, value: &str) -> Self {
        self.0.spec.variables.insert(key.to_owned(), value.to_owned());
        self
    }
    pub(crate) fn ignition(mut self, text: &str) -> Self {
        self.0.spec.ignition = Some(IgnitionSource { inline: Some(text.to_owned()), config_map: None });
        self
    }
    pub(crate) fn template(mut self, name: &str, text: &str) -> Self {
        let source = TemplateSource { inline: Some(text.to_owned()), config_map: None };
        self.0.spec.templates.insert(name.to_owned(), source);
        self
    }
    pub(crate) fn arc(self) -> Arc<Profile> {
        Arc::new(self.0)
    }
    pub(crate) fn chosen(self) -> Chosen {
        Chosen::new(self.arc())
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn step(name: BootStepName, second: i64) -> BootStep {
    BootStep { name, first_at: seconds(at(second)), last_at: seconds(at(second)), count: 1, bytes: None, detail: None }
}

/// A boot that began at a second, with its steps.
pub(crate) fn boot(began: i64, steps: &[BootStep]) -> BootRecord {
    let last = steps.iter().map(|step| step.last_at.0).max().unwrap_or(at(began));
    BootRecord {
        started_at: seconds(at(began)),
        last_seen: seconds(last),
        server: "boot-1".to_owned(),
        firmware: Some(Firmware::Uefi),
        architecture: Some(Architecture::X86_64),
        mac: "52:54:00:30:00:10".parse().ok(),
        uuid: None,
        address: None,
        steps: steps.to_vec(),
        failure: None,
        loader: None,
        revision: None,
        failed_loaders: Vec::new(),
        previous: Vec::new(),
    }
}
