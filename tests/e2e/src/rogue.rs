//! A box on the provisioning network that says it is another: it knows a MAC and nothing else.

use std::fs::File;
use std::net::{SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_wire::dhcp::{MessageType, Packet, request::Persona};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use serde_json::Value;

use crate::magnetite::Binaries;
use crate::net::{Network, SERVER};
use crate::proc::{Cmd, Process};
use crate::site::Site;

/// Runs `work` on a thread inside a network namespace.
pub fn in_netns<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{netns}");
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = File::open(&path).with_context(|| format!("open {path}"))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {path}"))?;
            work()
        });
        inside.join().map_err(|_| anyhow::anyhow!("a thread in {netns} panicked"))?
    })
}

/// Sends a DISCOVER as iPXE on a BIOS box would, and returns the proxy's OFFER, if one comes within two seconds:
/// the time for which real iPXE listens for one.
pub fn discover(network: &Network, mac: &str) -> Result<Option<Packet>> {
    let mac: Vec<u8> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
    let mac = <[u8; 6]>::try_from(mac).map_err(|mac| anyhow::anyhow!("{} octets are no MAC", mac.len()))?;
    let request = Persona::BIOS.ipxe().request(MessageType::DISCOVER, mac, None, 0x6d61_676e);
    let mut bytes = Vec::new();
    request.encode(&mut bytes)?;
    in_netns(&network.dhcp(), move || {
        let socket = UdpSocket::bind("0.0.0.0:68")?;
        setsockopt(&socket, BindToDevice, &"eth0".into())?;
        socket.set_broadcast(true)?;
        socket.send_to(&bytes, "255.255.255.255:67".parse::<SocketAddrV4>()?)?;
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut buffer = [0; 2048];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { break };
            let Ok(packet) = Packet::decode(&buffer[..len]) else { continue };
            let ours = packet.xid == request.xid && packet.mac() == request.mac();
            if ours && from.ip().to_string() == SERVER {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    })
}

/// Everything that a box is given before it claims: what a listener on the wire has.
pub struct Loot {
    /// The iPXE script.
    pub script: String,
    /// The Ignition config.
    pub ignition: String,
    /// The agent's environment, from that config.
    pub environment: Vec<(String, String)>,
}

impl Loot {
    /// Where the Ignition config is, as the script says.
    #[must_use]
    pub fn config_link(&self) -> Option<&str> {
        self.script.split_whitespace().find_map(|word| word.strip_prefix("ignition.config.url="))
    }
}

/// Fetches, from another place on the network, what the box with this MAC would be given.
pub fn loot(site: &Site, mac: &str) -> Result<Loot> {
    let offer = discover(site.network(), mac)?.context("no offer came for a declared box")?;
    let url = String::from_utf8(offer.bootfile())?;
    let script = fetch(site, &url)?;
    let mut loot = Loot { script, ignition: String::new(), environment: Vec::new() };
    let Some(url) = loot.config_link() else { bail!("the script names no Ignition config:\n{}", loot.script) };
    loot.ignition = fetch(site, url)?;
    let config: Value = serde_json::from_str(&loot.ignition).context("the Ignition config is JSON")?;
    let files = config["storage"]["files"].as_array().context("the config has files")?;
    let file =
        files.iter().find(|file| file["path"] == "/etc/magnetite/agent.env").context("the agent's environment")?;
    let source = file["contents"]["source"].as_str().context("its source")?;
    let text = STANDARD.decode(source.trim_start_matches("data:;base64,"))?;
    loot.environment = String::from_utf8(text)?
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(loot)
}

/// Fetches a URL from the DHCP server's place in the network.
pub fn fetch(site: &Site, url: &str) -> Result<String> {
    Cmd::new("curl").netns(site.network().dhcp()).args(["-sSf", "--max-time", "10", url]).run()
}

/// Runs the real agent at the DHCP server's place, with keys of its own, in the name of the box with this MAC.
pub fn claim(site: &Site, binaries: &Binaries, mac: &str, loot: &Loot) -> Result<Process> {
    let root = site.run().join("rogue");
    lie(&root, mac)?;
    let mut command = Cmd::new(binaries.path("magnetite-agent"))
        .netns(site.network().dhcp())
        .args(["--root".to_owned(), root.display().to_string()])
        .args(["--state-dir".to_owned(), "/var/lib/magnetite".to_owned()])
        .args(["--systemctl", "/bin/false"]);
    for (name, value) in &loot.environment {
        command = command.env(name, value);
    }
    command.spawn("rogue", &site.run().logs().join("rogue.log"))
}

/// A /sys that tells the agent that it runs on the other box.
fn lie(root: &Path, mac: &str) -> Result<()> {
    let card: PathBuf = root.join("sys/class/net/eth0");
    std::fs::create_dir_all(card.join("device"))?;
    std::fs::write(card.join("address"), format!("{mac}\n"))?;
    std::fs::create_dir_all(root.join("proc/sys/kernel/random"))?;
    std::fs::write(root.join("proc/sys/kernel/random/boot_id"), "00000000-0000-4000-8000-00000000bad1\n")?;
    // The agent asks for no identity on a box that could not use one.
    let kubelet = root.join("usr/local/bin/kubelet");
    std::fs::create_dir_all(root.join("usr/local/bin"))?;
    std::fs::write(&kubelet, "#!/bin/sh\n")?;
    std::fs::set_permissions(&kubelet, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}
