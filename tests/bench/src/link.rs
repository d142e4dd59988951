//! Two namespaces and a cable: the servers' and the clients'.

use anyhow::Result;
use magnetite_e2e::{net::batch, proc::Cmd};

/// The server's address.
pub const SERVER: &str = "10.77.0.1";
/// The first address of the clients; the others follow it.
pub const CLIENTS: [u8; 4] = [10, 77, 1, 0];

/// The link. Removed when dropped; what runs in it must be gone by then.
pub struct Link {
    stem: String,
}

impl Link {
    /// Makes it, with so many addresses on the clients' side (at most 250).
    pub fn create(clients: u8) -> Result<Self> {
        let link = Self { stem: format!("mgb{}", std::process::id()) };
        for name in [link.server(), link.clients()] {
            Cmd::new("ip").args(["netns", "add", &name]).run()?;
        }
        batch(
            &link.server(),
            format!(
                "link set lo up\nlink add eth0 type veth peer name eth0 netns {}\naddr add {SERVER}/16 dev eth0\nlink set eth0 up\n",
                link.clients()
            ),
        )?;
        let [a, b, c, _] = CLIENTS;
        let addresses: String =
            (1..=clients).map(|last| format!("addr add {a}.{b}.{c}.{last}/16 dev eth0\n")).collect();
        batch(&link.clients(), format!("link set lo up\n{addresses}link set eth0 up\n"))?;
        Ok(link)
    }

    /// The servers' namespace.
    pub fn server(&self) -> String {
        format!("{}-srv", self.stem)
    }

    /// The clients' namespace.
    pub fn clients(&self) -> String {
        format!("{}-cli", self.stem)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in [self.server(), self.clients()] {
            // Not through `Cmd`: this must also work after a Ctrl-C.
            drop(std::process::Command::new("ip").args(["netns", "del", &name]).output());
        }
    }
}
