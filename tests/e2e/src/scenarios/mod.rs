//! The scenarios: what is promised, seen to hold on real parts.

mod away;
mod catalog;
mod conflict;
mod crash;
mod disk;
mod fire;
mod firmware;
mod https;
mod install;
mod ipv6;
mod join;
mod live;
mod not_yet;
mod power;
mod relay;
mod rollout;
mod same;
mod schema;
mod tpm;

use anyhow::Result;

use crate::magnetite::Binaries;
use crate::prepare::Prepared;
use crate::progress::Progress;

/// A scenario of the lab.
pub struct Scenario {
    /// Its name on the command line, and of its run's folder.
    pub name: &'static str,
    /// What it proves, in a line.
    pub about: &'static str,
    /// Whether it wants the machine for itself: its boxes are so many, or their timers so short, that another's work would be what it
    /// measures.
    pub alone: bool,
    /// Runs it.
    pub run: fn(&Prepared, &Binaries, &Progress) -> Result<()>,
}

/// Those of the test run: those that want the machine for themselves, then the others, the longest first, so that no long one is alone
/// at the end.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "storm",
        about: "thousands of boxes power on at once: every offer in time, every script; memory and files come down again",
        alone: true,
        run: fire::storm,
    },
    Scenario {
        name: "loss",
        about: "one packet of twenty, then one of five is lost, and they overtake each other: the boxes boot",
        alone: true,
        run: fire::loss,
    },
    Scenario {
        name: "flood",
        about: "junk as fast as it can be sent, and clients that stop in the middle: declared boxes boot",
        alone: true,
        run: fire::flood,
    },
    Scenario {
        name: "replicas",
        about: "three boot servers, one killed every few seconds: no box needs more than one attempt more",
        alone: true,
        run: fire::replicas,
    },
    Scenario {
        name: "install",
        about: "a UEFI box that nobody declared is found, approved by a rule, switched on by its BMC; it installs its system, though its power is cut, joins from its disk, installs nothing again, waits in memory while it is out of service, and is wiped; the controller is killed at each turn",
        alone: false,
        run: install::run,
    },
    Scenario {
        name: "join",
        about: "BIOS and UEFI boxes become Nodes; strangers get nothing; nothing secret is served; a reboot stays joined",
        alone: false,
        run: join::run,
    },
    Scenario {
        name: "conflict",
        about: "a rogue claims a box's identity first: found out, frozen, and settled by a new intent",
        alone: false,
        run: conflict::run,
    },
    Scenario {
        name: "ipv6",
        about: "UEFI boxes boot by PXE and by HTTP over IPv6, beside a DHCPv6 server that names no loader",
        alone: false,
        run: ipv6::boot,
    },
    Scenario {
        name: "tpm",
        about: "a box with the declared TPM becomes a Node; its MAC without it, and its disk in another box, do not",
        alone: false,
        run: tpm::run,
    },
    Scenario {
        name: "power",
        about: "boxes are switched by their BMCs, by Redfish and IPMI: on from the network, off, round once; what a BMC has against it is told",
        alone: false,
        run: power::run,
    },
    Scenario {
        name: "crash",
        about: "kill -9 of controller and boot server in mid-boot still ends Ready",
        alone: false,
        run: crash::run,
    },
    Scenario {
        name: "away",
        about: "the API server is away: boots go on from the snapshot, the claim waits",
        alone: false,
        run: away::run,
    },
    Scenario {
        name: "firmware",
        about: "BIOS, UEFI in both dialects, UEFI HTTP, Arm and Secure Boot, each as far as its kernel",
        alone: false,
        run: firmware::run,
    },
    Scenario {
        name: "schema",
        about: "the charts install; a real API server refuses bad objects and names the field",
        alone: false,
        run: schema::run,
    },
    Scenario {
        name: "https",
        about: "UEFI and iPXE that trust the boot server's certificate boot over TLS alone; an iPXE without it over HTTP",
        alone: false,
        run: https::run,
    },
    Scenario {
        name: "odd-networks",
        about: "a loader that fails is followed by the next; port 67 is taken; no DHCP server, addresses are reserved",
        alone: false,
        run: firmware::odd,
    },
    Scenario {
        name: "relay",
        about: "boxes behind a DHCP relay and a router, beside the site's DHCP server there and without one",
        alone: false,
        run: relay::run,
    },
    Scenario {
        name: "catalog",
        about: "without a cluster: a box boots from a folder of YAML",
        alone: false,
        run: catalog::run,
    },
    Scenario {
        name: "ra",
        about: "no router on the link: an empty advertisement ends iPXE's wait; beside a real router not a word",
        alone: false,
        run: ipv6::router,
    },
];

/// Those that take too long for the test run, or show little that it does not: `cargo xtask e2e NAME` runs one.
pub const BY_HAND: &[Scenario] = &[
    Scenario {
        name: "rollout",
        about: "a changed Profile rolls through three boxes, one at a time; a budget is kept; a revision that fails stops it",
        alone: false,
        run: rollout::run,
    },
    Scenario {
        name: "not-yet",
        about: "half an hour: real iPXE and real Ignition are told \"not yet\" for ten minutes each, and finish",
        alone: false,
        run: not_yet::run,
    },
    Scenario {
        name: "disk",
        about: "a UEFI box whose disk a person wrote joins from it, and boots from it again although its firmware tries the network first",
        alone: false,
        run: disk::run,
    },
];

/// Fails with a sentence unless something holds.
macro_rules! ensure {
    ($holds:expr, $($says:tt)+) => {
        if !$holds {
            anyhow::bail!($($says)+);
        }
    };
}
pub(crate) use ensure;
