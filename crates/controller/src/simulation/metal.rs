//! Boxes: firmware, iPXE, the agent. Each waits, asks again, gives up and begins anew, as real ones do. A rogue is a box that has
//! another's MAC.

use std::{collections::BTreeMap, net::Ipv4Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_api::{
    MacAddr, Sha256,
    join::{ClaimRequest, IdentityFacts, JoinBundle, signed_text},
    report::BootStepName,
};
use magnetite_boot::plan::{Next, Task};
use magnetite_wire::{
    dhcp::{MessageType, Packet, request::Persona},
    tftp,
};
use rcgen::{PublicKeyData, SigningKey};

use super::{
    clock::{self, MINUTE, SECOND},
    keys,
    kubelet::Duty,
    network::Place,
    server::{self, AgentLink, Question},
    world::{Step, World},
};
use magnetite_request::certificate_key;

use crate::{claim::source::has_ended, fixtures::Csr};

/// What a boot server answered.
#[derive(Debug, Clone)]
pub enum Reply {
    Next(Next),
    Config(AgentLink),
    Joined(Box<JoinBundle>),
    Refused(String),
    /// What the box said of its disk is kept.
    Noted,
    /// It is held no more.
    Restart,
    /// Come again in so many seconds.
    Later(i64),
    Unknown,
}

/// What is on a box's disk, or in its memory where it has none.
#[derive(Debug, Clone)]
pub struct System {
    pub link: AgentLink,
    /// Numbers of its keys.
    pub claim: usize,
    pub kubelet: usize,
    /// The request, always the same bytes: the agent keeps it.
    request: String,
    pub certificate: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Stage {
    Off,
    /// It was told to restart.
    Restarting,
    /// Firmware looks for a boot server.
    Firmware,
    /// The loader comes.
    Loader {
        file: String,
        from: Option<Place>,
        server: usize,
        got: Vec<u8>,
        next: u16,
        size: u16,
    },
    /// iPXE looks for its script.
    Ipxe,
    Script {
        server: usize,
        path: String,
    },
    Config {
        server: usize,
        path: String,
    },
    /// The agent writes the system to the disk. Done: it is there, and a server is to keep that in mind.
    Installer {
        link: AgentLink,
        done: bool,
    },
    /// The agent wipes the disk, in the same way.
    Eraser {
        link: AgentLink,
        done: bool,
    },
    /// The agent waits in memory, out of service.
    Held {
        link: AgentLink,
    },
    /// The agent claims.
    Agent,
    /// The kubelet runs.
    Node,
    /// It stands still: refused, or nothing to boot.
    Halted,
}

#[derive(Debug)]
pub struct Metal {
    pub mac: [u8; 6],
    pub honest: bool,
    /// Keeps its system over a power cycle.
    pub disk: bool,
    /// Derives its keys there: the same for the same Machine and intent. Their numbers.
    pub tpm: bool,
    derived: BTreeMap<(String, String), usize>,
    /// Has another address after every step.
    pub moves: bool,
    pub persona: Persona,
    pub life: u32,
    pub stage: Stage,
    pub system: Option<System>,
    pub address: Ipv4Addr,
    /// The certificate request of its kubelet that is not answered yet, and the key of its renewal.
    pub pending: Option<String>,
    tries: u32,
    xid: u32,
    timer: u64,
    /// Told to boot its profile so often, and to boot its own disk.
    pub installs: u32,
    pub locals: u32,
    /// What became of its last claim.
    pub verdict: Option<String>,
    /// Stands still for ever once it comes this far.
    pub dies_at: Option<BootStepName>,
}

impl Metal {
    pub fn new(mac: [u8; 6], number: usize) -> Self {
        Self {
            mac,
            honest: true,
            disk: true,
            tpm: false,
            derived: BTreeMap::new(),
            moves: false,
            persona: Persona::UEFI,
            life: 0,
            stage: Stage::Off,
            system: None,
            address: Ipv4Addr::new(172, 30, 1, number as u8 + 10),
            pending: None,
            tries: 0,
            xid: 0,
            timer: 0,
            installs: 0,
            locals: 0,
            verdict: None,
            dies_at: None,
        }
    }

    /// It lost its TPM.
    pub fn forget(&mut self) {
        self.derived.clear();
    }
}

/// A port of its own for every boot: what is still on its way to the last one is not for this one.
fn port(box_: &Metal) -> u16 {
    2070 + (box_.life % 10_000) as u16
}

impl World {
    /// The box is switched on, or off and on.
    pub fn power_on(&mut self, number: usize) {
        self.power_off(number);
        let xid = self.random.between(1, i64::from(i32::MAX)) as u32;
        let box_ = &mut self.boxes[number];
        (box_.stage, box_.tries, box_.xid) = (Stage::Firmware, 0, xid);
        self.say(format!("box {number} is switched on"));
        self.discover_again(number);
    }

    pub fn power_off(&mut self, number: usize) {
        let box_ = &mut self.boxes[number];
        if matches!(box_.stage, Stage::Node)
            && let Some(system) = &box_.system
        {
            let node = system.link.node.clone();
            self.at(50 * SECOND, Step::Silent { node });
        }
        let box_ = &mut self.boxes[number];
        box_.life += 1;
        box_.stage = Stage::Off;
        box_.pending = None;
        if !box_.disk {
            box_.system = None;
        }
        self.moved(number);
    }

    /// The agent restarts it. What servers are for so long do their firmware's own things.
    fn restart(&mut self, number: usize) {
        self.power_off(number);
        self.boxes[number].stage = Stage::Restarting;
        let after = self.random.between(2, 60) * SECOND;
        self.timer(number, after);
    }

    fn moved(&mut self, number: usize) {
        if self.boxes[number].moves {
            let [a, b, c, d] = self.boxes[number].address.octets();
            self.boxes[number].address = Ipv4Addr::new(a, b, (c % 200) + 1, d);
        }
    }

    pub fn timer(&mut self, number: usize, after: i64) {
        let serial = self.next_serial();
        self.boxes[number].timer = serial;
        let life = self.boxes[number].life;
        self.at(after, Step::Wake { box_: number, life, serial });
    }

    fn discover_again(&mut self, number: usize) {
        let box_ = &self.boxes[number];
        let persona = if matches!(box_.stage, Stage::Ipxe) { box_.persona.ipxe() } else { box_.persona };
        let mut bytes = Vec::new();
        persona.request(MessageType::DISCOVER, box_.mac, None, box_.xid).encode(&mut bytes).unwrap();
        let after = (4 * SECOND) << box_.tries.min(3);
        self.send(Place::Mac(self.boxes[number].mac), Place::Servers, bytes);
        self.timer(number, after);
    }

    /// True if the box dies here.
    fn dies(&mut self, number: usize, step: BootStepName) -> bool {
        let dies = self.boxes[number].dies_at.is_some_and(|at| at <= step);
        if dies {
            self.say(format!("box {number} dies at {step:?}"));
            self.power_off(number);
        }
        dies
    }

    /// An OFFER.
    pub fn offered(&mut self, number: usize, bytes: &[u8]) {
        let Ok(offer) = Packet::decode(bytes) else {
            return self.laws.breach(self.now, "an OFFER of our own could not be read");
        };
        let box_ = &self.boxes[number];
        let file = String::from_utf8(offer.bootfile()).unwrap_or_default();
        if offer.xid != box_.xid {
            return;
        }
        let server = server::of_address(offer.siaddr);
        match box_.stage {
            Stage::Firmware => {
                if self.dies(number, BootStepName::FirmwareSeen) {
                    return;
                }
                let size = if self.random.chance(300) { 512 } else { 1468 };
                self.boxes[number].tries = 0;
                self.boxes[number].stage = Stage::Loader { file, from: None, server, got: vec![], next: 1, size };
                self.ask_for_loader(number);
            }
            Stage::Ipxe => {
                if !file.starts_with("http://") {
                    return self.laws.breach(self.now, "iPXE was offered no script: a loop");
                }
                self.boxes[number].tries = 0;
                self.boxes[number].stage = Stage::Script { server, path: file.clone() };
                self.ask(server, number, Question::Script(file));
                self.timer(number, 5 * SECOND);
            }
            _ => {}
        }
    }

    fn ask_for_loader(&mut self, number: usize) {
        let Stage::Loader { file, server, size, .. } = &self.boxes[number].stage else { return };
        let block_size = (*size != 512).then_some(*size);
        let request = tftp::ReadRequest { file: file.clone(), block_size, size: true, window: None, timeout: None };
        let server = *server;
        self.send_tftp(
            Place::Box(number, port(&self.boxes[number])),
            Place::Server(server, 69),
            &tftp::Packet::Read(request),
        );
        self.timer(number, 4 * SECOND);
    }

    /// A block of the loader, or the acknowledgement of its options.
    pub fn block(&mut self, number: usize, to: u16, sender: Place, bytes: &[u8]) {
        if to != port(&self.boxes[number]) {
            return;
        }
        let Ok(packet) = tftp::Packet::decode(bytes) else { return };
        let Stage::Loader { from, got, next, size, file, .. } = &mut self.boxes[number].stage else { return };
        // Another server, or a second transfer that a doubled request began: its packets are not ours.
        if *from.get_or_insert(sender) != sender {
            return;
        }
        let ack = match packet {
            tftp::Packet::Oack(_) if *next == 1 => 0,
            tftp::Packet::Data { block, bytes } if block == *next => {
                got.extend(bytes);
                *next += 1;
                let last = bytes.len() < usize::from(*size);
                if last {
                    let whole = *got == server::loader(file.rsplit('/').next().unwrap_or_default());
                    self.send_tftp(Place::Box(number, to), sender, &tftp::Packet::Ack(block));
                    if !whole {
                        self.laws.breach(self.now, "a loader came with other bytes than it has");
                    }
                    return self.loaded(number);
                }
                block
            }
            tftp::Packet::Data { block, .. } if block < *next => block,
            _ => return,
        };
        self.boxes[number].tries = 0;
        self.send_tftp(Place::Box(number, to), sender, &tftp::Packet::Ack(ack));
        self.timer(number, 4 * SECOND);
    }

    fn loaded(&mut self, number: usize) {
        if self.dies(number, BootStepName::LoaderSent) {
            return;
        }
        self.moved(number);
        let xid = self.random.between(1, i64::from(i32::MAX)) as u32;
        let box_ = &mut self.boxes[number];
        (box_.stage, box_.tries, box_.xid) = (Stage::Ipxe, 0, xid);
        self.discover_again(number);
    }

    /// A timer of the box.
    pub fn wake(&mut self, number: usize, life: u32, serial: u64) {
        let box_ = &mut self.boxes[number];
        if box_.life != life || box_.timer != serial {
            return;
        }
        box_.tries += 1;
        let boots = !matches!(
            box_.stage,
            Stage::Off
                | Stage::Agent
                | Stage::Node
                | Stage::Installer { .. }
                | Stage::Eraser { .. }
                | Stage::Held { .. }
        );
        if box_.tries > 5 && boots {
            // Firmware goes on to its next boot device, and some day comes round again.
            return self.power_on(number);
        }
        match box_.stage.clone() {
            Stage::Off | Stage::Node => {}
            Stage::Firmware | Stage::Ipxe => self.discover_again(number),
            Stage::Loader { from: None, .. } => self.ask_for_loader(number),
            Stage::Loader { from: Some(to), next, .. } => {
                self.send_tftp(Place::Box(number, port(&self.boxes[number])), to, &tftp::Packet::Ack(next - 1));
                self.timer(number, 4 * SECOND);
            }
            Stage::Script { server, path } => {
                self.ask(server, number, Question::Script(path));
                self.timer(number, 5 * SECOND);
            }
            Stage::Config { server, path } => {
                self.ask(server, number, Question::Config(path));
                self.timer(number, 5 * SECOND);
            }
            Stage::Installer { link, done } => self.installing(number, link, done),
            Stage::Eraser { link, done } => self.erasing(number, link, done),
            Stage::Held { link } => self.ask_what_next(number, link),
            Stage::Agent => self.claim(number),
            Stage::Halted | Stage::Restarting => self.power_on(number),
        }
    }

    /// An answer of a boot server.
    pub fn told(&mut self, number: usize, life: u32, reply: Reply) {
        let box_ = &mut self.boxes[number];
        if box_.life != life {
            return;
        }
        match (box_.stage.clone(), reply) {
            (Stage::Script { server, path }, Reply::Next(Next::Boot(_))) => {
                if self.dies(number, BootStepName::KernelFetched) {
                    return;
                }
                self.boxes[number].installs += 1;
                self.boxes[number].tries = 0;
                self.boxes[number].stage = Stage::Config { server, path: path.clone() };
                self.moved(number);
                self.ask(server, number, Question::Config(path));
                self.timer(number, 5 * SECOND);
            }
            (Stage::Script { .. }, Reply::Next(Next::Local | Next::Installed)) => {
                box_.locals += 1;
                box_.tries = 0;
                if box_.system.is_some() {
                    self.boxes[number].stage = Stage::Agent;
                    self.timer(number, 10 * SECOND);
                } else {
                    self.boxes[number].stage = Stage::Halted;
                }
            }
            (Stage::Script { .. }, Reply::Next(Next::Wait { seconds, .. })) => {
                box_.tries = 0;
                self.timer(number, i64::from(seconds) * SECOND);
            }
            (Stage::Script { .. } | Stage::Config { .. }, Reply::Unknown) => self.timer(number, 20 * SECOND),
            (Stage::Config { .. }, Reply::Config(link)) => match link.task {
                Task::Boot => self.install(number, link),
                Task::Install => self.begin_install(number, link),
                Task::Wipe => self.begin_wipe(number, link),
                Task::Inventory => self.hold(number, link),
            },
            (Stage::Installer { done: true, .. }, Reply::Noted | Reply::Unknown)
            | (Stage::Held { .. }, Reply::Restart | Reply::Unknown) => self.restart(number),
            (Stage::Eraser { done: true, .. }, Reply::Noted) => self.power_off(number),
            (Stage::Held { .. }, Reply::Later(seconds)) => self.timer(number, seconds * SECOND),
            (Stage::Agent, Reply::Joined(bundle)) => self.joined(number, &bundle),
            (Stage::Agent, Reply::Refused(reason)) => {
                self.say(format!("box {number} is refused: {reason}"));
                self.boxes[number].verdict = Some(reason);
                self.boxes[number].stage = Stage::Halted;
                self.boxes[number].timer = 0;
                // A rogue tries again, with another key.
                if !self.boxes[number].honest && self.random.chance(700) {
                    self.boxes[number].system = None;
                    let after = self.random.between(10, 120) * SECOND;
                    self.timer(number, after);
                }
            }
            (Stage::Agent, Reply::Later(seconds)) => self.timer(number, seconds * SECOND),
            (Stage::Agent, Reply::Unknown) => self.timer(number, MINUTE),
            _ => {}
        }
    }

    /// A system with keys of its own, or with those that the box's TPM has for it.
    pub fn system(&mut self, number: usize, link: AgentLink) -> System {
        let box_ = &mut self.boxes[number];
        let whose = (link.machine.clone(), link.intent.clone());
        let known = box_.derived.get(&whose).copied();
        let claim = known.unwrap_or(self.keys);
        if known.is_none() {
            self.keys += 2;
        }
        if box_.tpm {
            box_.derived.insert(whose, claim);
        }
        let kubelet = claim + 1;
        let request = Csr::new(&keys::key(kubelet)).cn(&format!("system:node:{}", link.node)).pem();
        System { link, claim, kubelet, request, certificate: None }
    }

    /// Ignition writes the system to disk.
    fn install(&mut self, number: usize, link: AgentLink) {
        self.say(format!("box {number} is installed for {} in intent {}", link.machine, link.intent));
        let system = self.system(number, link);
        let box_ = &mut self.boxes[number];
        box_.system = Some(system);
        (box_.stage, box_.tries, box_.verdict) = (Stage::Agent, 0, None);
        if self.dies(number, BootStepName::ConfigFetched) {
            return;
        }
        self.report(number, BootStepName::AgentStarted);
        if self.dies(number, BootStepName::AgentStarted) {
            return;
        }
        let after = if self.scene.eager { 0 } else { self.random.between(1, 20) * SECOND };
        self.timer(number, after);
    }

    pub fn report(&mut self, number: usize, step: BootStepName) {
        let Some(system) = &self.boxes[number].system else { return };
        let AgentLink { server, id, cap, .. } = system.link.clone();
        self.ask(server, number, Question::Report { id, cap, step });
    }

    /// The agent claims, with the same words each time; with a certificate it has nothing to claim.
    pub fn claim(&mut self, number: usize) {
        let Some(system) = &self.boxes[number].system else { return self.power_on(number) };
        if system.certificate.is_some() {
            return self.start_kubelet(number);
        }
        let AgentLink { server, id, cap, machine, intent, .. } = system.link.clone();
        let key = keys::key(system.claim);
        let request = ClaimRequest {
            claim_key: STANDARD.encode(key.subject_public_key_info()),
            certificate_request: system.request.clone(),
            signature: STANDARD.encode(key.sign(&signed_text(&machine, &intent, &system.request)).unwrap()),
            facts: IdentityFacts { macs: vec![MacAddr(self.boxes[number].mac)], ..IdentityFacts::default() },
            tpm: None,
            proof: None,
            machine,
            intent,
        };
        self.ask(server, number, Question::Claim { id, cap, request: Box::new(request) });
        self.timer(number, 60 * SECOND);
        self.dies(number, BootStepName::Claiming);
    }

    /// The agent has its certificate.
    fn joined(&mut self, number: usize, bundle: &JoinBundle) {
        let Some(system) = &mut self.boxes[number].system else { return };
        let own = Sha256::of(&keys::key(system.kubelet).subject_public_key_info());
        if certificate_key(bundle.certificate.as_bytes()) != Some(own) || bundle.node_name != system.link.node {
            return self.laws.breach(self.now, "a box was handed a certificate of another key or name");
        }
        if has_ended(&bundle.certificate, clock::now()) {
            self.say(format!("box {number} was given a certificate that has ended"));
            return self.timer(number, 5 * SECOND);
        }
        system.certificate = Some(bundle.certificate.clone());
        self.boxes[number].verdict = Some("Joined".into());
        self.report(number, BootStepName::CertificateReceived);
        if !self.dies(number, BootStepName::CertificateReceived) {
            self.start_kubelet(number);
        }
    }

    fn start_kubelet(&mut self, number: usize) {
        self.moved(number);
        self.boxes[number].stage = Stage::Node;
        let (after, life) = (self.random.between(2, 20) * SECOND, self.boxes[number].life);
        self.at(after, Step::Kubelet { box_: number, life, what: Duty::Register });
    }
}
