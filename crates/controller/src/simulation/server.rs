//! Boot servers. What they decide is the real code: `boot` and `wire`. What is between, sockets and the server's own tasks, is played.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use magnetite_api::{
    BootReport, MacAddr, Machine, MachineClaim, MachineUuid, Profile,
    claim::{Decision, claim_name},
    conditions::reason,
    discovery::HELD_INTENT,
    join::{ClaimRequest, JoinBundle},
    netboot::NetbootSpec,
    report::{BootRecord, BootReportSpec, BootStep, BootStepName, Subject, SubjectKind},
    time::seconds,
};
use magnetite_boot::{
    capability::{CapabilityKey, Purpose, held_key, held_mac, machine_key},
    client::{ClientClass, Request},
    fleet::{Fleet, Found, Identity},
    plan::{self, Loaders, Next, Task},
    select::Profiles,
    site::Site,
};
use magnetite_wire::{
    dhcp::{
        Packet,
        reply::{BootAnswer, Class, proxy_offer},
    },
    tftp::{self, Negotiated, Transfer, transfer::Limits},
};

use super::{
    clock::{self, SECOND},
    cluster::{Actor, Broken, Change, Kind, Object, Refused},
    disk::Kept,
    metal::Reply,
    network::Place,
    world::{Step, World},
};

/// A loader: some blocks, and a short one.
pub fn loader(name: &str) -> Vec<u8> {
    let salt = name.len();
    (0..7000 + salt).map(|at| (at * 31 + salt) as u8).collect()
}

/// How long a claim's answer is waited for.
const PATIENCE: i64 = 8 * SECOND;
/// Keys that may claim one machine in one intent.
const MOST_KEYS: usize = 8;

/// What a box asks over HTTP.
#[derive(Debug, Clone)]
pub enum Question {
    /// Its script, by the path of its link.
    Script(String),
    /// Its config, by the same link.
    Config(String),
    /// An identity, by the link that the config holds.
    Claim { id: String, cap: String, request: Box<ClaimRequest> },
    /// Nothing: it says what became of its disk.
    Disk { id: String, cap: String, task: Task },
    /// What becomes of it.
    Held { id: String, cap: String },
    /// Nothing: it reports a step.
    Report { id: String, cap: String, step: BootStepName },
}

/// What the config tells the agent.
#[derive(Debug, Clone)]
pub struct AgentLink {
    pub task: Task,
    pub server: usize,
    pub uid: String,
    pub id: String,
    pub cap: String,
    pub machine: String,
    pub node: String,
    pub intent: String,
}

/// A claim whose answer is waited for.
struct Waiting {
    box_: usize,
    life: u32,
    claim: String,
    intent: String,
    uid: String,
}

pub struct Server {
    pub life: u32,
    pub up: bool,
    pub era: u32,
    pub cursors: BTreeMap<Kind, usize>,
    machines: BTreeMap<String, Arc<Machine>>,
    profiles: BTreeMap<String, Arc<Profile>>,
    claims: BTreeMap<String, Arc<MachineClaim>>,
    fleet: Option<Fleet>,
    key: CapabilityKey,
    transfers: BTreeMap<u64, Sending>,
    records: BTreeMap<String, BootRecord>,
    waiting: BTreeMap<u64, Waiting>,
}

/// A file on its way.
struct Sending {
    to: Place,
    port: u16,
    request: tftp::ReadRequest,
    agreed: Negotiated,
    transfer: Transfer,
    file: Vec<u8>,
    timer: u64,
}

impl Server {
    fn new(life: u32, era: u32) -> Self {
        Self {
            life,
            up: true,
            era,
            cursors: BTreeMap::new(),
            machines: BTreeMap::new(),
            profiles: BTreeMap::new(),
            claims: BTreeMap::new(),
            fleet: None,
            // All replicas have the same: a Secret.
            key: CapabilityKey::new([7; 32]),
            transfers: BTreeMap::new(),
            records: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    pub fn list(&mut self, kind: Kind, objects: &[Object]) {
        match kind {
            Kind::Machine => self.machines.clear(),
            Kind::Profile => self.profiles.clear(),
            Kind::Claim => self.claims.clear(),
            Kind::Report | Kind::Request | Kind::Node | Kind::Event => return,
        }
        self.fleet = None;
        objects.iter().for_each(|object| self.put(object));
    }

    fn put(&mut self, object: &Object) {
        match object {
            Object::Machine(machine) => drop(self.machines.insert(machine.name_any(), Arc::clone(machine))),
            Object::Profile(profile) => drop(self.profiles.insert(profile.name_any(), Arc::clone(profile))),
            Object::Claim(claim) => drop(self.claims.insert(claim.name_any(), Arc::clone(claim))),
            Object::Report(_) | Object::Request(_) | Object::Node(_) | Object::Event(_) => {}
        }
    }

    pub fn watched(&mut self, change: &Change) {
        self.fleet = None;
        match (&change.after, change.kind) {
            (Some(object), _) => self.put(object),
            (None, Kind::Machine) => drop(self.machines.remove(&change.name)),
            (None, Kind::Profile) => drop(self.profiles.remove(&change.name)),
            (None, Kind::Claim) => drop(self.claims.remove(&change.name)),
            (None, Kind::Report | Kind::Request | Kind::Node | Kind::Event) => {}
        }
    }

    fn fleet(&mut self) -> &Fleet {
        self.fleet.get_or_insert_with(|| Fleet::index(self.machines.values().cloned()))
    }

    fn by_id(&mut self, id: &str) -> Option<Arc<Machine>> {
        let key = self.key.clone();
        self.fleet().by_id(id, &key)
    }

    fn site(&self, number: usize) -> Site<'_> {
        Site::plain(IpAddr::V4(address(number)), 8080, 8443, &self.key, "sha256/00")
    }

    /// The machine of a link, if the capability is good for it.
    fn authorize(&mut self, id: &str, cap: &str, purpose: Purpose) -> Option<Arc<Machine>> {
        if held_mac(id).is_some() {
            return self.of_held_link(id, cap, purpose).filter(|machine| machine.is_held());
        }
        let machine = self.by_id(id)?;
        let good = self.key.check(cap, purpose, &machine_key(&machine), machine.wanted_intent(), unix());
        good.then_some(machine)
    }
}

impl Server {
    pub fn of_agent(&mut self, id: &str, cap: &str) -> Option<Arc<Machine>> {
        self.authorize(id, cap, Purpose::Agent)
    }

    /// The Machine of a link that was made while it was held.
    pub fn that_was_held(&mut self, id: &str, cap: &str) -> Option<Arc<Machine>> {
        self.of_held_link(id, cap, Purpose::Agent)
    }

    fn of_held_link(&mut self, id: &str, cap: &str, purpose: Purpose) -> Option<Arc<Machine>> {
        let mac = held_mac(id)?;
        let good = self.key.check(cap, purpose, &held_key(mac), HELD_INTENT, unix());
        match self.fleet().of_mac(mac) {
            Found::Machine(machine) if good => Some(machine),
            Found::Machine(_) | Found::Unknown | Found::Conflict(_) => None,
        }
    }

    pub fn names_of(&self, kept: &Kept) -> Vec<String> {
        let of = |machine: &&Arc<Machine>| machine.uid().is_some_and(|uid| kept.contains_key(&uid));
        self.machines.values().filter(of).map(|machine| machine.name_any()).collect()
    }
}

/// The address of a boot server.
pub fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, number as u8 + 1)
}

/// The boot server of an address.
pub fn of_address(address: Ipv4Addr) -> usize {
    usize::from(address.octets()[3]) - 1
}

fn unix() -> u64 {
    clock::now().as_second() as u64
}

/// The machine's id and the capability of `/m/<id>/<cap>/…`, in a path or a URL.
fn link(path: &str) -> Option<(String, String)> {
    let mut words = path.split_once("/m/")?.1.split('/');
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

impl World {
    pub fn start_server(&mut self, number: usize) {
        let era = self.cluster.era;
        let life = self.servers.get(number).map_or(0, |old| old.life + 1);
        let server = Server::new(life, era);
        if number == self.servers.len() {
            self.servers.push(server);
        } else {
            self.servers[number] = server;
        }
        self.list_anew(super::world::Watcher::Server(number));
        if self.kept.len() == number {
            self.kept.push(Kept::default());
        }
        self.tell_what_was_kept(number);
    }

    /// A DISCOVER.
    pub fn discover(&mut self, number: usize, bytes: &[u8]) {
        let server = &mut self.servers[number];
        if !server.up {
            return;
        }
        let Ok(packet) = Packet::decode(bytes) else {
            return self.laws.breach(self.now, "a DISCOVER of our own could not be read");
        };
        let options = &packet.options;
        let Some(class) = options.vendor_class().and_then(|class| Class::of(&class)) else { return };
        let request = Request {
            class: ClientClass::Pxe,
            arches: options.arches().unwrap_or_default().into_iter().map(|arch| arch.0).collect(),
            ipxe: options.is_ipxe(),
            https: false,
            identity: Identity {
                mac: packet.mac().map(MacAddr),
                uuid: options.smbios_uuid().unwrap_or_default().map(MachineUuid::from_smbios),
                serial: None,
            },
        };
        let found = server.fleet().find(&request.identity);
        let Found::Machine(machine) = &found else { return };
        let loaders = Loaders { netboot: &NetbootSpec::default(), failed: &[], at_hand: &|_| true };
        let answer = plan::answer(&request, &found, &loaders);
        let Some(bootfile) = server.site(number).bootfile(&answer, request.class, machine, unix()) else { return };
        let answer = BootAnswer { server: address(number), bootfile, class, direct: true };
        let Ok((offer, _)) = proxy_offer(&packet, &answer) else {
            return self.laws.breach(self.now, "an offer could not be made");
        };
        let mut bytes = Vec::new();
        offer.encode(&mut bytes).unwrap();
        let (machine, mac) = (machine.name_any(), packet.mac().unwrap_or_default());
        self.step(number, &machine, BootStepName::FirmwareSeen, !request.ipxe);
        self.send(Place::Server(number, 67), Place::Mac(mac), bytes);
    }

    /// A TFTP packet: a request on port 69, or an answer to a block.
    pub fn transfer(&mut self, number: usize, port: u16, from: Place, bytes: &[u8]) {
        if !self.servers[number].up {
            return;
        }
        let Ok(packet) = tftp::Packet::decode(bytes) else { return };
        if let (69, tftp::Packet::Read(request)) = (port, &packet) {
            let name = request.file.rsplit('/').next().unwrap_or_default();
            let file = loader(name);
            let agreed = Negotiated::from_request(request, Limits { block_size: 1468, window: 8 });
            let id = self.next_serial();
            let transfer = Transfer::new(file.len() as u64, agreed);
            let sending = Sending {
                to: from,
                port: 1024 + (id % 60_000) as u16,
                request: request.clone(),
                agreed,
                transfer,
                file,
                timer: 0,
            };
            self.servers[number].transfers.insert(id, sending);
            return self.transfer_goes_on(number, id, tftp::Event::Start);
        }
        let mine = |sending: &Sending| sending.port == port && sending.to == from;
        let found = self.servers[number].transfers.iter().find(|(_, sending)| mine(sending)).map(|(id, _)| *id);
        let Some(id) = found else { return };
        match packet {
            tftp::Packet::Ack(block) => self.transfer_goes_on(number, id, tftp::Event::Ack(block)),
            tftp::Packet::Error { code, .. } => self.transfer_goes_on(number, id, tftp::Event::Error(code)),
            _ => {}
        }
    }

    pub fn transfer_timer(&mut self, number: usize, life: u32, id: u64, serial: u64) {
        let server = &self.servers[number];
        if server.life == life && server.transfers.get(&id).is_some_and(|sending| sending.timer == serial) {
            self.transfer_goes_on(number, id, tftp::Event::Timer);
        }
    }

    fn transfer_goes_on(&mut self, number: usize, id: u64, event: tftp::Event) {
        let Some(mut sending) = self.servers[number].transfers.remove(&id) else { return };
        let (from, to) = (Place::Server(number, sending.port), sending.to);
        let mut over = false;
        for output in sending.transfer.on(event) {
            match output {
                tftp::Output::Oack => {
                    let options = sending.agreed.acknowledge(&sending.request, sending.file.len() as u64);
                    self.send_tftp(from, to, &tftp::Packet::Oack(options));
                }
                tftp::Output::Data { block } => {
                    let range = sending.transfer.range(block);
                    let bytes = &sending.file[range.start as usize..range.end as usize];
                    let block = Transfer::wire_number(block);
                    self.send_tftp(from, to, &tftp::Packet::Data { block, bytes });
                }
                tftp::Output::ArmTimer(after) => {
                    let (life, serial) = (self.servers[number].life, self.next_serial());
                    sending.timer = serial;
                    let after = after.as_millis() as i64;
                    self.at(after, Step::TransferTimer { server: number, life, transfer: id, serial });
                }
                tftp::Output::Done => {
                    over = true;
                    let machine = sending.request.file.split('/').nth(1).map(str::to_owned);
                    let machine = machine.and_then(|id| self.servers[number].by_id(&id));
                    if let Some(machine) = machine {
                        self.step(number, &machine.name_any(), BootStepName::LoaderSent, false);
                    }
                }
                tftp::Output::Failed(_) => over = true,
            }
        }
        if !over {
            self.servers[number].transfers.insert(id, sending);
        }
    }

    pub fn send_tftp(&mut self, from: Place, to: Place, packet: &tftp::Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        self.send(from, to, bytes);
    }

    /// A question over HTTP.
    pub fn asked(&mut self, number: usize, box_: usize, life: u32, question: Question) {
        if !self.servers[number].up {
            return;
        }
        let now = clock::now();
        let server = &mut self.servers[number];
        match question {
            Question::Script(path) => {
                let machine = link(&path).and_then(|(id, cap)| server.authorize(&id, &cap, Purpose::Boot));
                let Some(machine) = machine else { return self.tell(box_, life, Reply::Unknown) };
                let profiles: Vec<_> = server.profiles.values().cloned().collect();
                let profile = Profiles::read(&profiles).of(&machine);
                let intent = machine.status.as_ref().and_then(|status| status.intent.as_ref());
                let conflicted = !server.fleet().conflicts(&machine).is_empty();
                let revision = profile.as_ref().ok().map(|profile| profile.revision().to_owned());
                let installed = is_installed(&machine, &self.kept[number]);
                let mut next = plan::next(&machine, profile.as_deref(), intent, conflicted, installed, now);
                if self.cluster.broken == Some(Broken::ServesAlways) {
                    next = Next::Boot(Task::Boot);
                }
                self.laws.served(self.now, &machine, &next);
                self.say(format!("server {number} tells box {box_} ({}) {next:?}", machine.name_any()));
                self.step(number, &machine.name_any(), BootStepName::ScriptServed, false);
                if let Some(record) = self.servers[number].records.get_mut(&machine.name_any()) {
                    record.revision = revision.filter(|_| matches!(next, Next::Boot(_)));
                }
                self.tell(box_, life, Reply::Next(next));
            }
            Question::Config(path) => {
                let machine = link(&path).and_then(|(id, cap)| server.authorize(&id, &cap, Purpose::Boot));
                let Some(machine) = machine else { return self.tell(box_, life, Reply::Unknown) };
                let (uid, intent) = (machine_key(&machine), machine.wanted_intent().to_owned());
                let profiles: Vec<_> = server.profiles.values().cloned().collect();
                let profile = Profiles::read(&profiles).of(&machine);
                let known = machine.status.as_ref().and_then(|status| status.intent.as_ref());
                let installed = is_installed(&machine, &self.kept[number]);
                let task = match plan::next(&machine, profile.as_deref(), known, false, installed, now) {
                    _ if self.cluster.broken == Some(Broken::WipesAll) => Task::Wipe,
                    Next::Boot(task) => task,
                    Next::Local | Next::Installed | Next::Wait { .. } => Task::Boot,
                };
                let status = machine.status.as_ref().and_then(|status| status.intent.as_ref());
                let end = status.map_or(0, |intent| intent.expires_at.0.as_second() as u64);
                let until = if machine.is_held() { u64::from(u32::MAX) } else { end.max(unix()) + 3600 };
                let cap = server.key.mint(Purpose::Agent, &uid, &intent, until);
                let link = AgentLink {
                    task,
                    server: number,
                    uid,
                    id: server.key.machine_id(&machine),
                    cap,
                    machine: machine.name_any(),
                    node: machine.node_name(),
                    intent,
                };
                self.step(number, &machine.name_any(), BootStepName::ConfigFetched, false);
                self.tell(box_, life, Reply::Config(link));
            }
            Question::Claim { id, cap, request } => self.claimed(number, box_, life, &id, &cap, *request),
            Question::Disk { id, cap, task } => self.keep(number, box_, life, &id, &cap, task),
            Question::Held { id, cap } => self.what_next(number, box_, life, &id, &cap),
            Question::Report { id, cap, step } => {
                if let Some(machine) = server.authorize(&id, &cap, Purpose::Agent) {
                    self.step(number, &machine.name_any(), step, false);
                }
            }
        }
    }

    fn claimed(&mut self, number: usize, box_: usize, life: u32, id: &str, cap: &str, request: ClaimRequest) {
        let server = &mut self.servers[number];
        let Some(machine) = server.authorize(id, cap, Purpose::Agent) else {
            return self.tell(box_, life, Reply::Unknown);
        };
        if request.machine != machine.name_any() || request.intent != machine.wanted_intent() {
            return self.tell(box_, life, Reply::Refused("BadRequest".into()));
        }
        let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &request.claim_key).unwrap();
        let name = claim_name(&request.machine, &key, &request.intent, request.tpm.as_ref(), request.proof.as_ref());
        let rival = |claim: &&Arc<MachineClaim>| {
            claim.spec.machine == request.machine && claim.spec.intent == request.intent && claim.name_any() != name
        };
        if server.claims.values().filter(rival).count() >= MOST_KEYS {
            return self.tell(box_, life, Reply::Refused(reason::CLAIM_CONFLICT.into()));
        }
        let uid = machine_key(&machine);
        let known = server.claims.contains_key(&name);
        let waiting = Waiting { box_, life, claim: name.clone(), intent: request.intent.clone(), uid };
        self.step(number, &machine.name_any(), BootStepName::Claiming, false);
        if !known {
            let address = self.boxes[box_].address.to_string();
            let server = format!("server-{number}");
            let mut claim = MachineClaim::of_box(&name, request, machine_key(&machine), address, server);
            claim.metadata.owner_references = owner(&machine);
            let created = match self.cluster.away {
                true => Err(Refused(503, "ServiceUnavailable")),
                false => self.cluster.create(Kind::Claim, serde_json::to_value(claim).unwrap(), Actor::Server(number)),
            };
            self.digest_news();
            match created {
                Ok(_) | Err(Refused(409, _)) => {}
                Err(_) => return self.tell(box_, life, Reply::Later(5)),
            }
        }
        let waits = self.next_serial();
        self.servers[number].waiting.insert(waits, waiting);
        let life = self.servers[number].life;
        self.at(PATIENCE, Step::Decide { server: number, life, waiting: waits });
        self.look_for_answers(number);
    }

    /// Answers those whose claims are decided, as far as this server's watch knows.
    pub fn look_for_answers(&mut self, number: usize) {
        let server = &mut self.servers[number];
        let decided = |waiting: &Waiting| server.claims.get(&waiting.claim).and_then(|claim| respond(claim, waiting));
        let answers: Vec<_> =
            server.waiting.iter().filter_map(|(id, waiting)| Some((*id, decided(waiting)?))).collect();
        for (id, reply) in answers {
            if let Some(Waiting { box_, life, .. }) = self.servers[number].waiting.remove(&id) {
                self.tell(box_, life, reply);
            }
        }
    }

    /// The answer was waited for long enough: the server reads the claim itself once.
    pub fn patience_ends(&mut self, number: usize, life: u32, id: u64) {
        if self.servers[number].life != life {
            return;
        }
        let Some(waiting) = self.servers[number].waiting.remove(&id) else { return };
        let live = self.cluster.object(Kind::Claim, &waiting.claim).filter(|_| !self.cluster.away);
        let reply = live.and_then(|object| respond(object.claim()?, &waiting)).unwrap_or(Reply::Later(2));
        self.tell(waiting.box_, waiting.life, reply);
    }

    /// A step of a boot is seen.
    pub fn step(&mut self, number: usize, machine: &str, name: BootStepName, begins: bool) {
        let now = seconds(clock::now());
        let server = &mut self.servers[number];
        let fresh = || BootRecord {
            started_at: now.clone(),
            last_seen: now.clone(),
            server: format!("server-{number}"),
            firmware: None,
            architecture: None,
            mac: None,
            uuid: None,
            address: None,
            steps: vec![],
            failure: None,
            loader: None,
            revision: None,
            failed_loaders: vec![],
            previous: vec![],
        };
        let old = server.records.remove(machine);
        // A DISCOVER of firmware is a new boot, unless it is the same one's next try.
        let repeated = |old: &BootRecord| old.steps.iter().all(|step| step.name == BootStepName::FirmwareSeen);
        let mut record = match old {
            Some(old) if !begins || repeated(&old) => old,
            Some(old) => BootRecord { previous: old.history(), ..fresh() },
            None => fresh(),
        };
        record.last_seen = now.clone();
        match record.steps.iter_mut().find(|step| step.name == name) {
            Some(step) => (step.last_at, step.count) = (now.clone(), step.count + 1),
            None => record.steps.push(BootStep {
                name,
                first_at: now.clone(),
                last_at: now.clone(),
                count: 1,
                bytes: None,
                detail: None,
            }),
        }
        server.records.insert(machine.to_owned(), record);
        let (after, life) = (self.random.between(500, 1500), server.life);
        self.at(after, Step::Flush { server: number, life, machine: machine.to_owned() });
    }

    /// A report is written.
    pub fn flush(&mut self, number: usize, life: u32, machine: &str) {
        let server = &self.servers[number];
        let Some(known) = server.machines.get(machine) else { return };
        let (record, kept) = (server.records.get(machine), known.uid().and_then(|uid| self.kept[number].get(&uid)));
        if server.life != life || (record.is_none() && kept.is_none()) {
            return;
        }
        if self.cluster.away {
            // What was kept is told until somebody hears it.
            if kept.is_some() {
                self.at(5 * SECOND, Step::Flush { server: number, life, machine: machine.to_owned() });
            }
            return;
        }
        let spec = BootReportSpec {
            subject: Subject {
                kind: SubjectKind::Machine,
                name: machine.to_owned(),
                uid: known.uid().unwrap_or_default(),
            },
            server: format!("server-{number}"),
            boot: record.cloned(),
            inventory: None,
            install: kept.and_then(|kept| kept.install.clone()),
            wipe: kept.and_then(|kept| kept.wipe.clone()),
            artifacts: vec![],
        };
        let name = format!("{machine}.server-{number}");
        let by = Actor::Server(number);
        if self.cluster.exists(Kind::Report, &name) {
            let spec = serde_json::to_value(&spec).unwrap();
            drop(self.cluster.edit(Kind::Report, &name, by, |report| report["spec"] = spec));
        } else {
            let mut report = BootReport::new(&name, spec);
            report.metadata.owner_references = owner(known);
            drop(self.cluster.create(Kind::Report, serde_json::to_value(report).unwrap(), by));
        }
        self.digest_news();
    }
}

/// By what the API says, or by what this server keeps itself.
fn is_installed(machine: &Machine, kept: &Kept) -> bool {
    let own = machine.uid().and_then(|uid| kept.get(&uid)).and_then(|kept| kept.install.as_ref());
    machine.is_installed() || own.is_some_and(|install| install.is_done_in(machine.wanted_intent()))
}

fn owner(machine: &Machine) -> Option<Vec<OwnerReference>> {
    machine.owner_ref(&()).map(|owner| vec![owner])
}

/// The answer to a claim, once there is one for this very Machine and intent.
fn respond(claim: &MachineClaim, waiting: &Waiting) -> Option<Reply> {
    if (&claim.spec.intent, &claim.spec.machine_uid) != (&waiting.intent, &waiting.uid) {
        return Some(Reply::Later(30));
    }
    let status = claim.status.as_ref()?;
    let join: Option<&JoinBundle> = status.join.as_ref();
    match (status.decision?, join) {
        (Decision::Approved, Some(join)) => Some(Reply::Joined(Box::new(join.clone()))),
        (Decision::Denied, _) => Some(Reply::Refused(status.reason.clone().unwrap_or_default())),
        // No box of this world is told to prove a TPM.
        (Decision::Approved | Decision::Bound | Decision::Challenged, _) => None,
    }
}
