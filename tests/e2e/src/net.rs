//! The site's network, in namespaces of its own: nothing here touches this machine's interfaces.
//!
//! ```text
//!   sw    a switch: br0, without an address, and one tap a machine
//!   dhcp  172.30.0.2  the site's own DHCP server and router (advertisements only)
//!   srv   172.30.0.1  the control plane, and Magnetite
//! ```
//!
//! The namespaces carry this process's id and a counter in their names, so labs can run side by side,
//! and a lab that was killed can be told from one that runs.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::proc::Cmd;
use crate::progress::Progress;

const PREFIX: &str = "mgt";
/// Where sockets go: their paths must be short, and a lab's folder may be deep. Their names begin with
/// the namespace's.
pub(crate) const SOCKETS: &str = "/tmp";
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Where the control plane and Magnetite listen.
pub const SERVER: &str = "172.30.0.1";
/// Where the site's DHCP server listens.
pub const DHCP: &str = "172.30.0.2";
/// The first and last address that the DHCP server hands out.
pub const POOL: (&str, &str) = ("172.30.0.100", "172.30.0.200");

/// The site's network. Removed when dropped; whatever runs in it must be gone by then.
#[derive(Debug)]
pub struct Network {
    stem: String,
}

impl Network {
    /// Builds the network, with room for `machines` machines.
    pub fn create(machines: u8) -> Result<Self> {
        let network = Self { stem: stem() };
        for name in [network.switch(), network.dhcp(), network.server()] {
            Cmd::new("ip").args(["netns", "add", &name]).run()?;
        }
        let mut switch = String::from(
            "link set lo up\nlink add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\nlink set br0 up\n",
        );
        for (port, netns) in [("p-dhcp", network.dhcp()), ("p-srv", network.server())] {
            switch.push_str(&format!("link add {port} type veth peer name eth0 netns {netns}\n"));
            switch.push_str(&format!("link set {port} master br0 up\n"));
        }
        for machine in 0..machines {
            let tap = Self::tap(machine);
            switch.push_str(&format!("tuntap add dev {tap} mode tap\nlink set {tap} master br0 up\n"));
        }
        batch(&network.switch(), switch).context("make the switch")?;
        for (netns, v4, v6) in [(network.dhcp(), DHCP, "fd30::2"), (network.server(), SERVER, "fd30::1")] {
            batch(
                &netns,
                format!(
                    "link set lo up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n"
                ),
            )
            .context("connect a server")?;
        }
        Ok(network)
    }

    /// The namespace of the switch and the machines' taps.
    #[must_use]
    pub fn switch(&self) -> String {
        format!("{}-sw", self.stem)
    }

    /// The namespace of the site's DHCP server.
    #[must_use]
    pub fn dhcp(&self) -> String {
        format!("{}-dhcp", self.stem)
    }

    /// The namespace of the control plane and Magnetite.
    #[must_use]
    pub fn server(&self) -> String {
        format!("{}-srv", self.stem)
    }

    /// The interface of a machine, in the switch's namespace.
    #[must_use]
    pub fn tap(machine: u8) -> String {
        format!("tap{machine}")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [self.switch(), self.dhcp(), self.server()] {
            // Not all of them need exist: creation may have failed half-way.
            remove(&name);
        }
    }
}

/// What the names of a lab's namespaces begin with: each lab's own.
pub(crate) fn stem() -> String {
    let number = COUNTER.fetch_add(1, Ordering::SeqCst);
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// Runs lines of `ip -batch` in a namespace.
pub fn batch(netns: &str, script: String) -> Result<String> {
    Cmd::new("ip").args(["-n", netns, "-batch", "-"]).input(script).run()
}

/// Ends what still runs in a namespace that a lab made, and removes it.
pub(crate) fn remove(name: &str) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    // Not through `Cmd`: this must also work after a Ctrl-C.
    let ip = |args: &[&str]| std::process::Command::new("ip").args(args).output();
    if let Ok(output) = ip(&["netns", "pids", name]) {
        for pid in String::from_utf8_lossy(&output.stdout).lines() {
            if let Ok(pid) = pid.trim().parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    drop(ip(&["netns", "del", name]));
}

/// Removes what labs left behind that were killed before they could.
pub fn cleanup_stale(progress: &Progress) -> Result<()> {
    let gone = |name: &str| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    for name in names("/run/netns").iter().filter(|name| gone(name)) {
        progress.line(format!("removing {name}, left by a lab that is gone"));
        remove(name);
    }
    for name in names(SOCKETS).iter().filter(|name| gone(name)) {
        drop(std::fs::remove_file(Path::new(SOCKETS).join(name)));
    }
    Ok(())
}

fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The process that made a namespace, or a socket, of this name, if it is a lab's.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (number, role) = rest.split_once('-')?;
    number.parse::<u32>().ok()?;
    let role = role.split_once('-').map_or(role, |(role, _machine)| role);
    matches!(role, "sw" | "dhcp" | "srv").then(|| pid.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_labs_namespaces_have_an_owner() {
        assert_eq!(owner("mgt123-0-sw"), Some(123));
        assert_eq!(owner("mgt123-0-sw-node0.monitor"), Some(123));
        assert_eq!(owner("mgt123-0-srv-1"), Some(123));
        for other in ["mgt-0-sw", "pxe-sw", "mgtx-0-srv", "mgt12-0-other", "mgt12-sw"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
