//! Objects that the schema itself must refuse, in words that name the field: no controller is asked.

/// A bad object: what is wrong with it, its specification, and what the API server's words must hold.
type Bad = (&'static str, &'static str, &'static str);

/// Machines, by their `spec`.
const MACHINES: [Bad; 22] = [
    ("no identity", "{}", "at least one of spec.macs"),
    ("a MAC that is cut short", "{macs: ['52:54:00:30:00']}", "spec.macs[0]"),
    ("a MAC with a letter that is no digit", "{macs: ['52:54:00:30:00:1g']}", "spec.macs[0]"),
    ("a UUID that is none", "{uuid: x}", "spec.uuid"),
    ("an empty serial number", "{serial: ''}", "spec.serial"),
    ("a window of a second", "{serial: X1, bootWindowSeconds: 1}", "spec.bootWindowSeconds"),
    ("a window of two days", "{serial: X1, bootWindowSeconds: 172800}", "spec.bootWindowSeconds"),
    ("a node's name with a dot", "{serial: X1, nodeName: a.b}", "spec.nodeName"),
    ("a node's name that is a path", "{serial: X1, nodeName: ../x}", "spec.nodeName"),
    ("an intent of two words", "{serial: X1, bootIntent: a b}", "spec.bootIntent"),
    ("a Profile without a name", "{serial: X1, profile: ''}", "spec.profile"),
    ("a label of ours", "{serial: X1, nodeLabels: {magnetite.dev/machine: y}}", "magnetite.dev/"),
    (
        "the control plane's label",
        "{serial: X1, nodeLabels: {node-role.kubernetes.io/control-plane: ''}}",
        "control-plane role",
    ),
    ("a label's key of two words", "{serial: X1, nodeLabels: {a b: c}}", "no label's key"),
    ("a label's value of two words", "{serial: X1, nodeLabels: {a: b c}}", "spec.nodeLabels.a"),
    ("a loader that is a path", "{serial: X1, netboot: {loader: ../../etc/passwd}}", "spec.netboot.loader"),
    ("a dialect that nobody speaks", "{serial: X1, netboot: {dialect: Other}}", "spec.netboot.dialect"),
    ("an address without its network", "{serial: X1, address: 10.0.0.1}", "spec.address"),
    ("a lease of ten seconds", "{serial: X1, network: {leaseSeconds: 10}}", "spec.network.leaseSeconds"),
    ("a domain of two words", "{serial: X1, network: {domain: a b}}", "spec.network.domain"),
    ("a deletion that does more", "{serial: X1, deletionPolicy: Burn}", "spec.deletionPolicy"),
    ("a variable that is longer than a page", "{serial: X1, variables: {a: LONG}}", "spec.variables.a"),
];

/// Profiles, by what stands beside `boot`.
const PROFILES: [Bad; 14] = [
    ("a selector that selects all", "selector: {}", "empty selector"),
    ("a config from nowhere", "ignition: {}", "exactly one of inline and configMap"),
    (
        "a config from two places",
        "ignition: {inline: '{}', configMap: {name: c}}",
        "exactly one of inline and configMap",
    ),
    ("a ConfigMap without a name", "ignition: {configMap: {name: ''}}", "spec.ignition.configMap.name"),
    ("a label of ours", "node: {labels: {magnetite.dev/machine: y}}", "magnetite.dev/"),
    ("a taint without a key", "node: {taints: [{key: '', effect: NoSchedule}]}", "spec.node.taints[0].key"),
    ("a taint that does something else", "node: {taints: [{key: a, effect: Maybe}]}", "spec.node.taints[0].effect"),
    ("a way to join that there is not", "join: {mode: Token}", "spec.join.mode"),
    ("an API server without TLS", "join: {apiServer: 'http://10.0.0.1:6443'}", "spec.join.apiServer"),
    ("a password in a URL", "join: {apiServer: 'https://a:b@10.0.0.1:6443'}", "spec.join.apiServer"),
    ("a name for a DNS server", "join: {clusterDns: [dns.example]}", "spec.join.clusterDns[0]"),
    ("a kubelet that asks nobody", "join: {kubeletArgs: ['--anonymous-auth=true']}", "Magnetite's to set"),
    ("a kubelet's argument of two", "join: {kubeletArgs: ['--v=4 --config=/x']}", "spec.join.kubeletArgs[0]"),
    ("an agent at a path that climbs", "agent: {path: /opt/../etc/agent}", "spec.agent.path"),
];

/// Profiles, by what they boot on x86-64.
const BOOTS: [Bad; 12] = [
    ("a kernel from nowhere", "kernel: {sha256: SUM}", "exactly one of url and file"),
    ("a kernel from two places", "kernel: {url: 'http://x/k', file: k, sha256: SUM}", "exactly one of url and file"),
    ("a path that climbs", "kernel: {file: ../../etc/shadow, sha256: SUM}", "kernel.file"),
    ("a path from the root", "kernel: {file: /etc/shadow, sha256: SUM}", "kernel.file"),
    ("a file of the boot server's host", "kernel: {url: 'file:///etc/shadow', sha256: SUM}", "kernel.url"),
    ("a password in a URL", "kernel: {url: 'http://user:word@x/k', sha256: SUM}", "kernel.url"),
    ("a sum that is none", "kernel: {file: k, sha256: abc}", "kernel.sha256"),
    (
        "an initrd from nowhere",
        "kernel: {file: k, sha256: SUM}, initrds: [{sha256: SUM}]",
        "exactly one of url and file",
    ),
    (
        "a file's name that is a path",
        "kernel: {file: k, sha256: SUM}, files: {../x: {file: k, sha256: SUM}}",
        "a file's name",
    ),
    ("a line break in an argument", "kernel: {file: k, sha256: SUM}, commandLine: [\"a\\nreboot\"]", "commandLine[0]"),
    ("an empty argument", "kernel: {file: k, sha256: SUM}, commandLine: [a, '']", "commandLine[1]"),
    ("an argument that is longer than any", "kernel: {file: k, sha256: SUM}, commandLine: [LONG]", "commandLine[0]"),
];

/// Whole objects.
const OTHERS: [Bad; 4] = [
    ("a name that is no label", "kind: Machine\nmetadata: {name: a.b}\nspec: {serial: X1}", "DNS label"),
    ("nothing to boot", "kind: Profile\nmetadata: {name: bad}\nspec: {boot: {}}", "boot needs x86_64 or aarch64"),
    (
        "a reboot to somewhere",
        "kind: Profile\nmetadata: {name: bad}\nspec: {boot: {onReboot: Disk, aarch64: {kernel: {file: k, sha256: SUM}}}}",
        "spec.boot.onReboot",
    ),
    ("a Machine of 33 cards", "kind: Machine\nmetadata: {name: bad}\nspec: {macs: [MACS]}", "spec.macs"),
];

/// All of them: what is wrong, the object, and the words that the refusal must have.
pub(super) fn objects() -> Vec<(&'static str, String, &'static str)> {
    let sum = "a".repeat(64);
    let macs: Vec<_> = (0..33).map(|number| format!("'52:54:00:30:01:{number:02x}'")).collect();
    let whole = |rest: &str| {
        let rest = rest.replace("SUM", &sum).replace("LONG", &"x".repeat(5000)).replace("MACS", &macs.join(","));
        format!("apiVersion: magnetite.dev/v1alpha1\n{rest}")
    };
    let machine = |spec: &str| whole(&format!("kind: Machine\nmetadata: {{name: bad}}\nspec: {spec}"));
    let profile = |spec: &str| whole(&format!("kind: Profile\nmetadata: {{name: bad}}\nspec: {{{spec}}}"));
    let beside = |rest: &str| profile(&format!("boot: {{x86_64: {{kernel: {{file: k, sha256: SUM}}}}}}, {rest}"));
    let boots = |rest: &str| profile(&format!("boot: {{x86_64: {{{rest}}}}}"));
    let mut all = Vec::new();
    all.extend(MACHINES.map(|(what, spec, words)| (what, machine(spec), words)));
    all.extend(PROFILES.map(|(what, rest, words)| (what, beside(rest), words)));
    all.extend(BOOTS.map(|(what, rest, words)| (what, boots(rest), words)));
    all.extend(OTHERS.map(|(what, object, words)| (what, whole(object), words)));
    all
}
