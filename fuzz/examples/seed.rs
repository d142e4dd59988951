//! Writes the seeds (fuzz/corpus): packets of real firmware out of the lab's captures, cut into what each target reads, and,
//! where no capture has any, the few forms that our own programs write. Run by `cargo xtask fuzz --seed`; a further folder of
//! captures (`--from FOLDER`) adds packets whose form is new. What stands in the corpus already is left there.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for the terminal that stops at the first fault")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_api::{
    join::{ClaimRequest, IdentityFacts, ReportRequest, ReportedFailure},
    report::{BootStepName, Disk, Inventory, Nic},
};
use magnetite_boot::capability::Purpose;
use magnetite_fuzz::{link, template, transfer::kind};
use magnetite_swtpm::Maker;
use magnetite_tpm::{
    attest,
    client::{Keys, Signed},
    reader::put_sized,
};
use magnetite_wire::{
    dhcp, dhcpv6,
    icmpv6::{self, Advertisement, NdOption, OptionKind},
    tftp::{self, ErrorCode, ReadRequest, transfer::Limits},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P384_SHA384, PublicKeyData,
};

#[path = "../../crates/wire/tests/pcap/mod.rs"]
mod pcap;

/// Seeds by target and name.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

fn main() -> Result<()> {
    let mut files: Vec<PathBuf> = pcap::captures().iter().map(|name| pcap::folder().join(name)).collect();
    for folder in std::env::args_os().skip(1) {
        let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        let mut more: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        more.retain(|path| path.extension().is_some_and(|end| end == "pcap"));
        more.sort();
        files.extend(more);
    }
    let mut seeds = Seeds::new();
    captured(&files, &mut seeds);
    odd(&mut seeds);
    switches(&mut seeds);
    captured_v6(&files, &mut seeds);
    routers(&mut seeds);
    links(&mut seeds);
    bodies(&mut seeds)?;
    requests(&mut seeds)?;
    tpms(&mut seeds)?;
    templates(&mut seeds);
    images(&mut seeds)?;
    let mut sizes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for ((target, name), bytes) in &seeds {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
        let size = sizes.entry(target).or_default();
        *size = (size.0 + 1, size.1 + bytes.len());
    }
    for (target, (count, bytes)) in sizes {
        println!("{target}: {count} seeds, {bytes} bytes");
    }
    Ok(())
}

/// Packets, each form once: the same options of the same length in the same order teach a fuzzer nothing new.
fn captured(files: &[PathBuf], seeds: &mut Seeds) {
    let mut forms = BTreeSet::new();
    for path in files {
        let capture = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (index, datagram) in pcap::datagrams_of(path).into_iter().enumerate() {
            let (name, bytes) = (format!("{capture}-{index}"), datagram.payload);
            if let Ok(packet) = dhcp::Packet::decode(&bytes) {
                let options: Vec<_> = packet.options.iter().map(|(code, value)| (code.0, value.len())).collect();
                if forms.insert(format!("{} {} {options:?}", packet.op, packet.flags)) {
                    options_of(&packet, &name, &mut forms, seeds);
                    if packet.op == 1 {
                        seeds.insert(("reply", name.clone()), bytes.clone());
                    }
                    seeds.insert(("dhcp", name), bytes);
                }
            } else if let (69, Ok(tftp::Packet::Read(request))) = (datagram.target, tftp::Packet::decode(&bytes))
                && forms.insert(format!("{:?}", ReadRequest { file: String::new(), ..request.clone() }))
            {
                transfers(&request, &name, &bytes, seeds);
            }
        }
    }
}

/// Forms of DHCP that RFC 2132 (9.3) and 3396 allow and no capture has: options in `file` and `sname`, and one in two parts.
fn odd(seeds: &mut Seeds) {
    let Some(plain) = seeds.iter().find(|((target, _), _)| *target == "reply").map(|(_, bytes)| bytes.clone()) else {
        return;
    };
    let mut overloaded = plain.clone();
    overloaded[108..120].copy_from_slice(b"\x43\x09snponly.e\xff");
    overloaded[44..50].copy_from_slice(b"\x42\x03lab\xff");
    overloaded.splice(240..240, [52, 1, 3]);
    let mut split = plain;
    split.splice(240..240, *b"\x52\x04\x01\x08eth\x52\x06\x007/1/2");
    for (name, bytes) in [("overloaded", overloaded), ("split", split)] {
        seeds.insert(("dhcp", name.to_owned()), bytes.clone());
        seeds.insert(("reply", name.to_owned()), bytes);
    }
}

/// What switches say, made by hand after IEEE 802.1AB: a leaf with names, one that names its port by address, one that stops early.
fn switches(seeds: &mut Seeds) {
    let head =
        [&[1, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..], &[0x02, 7, 4, 2, 0, 0, 0, 0, 9]].concat();
    let named =
        b"\x04\x0a\x05Ethernet7\x06\x02\x00\x78\x08\x07rack r7\x0a\x04leaf\xfe\x06\x00\x80\xc2\x01\x00\x01\x00\x00";
    let by_address = [4, 7, 3, 2, 0, 0, 0, 0, 10, 6, 2, 0, 120, 16, 12, 5, 1, 192, 0, 2, 1, 2, 0, 0, 0, 1, 0, 0, 0];
    for (name, rest) in [("named", &named[..]), ("by-address", &by_address), ("short", &named[..5])] {
        seeds.insert(("lldp", name.to_owned()), [&head[..], rest].concat());
    }
}

/// The same over IPv6: DHCPv6 and router discovery.
fn captured_v6(files: &[PathBuf], seeds: &mut Seeds) {
    let mut forms = BTreeSet::new();
    for path in files {
        let capture = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (index, frame) in pcap::frames(path).iter().enumerate() {
            let Some((protocol, payload)) = ipv6(frame) else { continue };
            let name = format!("{capture}-{index}");
            match (protocol, payload) {
                (UDP, [_, _, port_high, port_low, _, _, _, _, bytes @ ..])
                    if [546, 547, 4011].contains(&u16::from_be_bytes([*port_high, *port_low])) =>
                {
                    let Ok(dhcpv6::Packet::Message(message)) = dhcpv6::Packet::decode(bytes) else { continue };
                    let options: Vec<_> = message.options.iter().map(|(code, value)| (code.0, value.len())).collect();
                    if forms.insert(format!("{:?} {options:?}", message.kind)) {
                        seeds.insert(("dhcpv6", format!("{name}-relayed")), relayed(bytes));
                        seeds.insert(("dhcpv6", name), bytes.to_vec());
                    }
                }
                (ICMPV6, bytes @ [133 | 134, ..]) if forms.insert(format!("{:?}", icmpv6::Message::decode(bytes))) => {
                    seeds.insert(("icmpv6", name), bytes.to_vec());
                }
                _ => {}
            }
        }
    }
}

/// A packet as two relays would pass it on; no capture has one.
fn relayed(bytes: &[u8]) -> Vec<u8> {
    let (link, peer) = ("fd30::1".parse().unwrap(), "fe80::5054:ff:fe30:10".parse().unwrap());
    [0, 1].into_iter().fold(bytes.to_vec(), |inner, hops| {
        let mut options = dhcpv6::Options::default();
        options.push(dhcpv6::OptionCode::INTERFACE_ID, *b"eth7");
        options.push(dhcpv6::OptionCode::RELAY_MESSAGE, inner);
        let kind = dhcpv6::MessageType::RELAY_FORWARD;
        let mut outer = Vec::new();
        dhcpv6::Packet::Relay(dhcpv6::Relay { kind, hops, link, peer, options }).encode(&mut outer).unwrap();
        outer
    })
}

/// Router discovery as our boot server speaks it, and as a router does; no capture has any.
fn routers(seeds: &mut Seeds) {
    let option = |kind, value: &[u8]| NdOption { kind, value: value.to_vec() };
    let us = option(OptionKind::SOURCE_LINK_LAYER, &[0x52, 0x54, 0, 0x30, 0, 1]);
    let mut prefix = [0; 30];
    prefix[..10].copy_from_slice(&[64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40]);
    prefix[14..16].copy_from_slice(&[0xfd, 0x30]);
    let route = option(OptionKind::ROUTE, &[0, 0, 0, 0, 7, 8]);
    let options = vec![us.clone(), option(OptionKind::PREFIX, &prefix), route];
    let router = Advertisement { hop_limit: 64, flags: 0xc0, lifetime: 1800, options, ..Advertisement::default() };
    let none = Advertisement { flags: 0x40, options: vec![us.clone()], ..Advertisement::default() };
    for (name, message) in [
        ("solicitation", icmpv6::Message::Solicitation(vec![us])),
        ("router", icmpv6::Message::Advertisement(router)),
        ("no-router", icmpv6::Message::Advertisement(none)),
    ] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        seeds.insert(("icmpv6", name.to_owned()), bytes);
    }
}

const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Protocol and payload of an Ethernet frame of IPv6 without extension headers.
fn ipv6(frame: &[u8]) -> Option<(u8, &[u8])> {
    let packet = frame.get(12..)?.strip_prefix(&[0x86, 0xdd])?;
    let len = u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]);
    Some((*packet.get(6)?, packet.get(40..)?.get(..usize::from(len))?))
}

/// The values that have a form of their own inside: 43, 77 and 175.
fn options_of(packet: &dhcp::Packet, name: &str, forms: &mut BTreeSet<String>, seeds: &mut Seeds) {
    for code in [dhcp::OptionCode::VENDOR, dhcp::OptionCode::USER_CLASS, dhcp::OptionCode::IPXE] {
        if let Some(value) = packet.options.get(code).filter(|value| forms.insert(format!("{value:?}"))) {
            seeds.insert(("pxe", format!("{name}-option-{}", code.0)), value.into_owned());
        }
    }
}

/// A request of firmware, what follows it, and the transfer in fair weather and in foul.
fn transfers(request: &ReadRequest, name: &str, bytes: &[u8], seeds: &mut Seeds) {
    let limits = Limits { block_size: 1468, window: 16 };
    let agreed = tftp::Negotiated::from_request(request, limits);
    let packets = [
        ("oack", tftp::Packet::Oack(agreed.acknowledge(request, 1_040_896))),
        ("data", tftp::Packet::Data { block: 1, bytes: b"MZ" }),
        ("ack", tftp::Packet::Ack(1)),
        ("error", tftp::Packet::Error { code: ErrorCode::OPTIONS, message: "User aborted the transfer".to_owned() }),
    ];
    seeds.insert(("tftp", name.to_owned()), bytes.to_vec());
    for (kind, packet) in packets {
        let mut written = Vec::new();
        packet.encode(&mut written);
        seeds.insert(("tftp", format!("{name}-{kind}")), written);
    }

    let next = |blocks: u16| (kind::ACK_NEXT, blocks);
    let oack = (kind::ACK, 0);
    let worlds = [
        ("late", 6000, vec![(kind::TIMER, 0), (kind::TIMER, 0), oack]),
        ("fair", 6000, vec![oack, next(1), next(1), next(1), next(1), next(1)]),
        ("probe", 6000, vec![(kind::ERROR, 8)]),
        ("silent", 6000, vec![(kind::TIMER, 0); 3]),
        (
            "storm",
            6000,
            vec![oack, oack, next(1), next(0), next(0), (kind::TIMER, 0), next(1), next(0), (kind::START, 0)],
        ),
        (
            "loss",
            60_000,
            vec![oack, (kind::TIMER, 0), next(1), (kind::TIMER, 0), (kind::TIMER, 0), next(1), (kind::ERROR, 0)],
        ),
    ];
    for (world, size, events) in worlds {
        let mut input = u32::to_be_bytes(size).to_vec();
        input.extend(limits.block_size.to_be_bytes());
        input.push(16);
        input.push(u8::try_from(bytes.len()).unwrap());
        input.extend(bytes);
        for (kind, number) in events {
            input.push(kind);
            input.extend(number.to_be_bytes());
        }
        seeds.insert(("transfer", format!("{name}-{world}")), input);
    }
}

fn links(seeds: &mut Seeds) {
    let key = link::key();
    let id = key.machine_id(&link::machine());
    let mint = |purpose, expires| key.mint(purpose, link::MACHINE_KEY, link::INTENT, expires);
    let (good, old) = (mint(Purpose::Boot, link::NOW + 600), mint(Purpose::Boot, link::NOW - 1));
    let agent = mint(Purpose::Agent, link::NOW + 600);
    let forms = [
        ("script", format!("/m/{id}/{good}/x86_64/boot.ipxe")),
        ("config", format!("/m/{id}/{good}/aarch64/config.ign")),
        ("cut", format!("/m/{id}/{}/x86_64/kernel", good.get(..24).unwrap_or_default())),
        ("expired", format!("/m/{id}/{old}/x86_64/initrd/0")),
        ("claim", format!("/a/{id}/{agent}/claim")),
        ("loader", format!("/ipxe/{id}/snponly.efi")),
        (
            "identify",
            "/identify?mac=52:54:00:30:00:10&uuid=3f0d2c5e-0000-4000-8000-000000000010&arch=x86_64&serial=pf3x01"
                .to_owned(),
        ),
        ("identify-escaped", "/identify?mac=52-54-00-99-99-99&uuid=&arch=arm64&serial=x%20%7C%7C%20reboot".to_owned()),
        ("identify-serial", "/identify?serial=+PF3X01+".to_owned()),
        ("digest", "/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned()),
    ];
    seeds.extend(forms.map(|(name, text)| (("link", name.to_owned()), text.into_bytes())));
}

fn bodies(seeds: &mut Seeds) -> Result<()> {
    let machine = link::machine();
    let mac = machine.spec.macs.first().copied();
    let claim = ClaimRequest {
        machine: "box".to_owned(),
        intent: link::INTENT.to_owned(),
        claim_key: "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE".to_owned(),
        certificate_request: "-----BEGIN CERTIFICATE REQUEST-----\nMIH\n-----END CERTIFICATE REQUEST-----\n".to_owned(),
        signature: "MEUCIQ==".to_owned(),
        facts: IdentityFacts { macs: mac.into_iter().collect(), uuid: machine.spec.uuid, serial: machine.spec.serial },
        tpm: None,
        proof: None,
    };
    let plain = ReportRequest {
        step: BootStepName::SystemBooted,
        detail: None,
        failure: None,
        inventory: None,
        wiped: Vec::new(),
        signature: None,
    };
    let failed = ReportRequest {
        detail: Some("kubelet".to_owned()),
        failure: Some(ReportedFailure { reason: "KubeletNotStarted".to_owned(), message: "exit 1".to_owned() }),
        ..plain.clone()
    };
    let disk = Disk { name: "vda".to_owned(), size_bytes: 1 << 33, model: Some("QEMU".to_owned()), ..Disk::default() };
    let nic = Nic { name: "eno1".to_owned(), mac, link: true, speed_mbps: Some(1000), ..Nic::default() };
    let inventory =
        Inventory { cpus: 2, memory_bytes: 1 << 31, disks: vec![disk], nics: vec![nic], ..Inventory::default() };
    let first = ReportRequest { inventory: Some(inventory), ..plain.clone() };
    seeds.insert(("join", "claim".to_owned()), serde_json::to_vec(&claim)?);
    for (name, report) in [("report", plain), ("report-failed", failed), ("report-inventory", first)] {
        seeds.insert(("join", name.to_owned()), serde_json::to_vec(&report)?);
    }
    Ok(())
}

/// What a TPM in software says.
fn tpms(seeds: &mut Seeds) -> Result<()> {
    let tpm = Maker::new().tpm();
    let mut keys = Keys::create(tpm.connect(), &[5; 32])?;
    let Signed { quote, signature, pcrs } = keys.quote(b"a digest")?;
    let mut values = [[0, 0, 0, 1].as_slice(), &attest::selection(), &[0, 0, 0, 8]].concat();
    pcrs.iter().for_each(|value| put_sized(&mut values, value));
    let answer = [0x80, 2, 0, 0, 0, 22, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0].to_vec();
    let certificate = keys.endorsement_certificate()?.context("the maker left a certificate")?;
    let (endorsement, attestation) = (keys.endorsement_key().to_vec(), keys.attestation_key().to_vec());
    let forms = [
        ("answer", answer),
        ("attestation-key", attestation),
        ("certificate", certificate),
        ("endorsement-key", endorsement),
        ("pcr-values", values),
        ("quote", quote),
        ("signature", signature),
    ];
    seeds.extend(forms.map(|(name, bytes)| (("tpm", name.to_owned()), bytes)));
    Ok(())
}

/// What a kubelet asks for as a client and as a server, a request for more than that, and a certificate.
fn requests(seeds: &mut Seeds) -> Result<()> {
    let subject = |node: &str| {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "system:nodes");
        name.push(DnType::CommonName, format!("system:node:{node}"));
        name
    };
    let asking = |sans: &[&str]| -> Result<CertificateParams> {
        let mut params = CertificateParams::new(sans.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = subject("r7-u01");
        Ok(params)
    };
    let (p256, p384) = (KeyPair::generate()?, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?);
    let mut odd = asking(&["https://r7.example.com/"])?;
    odd.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    odd.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = asking(&[])?.serialize_request(&p256)?;
    let forms = [
        ("client-pem", client.pem()?.into_bytes()),
        ("client", client.der().to_vec()),
        ("client-p384", asking(&[])?.serialize_request(&p384)?.der().to_vec()),
        ("serving", asking(&["r7-u01", "172.30.0.16", "fd30::16"])?.serialize_request(&p256)?.der().to_vec()),
        ("odd", odd.serialize_request(&p256)?.der().to_vec()),
        ("certificate", asking(&[])?.self_signed(&p256)?.pem().into_bytes()),
        ("claim-key", p256.subject_public_key_info()),
        ("rsa", pem_contents(include_str!("../../crates/controller/src/fixtures/rsa2048.csr.pem"))?),
    ];
    seeds.extend(forms.map(|(name, bytes)| (("request", name.to_owned()), bytes)));
    Ok(())
}

fn pem_contents(text: &str) -> Result<Vec<u8>> {
    let digits: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(digits).context("a PEM block")
}

/// An argument, a config and a variable's value, as people write them and as they should not.
fn templates(seeds: &mut Seeds) {
    let config = "ignition: {version: 3.3.0}\nstorage: {files: [{path: /etc/hostname, mode: 0644, contents: {source: 'data:,{{ machine.name }}'}}]}";
    let json = "{\"ignition\": {\"version\": \"3.3.0\"}, \"x\": {{ vars.v|tojson }}}";
    let worlds = [
        ("plain", ["console=ttyS0", config, "r7"]),
        ("links", ["ignition.config.url={{ boot.ignition_url }}", json, "a \"quoted\" value"]),
        ("facts", ["{{ machine.serial|lower }}.{{ profile.name }}", config, ""]),
        ("condition", ["{% if vars.v %}rack={{ vars.v }}{% else %}rack=none{% endif %}", json, "||"]),
        ("loop", ["{% for x in range(9) %}{{ loop.index }},{% endfor %}", "{% set a = 'b' %}{{ a ~ a }}", "{{ 7 }}"]),
        ("nasty", ["{{ vars.v }}", "{{ vars.v }}", "x\\"]),
        ("butane", ["a={# nothing #}b", "variant: fcos\nversion: 1.5.0\n", ";"]),
    ];
    let separator = char::from(template::SEPARATOR).to_string();
    seeds.extend(worlds.map(|(name, parts)| (("template", name.to_owned()), parts.join(&separator).into_bytes())));
}

/// The beginnings of real kernels and loaders, which the decision's own tests have.
fn images(seeds: &mut Seeds) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/boot/src/image");
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        seeds.insert(("image", name), fs::read(&path)?);
    }
    for (name, head) in
        [("elf", &b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0"[..]), ("gzip", b"\x1f\x8b\x08\0\0\0\0\0")]
    {
        seeds.insert(("image", name.to_owned()), head.to_vec());
    }
    Ok(())
}
