//! What goes wrong, what people do, and how it is all put right in the end.

use std::sync::Arc;

use kube::ResourceExt;
use magnetite_api::{
    Machine, MachineSpec, Phase, Profile, ProfileSpec, machine::DeletionPolicy, names::LABEL_MACHINE_UID,
    profile::OnReboot,
};
use serde_json::json;

use super::{
    clock::{MINUTE, SECOND},
    cluster::{Actor, Kind},
    metal::Metal,
    scene::Trouble,
    world::{Crash, Point, Step, Watcher, World},
};

/// One thing that happens to a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Trouble(Trouble),
    Declare(usize),
    /// A machine is out of service no more.
    GiveBack(usize),
    PowerOn(usize),
    ApiBack,
    Swift,
}

/// The name of a machine. Nodes have another, so that nobody takes the one for the other.
pub fn machine_name(number: usize) -> String {
    format!("box-{number}")
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn mac(number: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0x30, (number >> 8) as u8, number as u8]
}

impl World {
    /// What there is at the beginning, and what will go wrong.
    pub fn populate(&mut self) {
        let scene = self.scene.clone();
        let mut profile = Profile::new("p", ProfileSpec::default());
        if scene.installs {
            profile.spec.install = serde_json::from_value(json!({ "image": "disk" })).ok();
        }
        if scene.live {
            profile.spec.boot.on_reboot = OnReboot::Network;
        }
        drop(self.cluster.create(Kind::Profile, json!(profile), Actor::Person));
        (0..scene.controllers).for_each(|number| self.start_controller(number));
        (0..scene.servers).for_each(|number| self.start_server(number));
        self.elect();
        for number in 0..scene.machines + scene.rogues {
            let honest = number < scene.machines;
            let whose = if honest { number } else { self.random.below(scene.machines) };
            let mut box_ = Metal::new(mac(whose), number);
            (box_.honest, box_.moves) = (honest, scene.moves);
            box_.disk = scene.installs || self.random.chance(scene.disks) && !scene.live;
            box_.tpm = honest && scene.live;
            self.boxes.push(box_);
            if honest {
                let after = self.random.between(0, 20) * SECOND;
                self.at(after, Step::Fault(Fault::Declare(number)));
            }
            if scene.powers {
                let span = if honest { 60 * SECOND } else { scene.span };
                let after = self.random.between(0, span);
                self.at(after, Step::Fault(Fault::PowerOn(number)));
            }
        }
        for _ in 0..scene.faults {
            let (kind, after) = (scene.kinds[self.random.below(scene.kinds.len())], self.random.between(0, scene.span));
            self.at(after, Step::Fault(Fault::Trouble(kind)));
        }
        self.at(0, Step::Remember);
    }

    pub fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Trouble(trouble) => {
                if !self.scene.kinds.is_empty() {
                    self.trouble(trouble);
                }
            }
            Fault::Declare(number) => self.declare(number),
            Fault::GiveBack(number) => {
                // In the end everything was given back.
                if !self.scene.kinds.is_empty() {
                    self.give_back(number);
                }
            }
            Fault::PowerOn(number) => self.power_on(number),
            Fault::ApiBack => self.cluster.away = false,
            Fault::Swift => self.slow = 0,
        }
    }

    /// Somebody declares a machine.
    pub fn declare(&mut self, number: usize) {
        let policy = match self.random.below(10) {
            0..3 => DeletionPolicy::RemoveNode,
            3..6 if self.scene.installs => DeletionPolicy::Wipe,
            _ => DeletionPolicy::Retain,
        };
        let spec = MachineSpec {
            macs: vec![magnetite_api::MacAddr(mac(number))],
            profile: Some("p".into()),
            node_name: Some(node_name(number)),
            deletion_policy: policy,
            ..MachineSpec::default()
        };
        let machine = Machine::new(&machine_name(number), spec);
        drop(self.cluster.create(Kind::Machine, json!(machine), Actor::Person));
        self.digest_news();
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.say(format!("trouble: {trouble:?}"));
        let controller = self.random.below(self.controllers.len());
        let machine = self.random.below(self.scene.machines);
        let name = machine_name(machine);
        match trouble {
            Trouble::Kill => {
                let arrive = self.random.chance(500);
                self.kill_if_up(controller, arrive);
            }
            Trouble::KillInside => {
                let at = [Point::Before, Point::After, Point::Late][self.random.below(3)];
                self.crash = Some(Crash { call: self.calls + self.random.between(1, 30) as u64, at });
            }
            Trouble::StopLeader => {
                let seconds = self.random.between(5, 120);
                if let Some(leader) = self.leader {
                    self.stop_controller(leader, seconds * SECOND);
                }
            }
            Trouble::FreezeWatch => {
                let (watcher, seconds) = (self.any_watcher(), self.random.between(5, 300));
                let kind = Kind::WATCHED[self.random.below(Kind::WATCHED.len())];
                let until = self.now + seconds * SECOND;
                self.freeze_watch(watcher, kind, until);
            }
            Trouble::BreakWatch => {
                let watcher = self.any_watcher();
                let up = match watcher {
                    Watcher::Controller(number) => {
                        self.controllers[number].up && self.controllers[number].stopped_until <= self.now
                    }
                    Watcher::Server(number) => self.servers[number].up,
                };
                if up && !self.cluster.away {
                    self.list_anew(watcher);
                }
            }
            Trouble::KillServer => {
                let server = self.random.below(self.servers.len());
                if self.servers[server].up {
                    self.servers[server].up = false;
                    let after = self.random.between(1, 60) * SECOND;
                    self.at(after, Step::ServerBack(server));
                }
            }
            Trouble::PowerCycle => {
                let number = self.random.below(self.boxes.len());
                self.power_on(number);
            }
            Trouble::ApiAway => {
                self.cluster.away = true;
                let after = self.random.between(5, 120) * SECOND;
                self.at(after, Step::Fault(Fault::ApiBack));
            }
            Trouble::Backup => self.backup = Some(self.cluster.backup()),
            Trouble::Restore => self.restore(),
            Trouble::Delete => {
                drop(self.cluster.delete(Kind::Machine, &name, None, Actor::Person));
                self.digest_news();
                let after = self.random.between(5, 600) * SECOND;
                self.at(after, Step::Fault(Fault::Declare(machine)));
            }
            Trouble::Intent => self.new_intent(machine),
            Trouble::Maintenance => {
                let set = |object: &mut serde_json::Value| object["spec"]["maintenance"] = "InMemory".into();
                drop(self.cluster.edit(Kind::Machine, &name, Actor::Person, set));
                self.digest_news();
                let after = self.random.between(60, 1200) * SECOND;
                self.at(after, Step::Fault(Fault::GiveBack(machine)));
            }
            Trouble::SweepRequests => self.sweep_requests(),
            Trouble::Slow => {
                self.slow = self.random.between(100, 40_000);
                let after = self.random.between(10, 300) * SECOND;
                self.at(after, Step::Fault(Fault::Swift));
            }
        }
    }

    fn any_watcher(&mut self) -> Watcher {
        let all = self.watchers();
        all[self.random.below(all.len())]
    }

    pub fn kill_if_up(&mut self, number: usize, requests_arrive: bool) {
        if self.controllers[number].up {
            self.kill_controller(number, requests_arrive);
        }
    }

    /// A controller is killed at a request of its own.
    pub fn crash_now(&mut self, number: usize, task: u64) {
        let Some(Crash { call: _, at }) = self.crash.take() else { return };
        match at {
            Point::Before => {
                self.tasks.remove(&task);
                self.kill_if_up(number, false);
            }
            Point::After => {
                self.effect(task);
                self.kill_if_up(number, false);
            }
            Point::Late => {
                let after = self.random.between(1, 10) * SECOND;
                self.at(after, Step::Effect(task));
                self.kill_if_up(number, true);
            }
        }
    }

    /// A controller is stopped for a while, in the middle of whatever it does, and knows nothing of it.
    pub fn stop_controller(&mut self, number: usize, millis: i64) {
        self.say(format!("controller {number} stands still for {millis} ms"));
        self.controllers[number].stopped_until = self.now + millis;
        self.at(millis, Step::Resume(number));
        if self.leader == Some(number) {
            self.leader = None;
            let after = self.random.between(15, 20) * SECOND;
            self.at(after, Step::Elect);
        }
    }

    /// It goes on, and takes a while to learn that another leads.
    pub fn resume_controller(&mut self, number: usize) {
        let controller = &self.controllers[number];
        if !controller.up || controller.stopped_until > self.now {
            return;
        }
        match self.leader {
            None if controller.leads => self.leader = Some(number),
            Some(leader) if leader == number => {}
            Some(_) | None => {
                let (after, life) = (self.random.between(0, 10) * SECOND, controller.life);
                self.at(after, Step::Depose(number, life));
            }
        }
        self.say(format!("controller {number} goes on"));
    }

    pub fn depose(&mut self, number: usize, life: u32) {
        if self.leader != Some(number) && self.controllers[number].life == life {
            self.controllers[number].set_leading(false);
        }
    }

    /// etcd is put back to the last backup, and everybody lists anew.
    pub fn restore(&mut self) {
        let Some(backup) = self.backup.clone() else { return };
        self.say("everything is restored from the backup");
        self.cluster.restore(&backup);
        let machines: Vec<_> = self.cluster.all(Kind::Machine).filter_map(|object| object.machine().cloned()).collect();
        self.laws.restored(self.cluster.era, machines.into_iter());
        self.end_watches();
    }

    fn give_back(&mut self, machine: usize) {
        let set = |object: &mut serde_json::Value| object["spec"]["maintenance"] = serde_json::Value::Null;
        drop(self.cluster.edit(Kind::Machine, &machine_name(machine), Actor::Person, set));
        self.digest_news();
    }

    /// Somebody names another intent.
    pub fn new_intent(&mut self, machine: usize) {
        let intent = format!("r{}", self.next_serial());
        let set = |object: &mut serde_json::Value| object["spec"]["bootIntent"] = intent.clone().into();
        drop(self.cluster.edit(Kind::Machine, &machine_name(machine), Actor::Person, set));
        self.digest_news();
    }

    /// The cluster's own cleaner removes requests, decided or not.
    pub fn sweep_requests(&mut self) {
        let names: Vec<_> =
            self.cluster.all(Kind::Request).filter_map(|object| object.request()?.metadata.name.clone()).collect();
        for name in names {
            drop(self.cluster.delete(Kind::Request, &name, None, Actor::Person));
        }
        self.digest_news();
    }

    /// Nothing goes wrong any more.
    pub fn end_faults(&mut self) {
        self.say("nothing goes wrong any more");
        (self.scene.faults, self.scene.renewals) = (0, false);
        self.scene.kinds.clear();
        self.network = super::network::Network::default();
        (self.slow, self.crash, self.cluster.away) = (0, None, false);
        for number in 0..self.boxes.len() {
            if !self.boxes[number].honest {
                self.power_off(number);
            }
        }
        for number in 0..self.servers.len() {
            if !self.servers[number].up {
                self.start_server(number);
            }
        }
        self.thaw();
        (0..self.scene.machines).for_each(|number| self.give_back(number));
    }

    /// What a person does about machines that are not Ready, as their messages say: a foreign Node goes, the intent is set
    /// anew, and the box is switched off and on.
    pub fn put_right(&mut self) {
        for number in 0..self.scene.machines {
            let name = machine_name(number);
            let found = self.cluster.object(Kind::Machine, &name).and_then(|object| object.machine().cloned());
            if found.as_ref().and_then(|machine| machine.status.as_ref()?.phase) == Some(Phase::Ready) {
                continue;
            }
            self.say(format!("somebody puts {name} right"));
            self.power_off(number);
            // A kubelet that runs on registers the Node anew, also where it went with its Machine: the Node goes once the box is off.
            let (node, uid) = (node_name(number), found.as_ref().and_then(|machine| machine.uid()));
            let owner = self.cluster.object(Kind::Node, &node).and_then(|object| object.node().cloned());
            if owner.is_some_and(|owner| uid.is_none() || owner.labels().get(LABEL_MACHINE_UID).cloned() != uid) {
                drop(self.cluster.delete(Kind::Node, &node, None, Actor::Person));
                self.digest_news();
            }
            match found {
                // Its box is wiped once it boots; then somebody declares it again.
                Some(machine) if machine.metadata.deletion_timestamp.is_some() => {}
                Some(_) => self.new_intent(number),
                None => self.declare(number),
            }
            let after = self.random.between(5, 20) * SECOND;
            self.at(after, Step::Fault(Fault::PowerOn(number)));
        }
    }

    /// True if every machine is Ready.
    pub fn all_ready(&self) -> bool {
        let ready = |machine: &Machine| machine.status.as_ref().and_then(|status| status.phase) == Some(Phase::Ready);
        let count = self.laws.machines.values().filter(|machine| ready(machine)).count();
        count == self.scene.machines
    }

    /// The end of every run: faults end, somebody puts right what needs a person, everything becomes Ready, and then nothing is
    /// written any more.
    pub fn comes_to_rest(&mut self) {
        self.end_faults();
        self.run_to(self.now + 2 * MINUTE);
        self.put_right();
        let leaves = |machine: &Arc<Machine>| machine.metadata.deletion_timestamp.is_some();
        if self.laws.machines.values().any(leaves) {
            self.run_to(self.now + 15 * MINUTE);
            self.put_right();
        }
        let limit = self.now + 30 * MINUTE;
        let ready = self.until(limit, Self::all_ready);
        if !ready {
            let states: Vec<String> = self
                .cluster
                .all(Kind::Machine)
                .filter_map(|object| {
                    let machine = object.machine()?;
                    let status = machine.status.as_ref()?;
                    Some(format!("{} {:?} {:?} {:?}", machine.name_any(), status.phase, status.reason, status.message))
                })
                .collect();
            self.laws.breach(self.now, format!("not everything became Ready: {states:?}"));
            return;
        }
        self.run_to(self.now + 12 * MINUTE);
        let before = self.writes;
        self.run_to(self.now + 30 * MINUTE);
        if self.writes != before {
            let text = format!("{} writes in a world at rest", self.writes - before);
            self.laws.breach(self.now, text);
        }
    }
}
