//! What the agent does in memory: it writes a system to the disk, wipes it, or waits. And what a boot server keeps of that on its own disk, which
//! outlives its process.

use std::collections::BTreeMap;

use kube::ResourceExt;
use magnetite_api::{
    install::{InstallState, InstallStatus, WipeState, WipeStatus},
    report::BootStepName,
    time::seconds,
};
use magnetite_boot::{capability::machine_key, plan::Task};

use super::{
    clock::{self, SECOND},
    cluster::Broken,
    metal::{Reply, Stage},
    server::{AgentLink, Question},
    world::{Step, World},
};

/// What a boot server keeps of a machine, by its UID.
pub type Kept = BTreeMap<String, OnDisk>;

#[derive(Debug, Clone, Default)]
pub struct OnDisk {
    pub install: Option<InstallStatus>,
    pub wipe: Option<WipeStatus>,
}

impl World {
    /// What was on the disk is gone from here on, unless the mark on it says that this very intent was done.
    pub fn begin_install(&mut self, number: usize, link: AgentLink) {
        let of_this = |marked: &AgentLink| (&marked.uid, &marked.intent) == (&link.uid, &link.intent);
        let marks = self.cluster.broken != Some(Broken::IgnoresMarks);
        let done = marks && self.boxes[number].system.as_ref().is_some_and(|system| of_this(&system.link));
        if !done {
            self.boxes[number].system = None;
        }
        self.say(format!("box {number} begins to be installed for {} in intent {}: {done}", link.machine, link.intent));
        self.boxes[number].stage = Stage::Installer { link, done };
        let after = if done { 0 } else { self.random.between(20, 120) * SECOND };
        self.timer(number, after);
    }

    pub fn installing(&mut self, number: usize, link: AgentLink, done: bool) {
        if !done {
            self.laws.installed(self.now, number, &link.uid, &link.intent);
            self.say(format!("box {number} is installed for {} in intent {}", link.machine, link.intent));
            let system = self.system(number, link.clone());
            self.boxes[number].system = Some(system);
            self.boxes[number].stage = Stage::Installer { link: link.clone(), done: true };
        }
        self.tell_of_disk(number, link);
    }

    pub fn begin_wipe(&mut self, number: usize, link: AgentLink) {
        self.say(format!("box {number} begins to be wiped for {}", link.machine));
        self.laws.wiping(self.now, &link.uid);
        self.boxes[number].system = None;
        self.boxes[number].stage = Stage::Eraser { link, done: false };
        let after = self.random.between(20, 120) * SECOND;
        self.timer(number, after);
    }

    pub fn erasing(&mut self, number: usize, link: AgentLink, done: bool) {
        if !done {
            self.say(format!("box {number} is wiped"));
            self.boxes[number].stage = Stage::Eraser { link: link.clone(), done: true };
        }
        self.tell_of_disk(number, link);
    }

    fn tell_of_disk(&mut self, number: usize, link: AgentLink) {
        let AgentLink { server, id, cap, task, .. } = link;
        self.ask(server, number, Question::Disk { id, cap, task });
        self.timer(number, 10 * SECOND);
    }

    pub fn hold(&mut self, number: usize, link: AgentLink) {
        self.say(format!("box {number} waits in memory as {}", link.machine));
        self.boxes[number].stage = Stage::Held { link: link.clone() };
        self.ask_what_next(number, link);
    }

    pub fn ask_what_next(&mut self, number: usize, link: AgentLink) {
        let AgentLink { server, id, cap, .. } = link;
        self.ask(server, number, Question::Held { id, cap });
        self.timer(number, 20 * SECOND);
    }

    /// A server is told what became of a disk. Its answer comes once that is on its own.
    pub fn keep(&mut self, number: usize, box_: usize, life: u32, id: &str, cap: &str, task: Task) {
        let Some(machine) = self.servers[number].of_agent(id, cap) else {
            return self.tell(box_, life, Reply::Unknown);
        };
        let (uid, name) = (machine_key(&machine), machine.name_any());
        let (intent, at) = (machine.wanted_intent().to_owned(), seconds(clock::now()));
        let kept = self.kept[number].entry(uid).or_default();
        match task {
            Task::Install => {
                let state = InstallState::Installed;
                kept.install = Some(InstallStatus { intent, state, disk: None, image: None, at, message: None });
            }
            Task::Wipe => {
                let state = WipeState::Wiped;
                kept.wipe = Some(WipeStatus { intent, state, disks: vec![], at, message: None });
            }
            Task::Boot | Task::Inventory => return,
        }
        self.tell(box_, life, Reply::Noted);
        self.step(number, &name, BootStepName::AgentStarted, false);
    }

    /// A box that is out of service asks what becomes of it.
    pub fn what_next(&mut self, number: usize, box_: usize, life: u32, id: &str, cap: &str) {
        let Some(machine) = self.servers[number].that_was_held(id, cap) else {
            return self.tell(box_, life, Reply::Unknown);
        };
        if !machine.is_held() {
            return self.tell(box_, life, Reply::Restart);
        }
        self.step(number, &machine.name_any(), BootStepName::Inventoried, false);
        self.tell(box_, life, Reply::Later(15));
    }

    /// A server that starts has told nobody of what an earlier process kept.
    pub fn tell_what_was_kept(&mut self, number: usize) {
        let life = self.servers[number].life;
        for machine in self.servers[number].names_of(&self.kept[number]) {
            self.at(SECOND, Step::Flush { server: number, life, machine });
        }
    }
}
