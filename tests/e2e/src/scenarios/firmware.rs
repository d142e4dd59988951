//! Every firmware that the lab has, as far as its kernel, without a cluster: what each asks for, and that it is answered once and
//! not in a loop.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::ensure;
use crate::lan::{Dhcp, Lan, LanOptions};
use crate::magnetite::{self, Binaries};
use crate::prepare::Prepared;
use crate::proc::{Cmd, Process, tail};
use crate::progress::Progress;
use crate::vm::{Card, Firmware, Vm, VmSpec};
use crate::wait;

/// A box, what its Machine says beside its addresses, and what is to be seen of it.
pub(super) struct Case {
    pub(super) spec: VmSpec,
    pub(super) more: &'static str,
    /// The firmware as the boot's record names it.
    pub(super) firmware: &'static str,
    /// The loader, if it needs one.
    pub(super) loader: Option<&'static str>,
}

/// The Machine's fields, below `spec`.
const BINL: &str = "  netboot: {dialect: BootServer}\n";
const SECURE: &str = "  netboot: {secureBoot: true}\n";
const IPXE: &str = "  netboot: {loader: ipxe}\n";

/// Beside a DHCP server of the site's own.
pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let loaders = &prepared.loaders;
    let vm = |name: &str, firmware, port| VmSpec::new(name, firmware, port).with_cpus(1).with_memory(512);
    let secure = |name: &str, port| vm(name, Firmware::SecureBoot, port).with_variables(&loaders.secure_vars);
    let case = |spec, more, firmware, loader| Case { spec, more, firmware, loader };
    let cases = [
        case(vm("bios-virtio", Firmware::Bios, 0), "", "BIOS", None),
        case(vm("bios-e1000", Firmware::Bios, 1).with_card(Card::E1000), "", "BIOS", None),
        case(vm("uefi-direct", Firmware::Uefi, 2), "", "UEFI", Some("snponly.efi")),
        case(vm("uefi-binl", Firmware::Uefi, 3), BINL, "UEFI", Some("snponly.efi")),
        case(vm("uefi-own-driver", Firmware::Uefi, 4), IPXE, "UEFI", Some("ipxe.efi")),
        case(vm("uefi-http", Firmware::UefiHttp, 5), "", "UEFI-HTTP", Some("snponly.efi")),
        case(vm("arm64", Firmware::Arm64, 6), "", "UEFI", Some("ipxe-arm64.efi")),
        case(secure("secure-boot", 7), SECURE, "UEFI", Some("secure-boot/ipxe-shimx64.efi")),
    ];
    let unsigned = secure("unsigned", 8);
    let lan = Lan::start(prepared, &LanOptions::new("firmware", 9))?;
    let catalog = lan.run().join("catalog");
    write_profile(prepared, &lan, &catalog)?;
    for Case { spec, more, .. } in &cases {
        write_machine(&catalog, spec, more)?;
    }
    write_machine(&catalog, &unsigned, "")?;
    let mut server = serve(prepared, binaries, &lan, &loaders.ipxe, &[])?;
    for case in cases {
        boots(&lan, &mut server, case, progress)?;
    }

    let step = progress.step("Secure Boot: an unsigned loader is fetched and not started");
    let mut machine = lan.machine(unsigned)?;
    machine.power_on()?;
    machine.wait_console("Access Denied", Duration::from_secs(90))?;
    let boot = record(&lan, "unsigned").context("the loader was not sent")?;
    ensure!(find(&boot, "LoaderSent").is_some(), "the loader was not sent: {boot}");
    ensure!(find(&boot, "ScriptServed").is_none(), "an unsigned loader ran");
    step.done("Access Denied");
    Ok(())
}

/// Where something is not as usual: a loader that fails, port 67 taken, no DHCP server.
pub(super) fn odd(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    next_loader(prepared, binaries, progress)?;
    port_67_taken(prepared, binaries, progress)?;
    reservations(prepared, binaries, progress)
}

/// A loader that the firmware fetches and that never comes back is followed by the next one.
fn next_loader(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let lan = Lan::start(prepared, &LanOptions::new("next-loader", 1))?;
    let spec = VmSpec::new("odd-card", Firmware::Uefi, 0).with_cpus(1).with_memory(512);
    let catalog = lan.run().join("catalog");
    write_profile(prepared, &lan, &catalog)?;
    write_machine(&catalog, &spec, "")?;
    let ipxe = lan.run().join("ipxe");
    std::fs::create_dir_all(&ipxe)?;
    // It stands for a loader that does not get along with the card: no firmware of this box can start it.
    std::fs::copy(prepared.loaders.ipxe.join("ipxe-riscv64.efi"), ipxe.join("snponly.efi"))?;
    std::fs::copy(prepared.loaders.ipxe.join("ipxe.efi"), ipxe.join("ipxe.efi"))?;
    let mut server = serve(prepared, binaries, &lan, &ipxe, &[])?;
    let step = progress.step("a loader that does not start, and a person at the reset button");
    let mut machine = lan.machine(spec.clone())?;
    machine.power_on()?;
    machine.wait_console("failed to load Boot", Duration::from_secs(90))?;
    machine.power_off();
    // The person's hand: what asks within two seconds of its loader counts as the same boot.
    wait::until("two seconds after the loader was sent", Duration::from_secs(30), || {
        let sent =
            record(&lan, "odd-card").and_then(|boot| find(&boot, "LoaderSent")?["lastAt"].as_str()?.parse().ok());
        Ok(sent.filter(|sent: &Timestamp| Timestamp::now().duration_since(*sent) > SignedDuration::from_secs(3)))
    })?;
    step.done("the firmware gave up on it");
    let case = Case { spec, more: "", firmware: "UEFI", loader: Some("ipxe.efi") };
    let boot = boots(&lan, &mut server, case, progress)?;
    ensure!(boot["failedLoaders"] == serde_json::json!(["snponly.efi"]), "the record does not say what failed: {boot}");
    let said = find(&boot, "FirmwareSeen").context("no FirmwareSeen")?["detail"].to_string();
    ensure!(said.contains("snponly.efi was fetched and never asked for the script"), "the record says: {said}");
    Ok(())
}

/// The DHCP server holds port 67 of the boot server's own host.
fn port_67_taken(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let lan = Lan::start(prepared, &LanOptions { dhcp: Dhcp::SameHost, ..LanOptions::new("port-67", 2) })?;
    let vm = |name: &str, firmware, port| VmSpec::new(name, firmware, port).with_cpus(1).with_memory(512);
    let cases = [
        Case { spec: vm("bios-4011", Firmware::Bios, 0), more: "", firmware: "BIOS", loader: None },
        Case { spec: vm("uefi-4011", Firmware::Uefi, 1), more: "", firmware: "UEFI", loader: Some("snponly.efi") },
    ];
    let catalog = lan.run().join("catalog");
    write_profile(prepared, &lan, &catalog)?;
    for Case { spec, more, .. } in &cases {
        write_machine(&catalog, spec, more)?;
    }
    let mut refused = command(prepared, binaries, &lan, &prepared.loaders.ipxe, &[])?
        .spawn("refused", &lan.run().logs().join("refused.log"))?;
    wait::until("the boot server to give up", Duration::from_secs(20), || Ok(refused.ended()))?;
    let said = refused.output();
    ensure!(said.contains("dnsmasq (process ") && said.contains("--dhcp boot-server"), "it does not say who: {said}");
    let mut server = serve(prepared, binaries, &lan, &prepared.loaders.ipxe, &["--dhcp", "boot-server"])?;
    for case in cases {
        boots(&lan, &mut server, case, progress)?;
    }
    Ok(())
}

/// No DHCP server at all: the boot server gives the declared address.
fn reservations(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let lan = Lan::start(prepared, &LanOptions { dhcp: Dhcp::None, ..LanOptions::new("reservations", 3) })?;
    let vm = |name: &str, firmware, port| VmSpec::new(name, firmware, port).with_cpus(1).with_memory(512);
    let cases = [
        Case {
            spec: vm("bios", Firmware::Bios, 0),
            more: "  address: 172.30.0.21/24\n",
            firmware: "BIOS",
            loader: None,
        },
        Case {
            spec: vm("uefi", Firmware::Uefi, 1),
            more: "  address: 172.30.0.22/24\n  network: {router: 172.30.0.1, dnsServers: [172.30.0.1]}\n",
            firmware: "UEFI",
            loader: Some("snponly.efi"),
        },
    ];
    let catalog = lan.run().join("catalog");
    write_profile(prepared, &lan, &catalog)?;
    for Case { spec, more, .. } in &cases {
        write_machine(&catalog, spec, more)?;
    }
    let mut server = serve(prepared, binaries, &lan, &prepared.loaders.ipxe, &["--dhcp", "reservations"])?;
    for (case, address) in cases.into_iter().zip(["172.30.0.21", "172.30.0.22"]) {
        let boot = boots(&lan, &mut server, case, progress)?;
        ensure!(boot["address"] == address, "it came from another address: {boot}");
    }
    u_boot(&lan, &catalog, progress)
}

/// U-Boot takes what gives it no address for an offer like any other, so it boots here and not beside a proxy. As far as iPXE's first words:
/// iPXE of 2025 waits for ever in U-Boot of 2023, which are Debian 12's.
fn u_boot(lan: &Lan, catalog: &Path, progress: &Progress) -> Result<()> {
    let step = progress.step("booting U-Boot for Arm");
    // Its driver for virtio reads one byte of the card's address six times.
    let spec = VmSpec::new("u-boot", Firmware::UBoot, 2).with_cpus(1).with_memory(512).with_card(Card::E1000);
    write_machine(catalog, &spec, "  address: 172.30.0.23/24\n")?;
    let mut machine = lan.machine(spec)?;
    machine.power_on()?;
    machine.wait_console("iPXE initialising devices", Duration::from_secs(120))?;
    let boot = wait::until("the loader in U-Boot's record", Duration::from_secs(10), || {
        Ok(record(lan, "u-boot").filter(|boot| find(boot, "LoaderSent").is_some()))
    })?;
    ensure!(boot["loader"] == "ipxe-arm64.efi" && boot["architecture"] == "aarch64", "U-Boot's boot: {boot}");
    ensure!(boot["address"] == "172.30.0.23", "it came from another address: {boot}");
    step.done("ipxe-arm64.efi, started");
    Ok(())
}

/// Boots a box until its kernel is fetched, and looks at the record of the boot.
pub(super) fn boots(lan: &Lan, server: &mut Process, case: Case, progress: &Progress) -> Result<Value> {
    let Case { spec, more: _, firmware, loader } = case;
    let name = spec.name.clone();
    let step = progress.step(format!("booting {name}"));
    let mut machine = lan.machine(spec)?;
    machine.power_on()?;
    let boot = wait::until(&format!("the kernel of {name} to be fetched"), Duration::from_secs(180), || {
        server.check()?;
        Ok(record(lan, &name).filter(|boot| find(boot, "KernelFetched").is_some()))
    });
    let boot = boot.with_context(|| state(server, &machine))?;
    machine.power_off();
    ensure!(boot["firmware"] == firmware, "{name} is {} and not {firmware}", boot["firmware"]);
    ensure!(boot["loader"].as_str() == loader, "{name} was offered {} and not {loader:?}", boot["loader"]);
    ensure!(find(&boot, "LoaderSent").is_some() == loader.is_some(), "{name}'s loader: {boot}");
    let scripts = find(&boot, "ScriptServed").map(|step| step["count"].clone());
    ensure!(scripts == Some(Value::from(1)), "{name} asked {scripts:?} times for its script: a loop");
    step.done(loader.unwrap_or("iPXE of its own"));
    Ok(boot)
}

fn state(server: &Process, machine: &Vm) -> String {
    format!("{}\nconsole:\n{}", tail(&server.output(), 15), tail(&machine.console_text(), 15))
}

/// The record of a box's newest boot, as the boot server keeps it.
pub(super) fn record(lan: &Lan, name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(lan.run().join(&format!("bootserver/machines/{name}.json"))).ok()?;
    Some(serde_json::from_str::<Value>(&text).ok()?["boot"].take())
}

pub(super) fn find<'a>(boot: &'a Value, step: &str) -> Option<&'a Value> {
    boot["steps"].as_array()?.iter().find(|found| found["name"] == step)
}

pub(super) fn write_machine(catalog: &Path, spec: &VmSpec, more: &str) -> Result<()> {
    let text = magnetite::machine(spec) + more;
    std::fs::write(catalog.join(format!("{}.yaml", spec.name)), text).context("write a Machine")
}

/// A Profile for both architectures. For Arm, iPXE itself stands for the kernel: it is an EFI binary for it, as a kernel is.
pub(super) fn write_profile(prepared: &Prepared, lan: &Lan, catalog: &Path) -> Result<()> {
    let artifacts = lan.run().join("artifacts");
    std::fs::create_dir_all(catalog)?;
    std::fs::create_dir_all(&artifacts)?;
    std::fs::copy(&prepared.guest.kernel, artifacts.join("vmlinuz"))?;
    std::fs::copy(prepared.loaders.ipxe.join("ipxe-arm64.efi"), artifacts.join("arm64.efi"))?;
    let mut text = "apiVersion: magnetite.dev/v1alpha1\nkind: Profile\nmetadata: {name: any}\nspec:\n  selector: {matchLabels: {role: worker}}\n  join: {mode: None}\n  boot:\n".to_owned();
    for (architecture, file) in [("x86_64", "vmlinuz"), ("aarch64", "arm64.efi")] {
        let sum = Cmd::new("sha256sum").arg(artifacts.join(file).display().to_string()).run()?;
        let sum = sum.split_whitespace().next().context("sha256sum prints a sum")?;
        text.push_str(&format!("    {architecture}: {{kernel: {{file: {file}, sha256: {sum}}}}}\n"));
    }
    std::fs::write(catalog.join("profile.yaml"), text).context("write the Profile")
}

fn command(prepared: &Prepared, binaries: &Binaries, lan: &Lan, ipxe: &Path, more: &[&str]) -> Result<Cmd> {
    let text = |path: &Path| path.display().to_string();
    Ok(magnetite::bootserver_command(lan, binaries, &lan.run().join("artifacts"))?
        .args(["--catalog".to_owned(), text(&lan.run().join("catalog"))])
        .args(["--ipxe-dir".to_owned(), text(ipxe)])
        .args(["--secure-boot-dir".to_owned(), text(&prepared.loaders.secure_boot)])
        .args(more.iter().copied()))
}

pub(super) fn serve(
    prepared: &Prepared,
    binaries: &Binaries,
    lan: &Lan,
    ipxe: &Path,
    more: &[&str],
) -> Result<Process> {
    let log = lan.run().logs().join("bootserver.log");
    let mut server = command(prepared, binaries, lan, ipxe, more)?.spawn("bootserver", &log)?;
    wait::until("the boot server to serve", Duration::from_secs(30), || {
        server.check()?;
        Ok(server.output().contains("serving").then_some(()))
    })?;
    Ok(server)
}
