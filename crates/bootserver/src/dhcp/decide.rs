//! From a packet's facts to what its sender boots, and what is remembered and logged of it.

use std::{net::IpAddr, sync::Arc};

use magnetite_api::{MacAddr, Machine, MachineUuid, netboot::NetbootSpec, netboot::ProxyDialect};
use magnetite_boot::{
    client::{ClientClass, Request},
    fleet::{Found, Identity},
    ladder::{self, Platform},
    plan::{self, Answer, Ignored, Loaders},
};
use magnetite_daemon::clock;
use magnetite_wire::dhcp::{
    Packet,
    reply::{BootAnswer, Class},
};

use super::{Server, unix};
use crate::{metrics::count, view::View};

/// The facts of a packet; nothing if it is neither PXE nor HTTP boot.
pub fn read(packet: &Packet) -> Option<(Request, Class)> {
    let options = &packet.options;
    let class = Class::of(&options.vendor_class()?)?;
    // An option that does not have its form counts as absent: firmware lies, and the MAC may still be known.
    let arches = options.arches().unwrap_or_default().into_iter().map(|arch| arch.0).collect();
    let class_of = |class| match class {
        Class::Pxe => ClientClass::Pxe,
        Class::Http => ClientClass::Http,
    };
    let request = Request {
        class: class_of(class),
        arches,
        ipxe: options.is_ipxe(),
        https: options.ipxe_has_https(),
        identity: identity(packet),
    };
    Some((request, class))
}

/// Who sent a packet, by what it says.
pub fn identity(packet: &Packet) -> Identity {
    let uuid = packet.options.smbios_uuid().unwrap_or_default().map(MachineUuid::from_smbios);
    Identity { mac: packet.mac().map(MacAddr), uuid, serial: None }
}

impl Server {
    /// What a client is told to boot, if anything.
    pub(super) fn decide(&self, request: &Request, class: Class) -> Option<BootAnswer> {
        let view = self.app.view();
        match self.app.find_client(&view, &request.identity, clock::now()) {
            Found::Machine(machine) => self.machine(&view, &machine, request, class),
            found @ (Found::Unknown | Found::Conflict(_)) => self.nobody(request, class, &found),
        }
    }

    fn machine(&self, view: &View, machine: &Arc<Machine>, request: &Request, class: Class) -> Option<BootAnswer> {
        let now = clock::now();
        let profile = self.app.profile(view, machine).ok();
        let below = profile.as_ref().and_then(|profile| profile.spec.netboot.as_ref());
        let netboot = NetbootSpec::over(machine.spec.netboot.as_ref(), below);
        let found = Found::Machine(Arc::clone(machine));
        let (answer, news) = self.app.records.asked(machine, request, now, |failed| {
            let at_hand = |name: &str| self.app.loaders.contains_key(name);
            plan::answer(request, &found, &Loaders { netboot: &netboot, failed, at_hand: &at_hand })
        });
        let site = self.app.site(IpAddr::V4(self.interface.address)).told(request);
        let Some(bootfile) = site.bootfile(&answer, request.class, machine, unix(now)) else {
            self.no_loader(machine, request, &netboot);
            return None;
        };
        if news {
            // Not the name of the file: a script's holds a capability.
            let (ipxe, loader) = (request.ipxe, loader(&answer));
            tracing::info!(machine = machine.metadata.name, ipxe, file = loader, arches = ?request.arches, "boot offered");
        }
        let direct = netboot.dialect.unwrap_or_default() == ProxyDialect::Direct;
        Some(BootAnswer { server: self.interface.address, bootfile, class, direct })
    }

    fn no_loader(&self, machine: &Machine, request: &Request, netboot: &NetbootSpec) {
        count(&self.app.metrics.dhcp, Ignored::NoLoader.as_str());
        if request.identity.mac.is_some_and(|mac| self.strangers.is_new(mac)) {
            let (arches, loader) = (&request.arches, netboot.loader.as_deref());
            let (machine, secure_boot) = (&machine.metadata.name, netboot.secure_boot);
            tracing::warn!(
                machine,
                reason = Ignored::NoLoader.as_str(),
                ?arches,
                file = loader,
                ?secure_boot,
                "not answered: there is no loader for this firmware; see --ipxe-dir and --secure-boot-dir"
            );
        }
    }

    /// A box that is nobody: counted, logged once, and answered only if its serial number is wanted.
    fn nobody(&self, request: &Request, class: Class, found: &Found) -> Option<BootAnswer> {
        let why = match found {
            Found::Conflict(_) => Ignored::Conflict,
            Found::Unknown | Found::Machine(_) => Ignored::Unknown,
        };
        count(&self.app.metrics.dhcp, why.as_str());
        if why == Ignored::Unknown && self.app.identify_by_serial {
            let bootfile = self.identify(request)?;
            return Some(BootAnswer { server: self.interface.address, bootfile, class, direct: true });
        }
        let mac = request.identity.mac?;
        if self.strangers.is_new(mac) {
            let (uuid, arches, reason) = (request.identity.uuid, &request.arches, why.as_str());
            if let Found::Conflict(names) = found {
                let machines = names.join(",");
                tracing::warn!(%mac, reason, machines, "not answered: more than one Machine claims this identity");
            } else {
                tracing::info!(%mac, ?uuid, ?arches, reason, "not answered: declare a Machine with this MAC or UUID to boot it");
            }
        }
        None
    }

    /// The way to ask a box for its serial number: iPXE, and then a script of questions.
    fn identify(&self, request: &Request) -> Option<String> {
        let base = self.app.site(IpAddr::V4(self.interface.address)).told(request).base();
        if request.ipxe {
            return Some(format!("{base}/identify.ipxe"));
        }
        let platform: &Platform = ladder::platform(request)?;
        let at_hand = |name: &str| self.app.loaders.contains_key(name);
        let loader = ladder::loader(platform, &NetbootSpec::default(), &[], at_hand)?;
        Some(match request.class {
            ClientClass::Pxe => loader,
            ClientClass::Http => format!("{base}/ipxe/{loader}"),
        })
    }
}

fn loader(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Loader { file, .. } => Some(file),
        Answer::Script { .. } | Answer::Ignore(_) => None,
    }
}
