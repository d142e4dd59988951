//! HTTPS for firmware and iPXE: real ones, that were made to trust the authority of a real boot server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use super::firmware::{Case, boots, find, record, serve, write_machine, write_profile};
use crate::lan::{Lan, LanOptions};
use crate::magnetite::Binaries;
use crate::ovmf;
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::stamp;
use crate::vm::{Firmware, VmSpec, plain};

/// Who trusts the authority here.
const FLAGS: &[&str] = &["--tls-own-ca", "--boot-tls", "firmware,ipxe"];
const PLAIN: &str = "http://172.30.0.1:8080/";
const TLS: &str = "https://172.30.0.1:8444/";
/// SHA-256 of the authority that iPXE trusts unless it is built to trust another (its src/crypto/rootcert.c).
const IPXE_CA: &str = "9faf717b7f8ca2f93c256c79f8ac5591895d66d1ff3bee6397a70d29c65eed1a";

/// Beside a DHCP server of the site's own.
pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let ovmf = ovmf::ensure(progress, &prepared.paths)?;
    let lan = Lan::start(prepared, &LanOptions::new("https", 4))?;
    let catalog = lan.run().join("catalog");
    write_profile(prepared, &lan, &catalog)?;
    let ipxe = lan.run().join("ipxe");
    fs::create_dir_all(&ipxe)?;

    let step = progress.step("the boot server makes an authority, firmware and iPXE are told to trust it");
    // Its first start has no loader to give: that one is made to trust what this start makes.
    drop(serve(prepared, binaries, &lan, &ipxe, FLAGS)?);
    let authority = lan.run().join("bootserver/boot-ca.der");
    trusting(&prepared.loaders.ipxe.join("snponly.efi"), &authority, &ipxe.join("snponly.efi"))?;
    let authorities = enrolled(&lan, &authority)?;
    step.done("boot-ca.der");

    let vm = |name: &str, firmware, port| VmSpec::new(name, firmware, port).with_cpus(1).with_memory(512);
    let case = |spec, firmware, loader| Case { spec, more: "", firmware, loader };
    // What each reads on the console of its boot, and what it must not.
    let cases = [
        (vm("uefi-ipxe", Firmware::Uefi, 1), "UEFI", Some("snponly.efi"), TLS, PLAIN),
        // The iPXE in QEMU's card is of 2019, and has no HTTPS.
        (vm("old-ipxe", Firmware::Bios, 2), "BIOS", None, PLAIN, TLS),
        (
            vm("uefi-https", Firmware::UefiHttp, 0)
                .with_firmware(&ovmf.code, &ovmf.variables)
                .with_authorities(&authorities),
            "UEFI-HTTP",
            Some("snponly.efi"),
            TLS,
            PLAIN,
        ),
    ];
    for (spec, ..) in &cases {
        write_machine(&catalog, spec, "")?;
    }
    let stranger = vm("stranger", Firmware::UefiHttp, 3).with_firmware(&ovmf.code, &ovmf.variables);
    write_machine(&catalog, &stranger, "")?;
    let mut server = serve(prepared, binaries, &lan, &ipxe, FLAGS)?;
    for (spec, firmware, loader, with, without) in cases {
        let name = spec.name.clone();
        boots(&lan, &mut server, case(spec, firmware, loader), progress)?;
        // The BIOS breaks lines at 80 columns.
        let console = fs::read(lan.run().join(&format!("{name}.serial"))).context("read the console")?;
        let console = plain(&String::from_utf8_lossy(&console)).replace('\n', "");
        ensure!(console.contains(with), "{name} fetched nothing from {with}: {console}");
        ensure!(!console.contains(without), "{name} fetched from {without}: {console}");
    }

    let step = progress.step("firmware that trusts nobody: it asks, and takes no loader");
    let mut machine = lan.machine(stranger)?;
    machine.power_on()?;
    machine.wait_console("Could not retrieve NBP", Duration::from_secs(90))?;
    let boot = record(&lan, "stranger").context("the stranger was offered nothing")?;
    ensure!(find(&boot, "FirmwareSeen").is_some() && find(&boot, "LoaderSent").is_none(), "a loader was sent: {boot}");
    step.done("no loader");
    Ok(())
}

/// An iPXE that trusts another authority: what `make TRUST=` would put in place of these 32 bytes. Only the UEFI binaries are not compressed.
fn trusting(ipxe: &Path, authority: &Path, to: &Path) -> Result<()> {
    let authority = fs::read(authority).context("read the authority's certificate")?;
    let (old, new) = (octets(IPXE_CA)?, octets(&stamp::sha256_hex(&authority))?);
    let mut bytes = fs::read(ipxe).with_context(|| format!("read {}", ipxe.display()))?;
    let places: Vec<_> = bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old).collect();
    ensure!(places.len() == 1, "{} trusts iPXE's authority in {} places", ipxe.display(), places.len());
    let start = places.first().map_or(0, |(start, _)| *start);
    bytes.splice(start..start + old.len(), new);
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}

fn octets(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).context("hexadecimal digits")).collect()
}

/// What OVMF takes for "Server CA Configuration" in its setup: a list of one X.509 certificate (UEFI 2.10, 32.4.1).
fn enrolled(lan: &Lan, authority: &Path) -> Result<PathBuf> {
    /// EFI_CERT_X509_GUID.
    const X509: u128 = 0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072;
    let der = fs::read(authority).context("read the authority's certificate")?;
    let signature = u32::try_from(der.len() + 16).context("a certificate's size")?;
    let guid = X509.to_be_bytes();
    let mut list = Vec::new();
    // The first three fields of a GUID are little-endian.
    list.extend([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|index: usize| guid[index]));
    for size in [signature + 28, 0, signature] {
        list.extend(size.to_le_bytes());
    }
    list.extend([0; 16]);
    list.extend(der);
    let file = lan.run().join("authorities");
    fs::write(&file, list).context("write the firmware's authorities")?;
    Ok(file)
}
