//! IPv6: boots over it beside a DHCPv6 server that is not ours, and the word that ends iPXE's wait where there is none.

mod link;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::ensure;
use crate::magnetite::{Binaries, machine};
use crate::prepare::Prepared;
use crate::proc::tail;
use crate::progress::Progress;
use crate::vm::{Firmware, Vm, VmSpec};
use crate::wait;
use link::Link;

/// The site's DHCPv6 server: addresses, and for iPXE one constant URL. Nothing for firmware.
///
/// iPXE needs that line: where routers say that addresses come by DHCPv6, it takes its boot file from the server that
/// gives it the address, and from no other.
const SITE6: &str = "enable-ra\ndhcp-range=fd30::100,fd30::1ff,64,1h\ndhcp-userclass=set:ipxe,iPXE\n\
    dhcp-option=tag:ipxe,option6:bootfile-url,http://[fd30::1]:8080/identify.ipxe\nlog-dhcp\n";
/// The site's DHCP server: addresses, and not one boot option.
const SITE4: &str = "dhcp-range=172.30.0.100,172.30.0.200,255.255.255.0,12h\nno-ping\n";
/// A router.
const ROUTER: &str = "enable-ra\ndhcp-range=fd30::,ra-only,64,1h\n";

/// Empty router advertisements on a capture: lifetime 0, and no option.
const EMPTY: &str = "icmp6 and ip6[40] == 134 and ip6[46:2] == 0 and ip6[4:2] == 16";

/// OVMF's PXE and HTTP boot over IPv6, on a link without IPv4's DHCP.
pub(super) fn boot(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut link = Link::start(prepared, binaries, "ipv6")?;
    let specs = [VmSpec::new("pxe6", Firmware::UefiIpv6, 0), VmSpec::new("http6", Firmware::UefiHttpIpv6, 1)];
    let specs = specs.map(|spec| spec.with_cpus(1).with_memory(512));
    link.declare(specs.iter().map(machine))?;
    link.dnsmasq("dhcpv6", SITE6)?;
    link.serve(&["--dhcpv6", "proxy", "--address6", "fd30::1", "--identify-by-serial"])?;
    let step = progress.step("booting by PXE and by HTTP over IPv6; OVMF tries HTTP over IPv4 first, for a minute");
    let mut machines = specs.into_iter().map(|spec| link.machine(spec)).collect::<Result<Vec<_>>>()?;
    for machine in &mut machines {
        machine.power_on()?;
    }
    for machine in &mut machines {
        // The kernel is fetched by iPXE from the link that its script had.
        let report = link.kernel_fetched(machine, Duration::from_secs(300))?;
        ensure!(report.contains("fd30:"), "not over IPv6: {report}");
        step.note(format!("{} has its kernel", machine.spec().name));
    }
    let log = link.log();
    let transfer = log.lines().any(|line| line.contains("TFTP transfer done") && line.contains("peer=[fd30:"));
    ensure!(transfer, "no loader went out by TFTP over IPv6:\n{}", tail(&log, 30));
    let site = link.site_log("dhcpv6")?;
    ensure!(!site.contains("tftp://"), "the site's own server named a loader");
    // The second question of OVMF's PXE client, to all servers on the link and answered from the same port.
    let asked = link.captured("udp and src port 4011 and dst port 4011 and dst host ff02::1:2")?;
    let told = link.captured("udp and src port 4011 and dst port 4011 and not dst host ff02::1:2")?;
    ensure!(asked > 0 && told > 0, "the loader's name was not asked for and told on port 4011: {asked}, {told}");
    step.done("loaders by TFTP and HTTP, scripts and kernels, all over IPv6");
    Ok(())
}

/// iPXE's wait for a router: with us, without us, and with a router that is not us.
pub(super) fn router(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut link = Link::start(prepared, binaries, "ra")?;
    let spec = VmSpec::new("box", Firmware::Bios, 0).with_cpus(1).with_memory(512);
    link.declare([machine(&spec)])?;
    link.dnsmasq("dhcp", SITE4)?;
    let mut machine = link.machine(spec)?;

    let step = progress.step("booting on a link where nobody speaks of routers");
    link.serve(&[])?;
    let without = boot_once(&mut link, &mut machine)?;
    step.done(format!("kernel after {:.1} s", without.as_secs_f32()));

    let step = progress.step("the same with --router-advertisement empty");
    link.serve(&["--router-advertisement", "empty"])?;
    link.wait_log("empty router advertisements from now on")?;
    let with = boot_once(&mut link, &mut machine)?;
    ensure!(link.captured(EMPTY)? > 0, "nothing was advertised");
    // 3 s against 19 s on an idle machine.
    ensure!(with < without, "{:.1} s with, {:.1} s without", with.as_secs_f32(), without.as_secs_f32());
    step.done(format!("kernel after {:.1} s", with.as_secs_f32()));

    let step = progress.step("the same beside a router");
    link.dnsmasq("router", ROUTER)?;
    link.wait_log("a router speaks on this link")?;
    let before = link.captured(EMPTY)?;
    boot_once(&mut link, &mut machine)?;
    ensure!(link.captured(EMPTY)? == before, "an empty advertisement beside a router");
    // Started beside a router: it asks before it speaks.
    link.serve(&["--router-advertisement", "empty"])?;
    link.wait_log("a router speaks on this link")?;
    boot_once(&mut link, &mut machine)?;
    ensure!(link.captured(EMPTY)? == before, "an empty advertisement by a boot server that started beside a router");
    step.done("not a word");
    Ok(())
}

/// Boots a machine until it has its kernel; how long that took.
fn boot_once(link: &mut Link, machine: &mut Vm) -> Result<Duration> {
    machine.power_off();
    let fetched = || link.kernels_served();
    let before = fetched()?;
    let start = Instant::now();
    machine.power_on()?;
    wait::until("the kernel to be fetched", Duration::from_secs(90), || {
        Ok((link.kernels_served()? > before).then_some(()))
    })
    .with_context(|| format!("{}\n{}", tail(&link.log(), 20), tail(&machine.console_text(), 10)))?;
    let took = start.elapsed();
    machine.power_off();
    Ok(took)
}
