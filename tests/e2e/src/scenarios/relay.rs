//! Boxes behind a relay: the boot server, and the site's DHCP server, are on another network.
//!
//! ```text
//!   boxes and br0 ── 172.30.0.2 dnsmasq, as relay and router ─┬─ boot 172.31.0.2 ── 172.31.0.1 the boot server
//!                                                            └─ site 172.32.0.2 ── 172.32.0.1 the site's DHCP server
//! ```

use anyhow::{Context, Result};

use super::{
    ensure,
    firmware::{Case, boots, serve, write_machine, write_profile},
};
use crate::lan::{Dhcp, Ipv6, Lan, LanOptions, dnsmasq};
use crate::magnetite::Binaries;
use crate::net::{DHCP, POOL, batch};
use crate::prepare::Prepared;
use crate::proc::Cmd;
use crate::progress::Progress;
use crate::vm::{Firmware, VmSpec};

/// The boot server's address, and the relay's on its network.
const BOOT: [&str; 2] = ["172.31.0.1", "172.31.0.2"];
/// The same of the site's DHCP server.
const SITE: [&str; 2] = ["172.32.0.1", "172.32.0.2"];

/// In both modes of DHCP.
pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let options = LanOptions { dhcp: Dhcp::None, ipv6: Ipv6::Silent, ..LanOptions::new("relay", 2) };
    let lan = Lan::start(prepared, &options)?;
    connect(&lan)?;
    let relay =
        format!("dhcp-relay={DHCP},{}\ndhcp-relay={DHCP},{}\ninterface=boot\ninterface=site\n", BOOT[0], SITE[0]);
    let _relay = dnsmasq("relay", &lan.network().dhcp(), lan.run(), &relay)?;
    let (first, last) = POOL;
    let pool = format!(
        "except-interface=eth0\ninterface=site\ndhcp-range={first},{last},255.255.255.0,12h\ndhcp-option=option:router,{DHCP}\ndhcp-leasefile={}\nno-ping\nlog-dhcp\n",
        lan.run().join("site.leases").display()
    );
    let mut site = Some(dnsmasq("site", &lan.network().server(), lan.run(), &pool)?);

    let vm = |name: &str, firmware, port| VmSpec::new(name, firmware, port).with_cpus(1).with_memory(512);
    let reserved = |address: &str| format!("  address: {address}/24\n  network: {{router: {DHCP}}}\n");
    let catalog = lan.run().join("catalog");
    write_profile(prepared, &lan, &catalog)?;
    for (mode, addresses) in [("proxy", None), ("reservations", Some(["172.30.0.21", "172.30.0.22"]))] {
        if addresses.is_some() {
            // Now ours is the only DHCP server.
            drop(site.take());
        }
        let specs = [vm("bios", Firmware::Bios, 0), vm("uefi", Firmware::Uefi, 1)];
        for (number, spec) in specs.iter().enumerate() {
            write_machine(&catalog, spec, &addresses.map_or(String::new(), |addresses| reserved(addresses[number])))?;
        }
        let mut server = serve(prepared, binaries, &lan, &prepared.loaders.ipxe, &["--dhcp", mode])?;
        progress.line(format!("behind a relay, --dhcp {mode}"));
        for (number, spec) in specs.into_iter().enumerate() {
            let (firmware, loader) =
                if spec.firmware == Firmware::Bios { ("BIOS", None) } else { ("UEFI", Some("snponly.efi")) };
            let boot = boots(&lan, &mut server, Case { spec, more: "", firmware, loader }, progress)?;
            if let Some(address) = addresses.map(|addresses| addresses[number]) {
                ensure!(boot["address"] == address, "it came from another address: {boot}");
            }
        }
        server.stop();
        // A record of this boot would stand for one of the next.
        std::fs::remove_dir_all(lan.run().join("bootserver/machines")).context("forget the boots")?;
    }
    Ok(())
}

/// Takes the servers off the boxes' network, and puts a router between that and a network for each of them.
fn connect(lan: &Lan) -> Result<()> {
    let (relay, servers) = (lan.network().dhcp(), lan.network().server());
    batch(&servers, "link set eth0 down\nlink set eth0 name lan\n".to_owned())?;
    let (mut near, mut far) = (String::new(), String::new());
    for (ours, theirs, [server, router]) in [("boot", "eth0", BOOT), ("site", "site", SITE)] {
        near.push_str(&format!("link add {ours} type veth peer name {theirs} netns {servers}\n"));
        near.push_str(&format!("addr add {router}/24 dev {ours}\nlink set {ours} up\n"));
        far.push_str(&format!("addr add {server}/24 dev {theirs}\nlink set {theirs} up\n"));
    }
    far.push_str(&format!("route add 172.30.0.0/24 via {}\n", BOOT[1]));
    batch(&relay, near).context("make the networks of the servers")?;
    batch(&servers, far).context("connect the servers")?;
    Cmd::new("sysctl").netns(&relay).args(["-q", "-w", "net.ipv4.ip_forward=1"]).run().context("make a router")?;
    Ok(())
}
