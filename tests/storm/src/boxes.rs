//! A box from power-on to its script: packets and the time in, what it does next out. Without sockets and without a clock.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use crate::{
    packet::{ACK, Answer, DISCOVER, Identity, OFFER, Question, REQUEST},
    timers::{HTTP, IPXE_DHCP, IPXE_PROXY, PXE_BOOT_SERVER, PXE_DHCP, Waits},
    transfer::{Step, Transfer},
};

/// What a box has in its firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// iPXE in the network card's ROM: DHCP, then the script by HTTP.
    IpxeRom,
    /// The PXE ROM of a network card: DHCP, undionly.kpxe by TFTP, then iPXE.
    Bios,
    /// EDK2: DHCP, an .efi by TFTP in windows, then iPXE.
    Uefi,
}

impl Firmware {
    fn identity(self, mac: [u8; 6], ipxe: bool) -> Identity {
        Identity { mac, arch: if self == Self::Uefi { 7 } else { 0 }, ipxe }
    }
}

/// What a box does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sends from port 68 to everybody's port 67.
    Broadcast(Vec<u8>),
    /// Sends from its own address, port 4011, to the boot server there.
    AskBootServer(Ipv4Addr, Vec<u8>),
    /// Opens a new port of its own for TFTP.
    NewPort,
    /// Sends from that port.
    Tftp(SocketAddrV4, Vec<u8>),
    /// Fetches a URL.
    Get(String),
    /// Wants to be asked again at that time, or sooner if something comes.
    Wait(Duration),
    /// A proxy's offer came so long after the box first asked for one.
    Offered(Duration),
    /// Its script came.
    Booted,
    /// The attempt is over.
    Failed(String),
}

#[derive(Debug, Clone)]
enum Stage {
    Off,
    Discovering { tries: usize, site: Option<(Ipv4Addr, Ipv4Addr)>, proxy: Option<Answer> },
    Requesting { tries: usize, site: (Ipv4Addr, Ipv4Addr), proxy: Answer },
    BootServer { tries: usize, address: Ipv4Addr, server: Ipv4Addr },
    Loading(Box<Transfer>),
    Script,
    Booted,
}

/// A box.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Attempts so far, the present one among them.
    pub attempts: u32,
    firmware: Firmware,
    loader: Arc<[u8]>,
    ipxe: bool,
    stage: Stage,
    xid: u32,
    began: Duration,
    /// Whether this exchange had a proxy's offer already: firmware forgets those of a round that came to nothing.
    offered: bool,
}

impl Machine {
    /// A box that is off. `loader`: what it should get by TFTP.
    pub fn new(mac: [u8; 6], firmware: Firmware, loader: Arc<[u8]>) -> Self {
        Self {
            mac,
            address: None,
            attempts: 0,
            firmware,
            loader,
            ipxe: false,
            stage: Stage::Off,
            xid: 0,
            began: Duration::ZERO,
            offered: false,
        }
    }

    /// The transaction that it listens for.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    /// Whether its script came.
    pub fn booted(&self) -> bool {
        matches!(self.stage, Stage::Booted)
    }

    /// Power on, or again.
    pub fn power_on(&mut self, now: Duration, xid: u32, out: &mut Vec<Effect>) {
        self.attempts += 1;
        self.start(self.firmware == Firmware::IpxeRom, now, xid, out);
    }

    fn start(&mut self, ipxe: bool, now: Duration, xid: u32, out: &mut Vec<Effect>) {
        (self.ipxe, self.xid, self.began, self.address, self.offered) = (ipxe, xid, now, None, false);
        self.stage = Stage::Discovering { tries: 0, site: None, proxy: None };
        self.send(now, out);
    }

    fn waits(&self) -> Waits {
        if self.ipxe { IPXE_DHCP } else { PXE_DHCP }
    }

    /// Sends what the stage sends, and waits; or gives up.
    fn send(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let who = self.firmware.identity(self.mac, self.ipxe);
        let secs = u16::try_from(now.saturating_sub(self.began).as_secs()).unwrap_or(u16::MAX);
        let question = Question { xid: self.xid, secs, ..Question::default() };
        let (wait, packet) = match &self.stage {
            Stage::Discovering { tries, site, proxy } => {
                let bytes = Question { kind: DISCOVER, ..question }.bytes(who);
                let none = match (site, proxy) {
                    (None, Some(_)) => "the site's DHCP server made no offer",
                    (Some(_), None) => "no boot offer came",
                    _ => "no offer came, of anybody",
                };
                (self.waits().after(*tries).ok_or(none), Effect::Broadcast(bytes))
            }
            Stage::Requesting { tries, site: (server, address), .. } => {
                let bytes = Question { kind: REQUEST, server: Some(*server), wanted: Some(*address), ..question };
                let wait = self.waits().after(*tries).ok_or("the site's DHCP server did not acknowledge");
                (wait, Effect::Broadcast(bytes.bytes(who)))
            }
            Stage::BootServer { tries, address, server } => {
                let bytes = Question { kind: REQUEST, client: Some(*address), ..question }.bytes(who);
                let wait = PXE_BOOT_SERVER.after(*tries).ok_or("the boot server on port 4011 did not answer");
                (wait, Effect::AskBootServer(*server, bytes))
            }
            Stage::Loading(transfer) => {
                let ((waits, tries), (bytes, to)) = (transfer.waits(), transfer.last());
                (waits.after(tries).ok_or(transfer.awaited()), Effect::Tftp(to, bytes))
            }
            Stage::Off | Stage::Script | Stage::Booted => return,
        };
        match wait {
            Ok(wait) => out.extend([packet, Effect::Wait(now + wait)]),
            Err(why) => self.fail(why.to_owned(), out),
        }
    }

    fn fail(&mut self, why: String, out: &mut Vec<Effect>) {
        let stage = if self.ipxe { "iPXE" } else { "firmware" };
        self.stage = Stage::Off;
        out.push(Effect::Failed(format!("{stage}: {why}")));
    }

    /// The time that it waited for has come. `xid` is for whatever it begins.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Effect>) {
        match &mut self.stage {
            Stage::Discovering { tries, site, proxy } => {
                *tries += 1;
                if let (Some(site), Some(proxy)) = (*site, proxy.clone()) {
                    self.stage = Stage::Requesting { tries: 0, site, proxy };
                } else if self.ipxe && site.is_some() && now.saturating_sub(self.began) > IPXE_PROXY {
                    return self.fail("nothing to boot: only the site's DHCP server answered".into(), out);
                } else if !self.ipxe {
                    // Each round of the firmware begins anew.
                    (*site, *proxy) = (None, None);
                }
            }
            Stage::Requesting { tries, .. } | Stage::BootServer { tries, .. } => *tries += 1,
            Stage::Loading(transfer) => transfer.again(),
            Stage::Script => return self.fail("the script did not come".into(), out),
            Stage::Off | Stage::Booted => return,
        }
        self.send(now, out);
    }

    /// An answer of DHCP, on whichever port.
    pub fn dhcp(&mut self, now: Duration, answer: &Answer, out: &mut Vec<Effect>) {
        if answer.xid != self.xid {
            return;
        }
        match &mut self.stage {
            Stage::Discovering { site, proxy, .. } if answer.kind == OFFER => {
                // Without option 54 firmware takes no offer, without option 60 none is a proxy's.
                let Some(server) = answer.server else { return };
                if answer.address.is_unspecified() {
                    if !answer.pxe {
                        return;
                    }
                    if !std::mem::replace(&mut self.offered, true) {
                        out.push(Effect::Offered(now.saturating_sub(self.began)));
                    }
                    *proxy = Some(answer.clone());
                } else {
                    *site = Some((server, answer.address));
                }
                // iPXE goes on as soon as it has both; firmware waits for the end of its round.
                if let (true, Some(site), Some(proxy)) = (self.ipxe, *site, proxy.clone()) {
                    self.stage = Stage::Requesting { tries: 0, site, proxy };
                    self.send(now, out);
                }
            }
            Stage::Requesting { site: (server, address), proxy, .. }
                if answer.kind == ACK && answer.server == Some(*server) && answer.address == *address =>
            {
                let (address, proxy) = (*address, proxy.clone());
                self.address = Some(address);
                if proxy.file.is_empty() || !(proxy.direct || self.ipxe) {
                    let server = proxy.server.unwrap_or(proxy.next);
                    self.stage = Stage::BootServer { tries: 0, address, server };
                    return self.send(now, out);
                }
                self.boot(&proxy, now, out);
            }
            Stage::BootServer { .. } if answer.kind == ACK && answer.pxe && !answer.file.is_empty() => {
                self.boot(answer, now, out);
            }
            _ => {}
        }
    }

    /// Fetches what an answer names.
    fn boot(&mut self, answer: &Answer, now: Duration, out: &mut Vec<Effect>) {
        if answer.file.starts_with("http://") {
            self.stage = Stage::Script;
            out.extend([Effect::Get(answer.file.clone()), Effect::Wait(now + HTTP)]);
            return;
        }
        if self.ipxe {
            return self.fail(format!("iPXE was told to load {}: a loop", answer.file), out);
        }
        let server = if answer.next.is_unspecified() { answer.server.unwrap_or(answer.next) } else { answer.next };
        let windows = self.firmware == Firmware::Uefi;
        let transfer = Transfer::new(SocketAddrV4::new(server, 69), &answer.file, Arc::clone(&self.loader), windows);
        self.stage = Stage::Loading(Box::new(transfer));
        out.push(Effect::NewPort);
        self.send(now, out);
    }

    /// A packet on its port of TFTP. `xid` is for iPXE's own DHCP, should the loader be whole.
    pub fn tftp(&mut self, now: Duration, from: SocketAddrV4, bytes: &[u8], xid: u32, out: &mut Vec<Effect>) {
        let Stage::Loading(transfer) = &mut self.stage else { return };
        let step = transfer.packet(from, bytes);
        match step {
            Step::Nothing => {}
            Step::Send(packet) => {
                let (waits, tries) = transfer.waits();
                out.push(Effect::Tftp(from, packet));
                out.extend(waits.after(tries).map(|wait| Effect::Wait(now + wait)));
            }
            Step::Again(packet) => {
                out.extend([Effect::Tftp(from, packet), Effect::NewPort]);
                self.send(now, out);
            }
            Step::Whole(packet) => {
                out.push(Effect::Tftp(from, packet));
                self.start(true, now, xid, out);
            }
            Step::Broken(why) => self.fail(why, out),
        }
    }

    /// The script came, or why not. `right` says whether a body is this box's own script.
    pub fn fetched(&mut self, body: Result<&str, String>, right: impl Fn(&str) -> bool, out: &mut Vec<Effect>) {
        if !matches!(self.stage, Stage::Script) {
            return;
        }
        match body {
            Ok(text) if right(text) => {
                self.stage = Stage::Booted;
                out.push(Effect::Booted);
            }
            Ok(text) => self.fail(format!("another script came: {:?}", text.chars().take(60).collect::<String>()), out),
            Err(why) => self.fail(why, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn answer(kind: u8, xid: u32, site: bool, file: &str) -> Answer {
        let address = if site { Ipv4Addr::new(10, 0, 0, 9) } else { Ipv4Addr::UNSPECIFIED };
        let server = Some(if site { SITE } else { OURS });
        Answer { xid, kind, address, next: OURS, server, pxe: !site, direct: !site, file: file.into() }
    }

    fn machine(firmware: Firmware) -> (Machine, Vec<Effect>) {
        let mut out = Vec::new();
        let mut machine = Machine::new([2, 0, 0, 0, 0, 1], firmware, vec![1; 10].into());
        machine.power_on(Duration::ZERO, 7, &mut out);
        assert!(matches!(out[..], [Effect::Broadcast(_), Effect::Wait(_)]));
        out.clear();
        (machine, out)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ipxe_asks_for_its_address_as_soon_as_it_has_both_offers() {
        let (mut machine, mut out) = machine(Firmware::IpxeRom);
        machine.dhcp(seconds(0), &answer(OFFER, 7, true, ""), &mut out);
        assert_eq!(out, [], "it waits for a proxy");
        machine.dhcp(seconds(1), &answer(OFFER, 7, false, "http://10.0.0.1/x"), &mut out);
        assert!(
            matches!(out[..], [Effect::Offered(after), Effect::Broadcast(_), Effect::Wait(_)] if after == seconds(1))
        );
        out.clear();
        machine.dhcp(seconds(1), &answer(ACK, 7, true, ""), &mut out);
        assert_eq!(out, [Effect::Get("http://10.0.0.1/x".into()), Effect::Wait(seconds(51))]);
        out.clear();
        machine.fetched(Ok("#!ipxe"), |text| text == "#!ipxe", &mut out);
        assert!(machine.booted());
    }

    #[test]
    fn ipxe_that_hears_no_proxy_has_nothing_to_boot_after_three_seconds() {
        let (mut machine, mut out) = machine(Firmware::IpxeRom);
        machine.dhcp(seconds(0), &answer(OFFER, 7, true, ""), &mut out);
        machine.tick(seconds(1), &mut out);
        assert!(matches!(out[..], [Effect::Broadcast(_), Effect::Wait(at)] if at == seconds(3)));
        machine.tick(seconds(3), &mut out);
        assert!(matches!(out.last(), Some(Effect::Failed(why)) if why.contains("nothing to boot")));
    }

    #[test]
    fn firmware_waits_for_the_end_of_its_round_and_forgets_what_it_had_of_an_incomplete_one() {
        let (mut machine, mut out) = machine(Firmware::Uefi);
        machine.dhcp(seconds(0), &answer(OFFER, 7, false, "x.efi"), &mut out);
        machine.tick(seconds(4), &mut out);
        machine.dhcp(seconds(5), &answer(OFFER, 7, true, ""), &mut out);
        machine.tick(seconds(12), &mut out);
        assert!(out.iter().filter(|effect| matches!(effect, Effect::Broadcast(_))).count() == 2, "two DISCOVERs more");
        machine.dhcp(seconds(13), &answer(OFFER, 7, true, ""), &mut out);
        machine.dhcp(seconds(13), &answer(OFFER, 7, false, "x.efi"), &mut out);
        machine.tick(seconds(28), &mut out);
        out.clear();
        machine.dhcp(seconds(28), &answer(ACK, 7, true, ""), &mut out);
        assert!(
            matches!(&out[..], [Effect::NewPort, Effect::Tftp(to, _), Effect::Wait(_)] if to.port() == 69),
            "{out:?}"
        );
    }
}
