//! What runs on the Nodes, and what the agent on a box does for it: it restarts the box when its Node says so.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use magnetite_api::names::ANNOTATION_RESTART;

use super::{
    clock::SECOND,
    cluster::Kind,
    metal::Stage,
    world::{Step, World},
};

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

impl World {
    /// The kernel's name for the boot of a box.
    pub fn boot_id(&self, number: usize) -> String {
        format!("boot-{number}-{}", self.boxes[number].life)
    }

    /// So many Pods, of which some have to run at any time.
    pub fn run_pods(&mut self, count: usize, least: usize) {
        self.cluster.pods.least = least;
        for number in 0..count {
            let name = format!("web-{number}");
            self.cluster.pods.on.insert(name.clone(), None);
            self.place(&name);
        }
    }

    /// The scheduler finds a Node for a Pod: one that is Ready, takes Pods, and has the fewest.
    pub fn place(&mut self, pod: &str) {
        let open = |node: &Node| is_ready(node) && node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true);
        let nodes = self.cluster.all(Kind::Node).filter_map(|object| object.node().cloned());
        let open = nodes.filter(|node| open(node)).map(|node| node.name_any());
        let pods = &self.cluster.pods;
        let load = |node: &String| pods.on.values().flatten().filter(|on| *on == node).count();
        let Some(node) = open.min_by_key(|node| (load(node), node.clone())) else {
            return self.at(5 * SECOND, Step::Place(pod.to_owned()));
        };
        self.say(format!("the Pod {pod} runs on {node}"));
        self.cluster.pods.on.insert(pod.to_owned(), Some(node));
    }

    /// The agent looked at its Node. It believes what is there now, and only what names its own boot.
    pub fn restarts(&mut self, node: &str, asked: &str) {
        let found = self.cluster.object(Kind::Node, node).and_then(|object| object.node().cloned());
        let still = found.and_then(|node| node.annotations().get(ANNOTATION_RESTART).cloned());
        if self.cluster.away {
            return self.at(30 * SECOND, Step::Restarts { node: node.to_owned(), asked: asked.to_owned() });
        }
        if still.as_deref() != Some(asked) {
            return;
        }
        let boot = asked.rsplit_once('@').map(|(_, boot)| boot.to_owned());
        let runs = |number: &usize| {
            let box_ = &self.boxes[*number];
            let here = box_.system.as_ref().is_some_and(|system| system.link.node == node);
            here && matches!(box_.stage, Stage::Node) && Some(self.boot_id(*number)) == boot
        };
        let Some(number) = (0..self.boxes.len()).find(runs) else { return };
        if self.cluster.pods.on.values().flatten().any(|on| on == node) {
            self.laws.breach(self.now, format!("{node} is restarted with Pods on it"));
        }
        self.say(format!("the agent restarts box {number}"));
        self.power_on(number);
    }
}
