//! The lab's captures (tests/golden/pcap), read without a crate.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};

/// One UDP datagram of a capture.
pub struct Datagram {
    /// Port it came from.
    pub source: u16,
    /// Port it went to.
    pub target: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// The folder of the captures, from whichever crate is compiled.
pub fn folder() -> PathBuf {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("tests/golden/pcap"));
    above.find(|dir| dir.is_dir()).expect("tests/golden/pcap is in the repository")
}

/// The UDP datagrams of one of the lab's captures.
pub fn datagrams(name: &str) -> Vec<Datagram> {
    datagrams_of(&folder().join(name))
}

/// The UDP datagrams over IPv4 of a capture.
pub fn datagrams_of(path: &Path) -> Vec<Datagram> {
    frames(path).iter().filter_map(|frame| udp(frame)).collect()
}

/// The frames of a classic pcap or pcapng file of Ethernet.
pub fn frames(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        let mut at = 0;
        while at + 12 <= bytes.len() {
            let (kind, len) = (u32_at(at), u32_at(at + 4));
            if kind == 6 {
                frames.push(bytes[at + 28..at + 28 + u32_at(at + 20)].to_vec());
            }
            at += len;
        }
    } else {
        let mut at = 24;
        while at + 16 <= bytes.len() {
            let len = u32_at(at + 8);
            frames.push(bytes[at + 16..at + 16 + len].to_vec());
            at += 16 + len;
        }
    }
    frames
}

fn udp(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.strip_prefix(frame.get(..12)?)?.strip_prefix(&[8, 0])?;
    let header = usize::from(ip.first()? & 15) * 4;
    let udp = (*ip.get(9)? == 17).then(|| ip.get(header..)).flatten()?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let len = usize::from(port(4)?);
    Some(Datagram { source: port(0)?, target: port(2)?, payload: udp.get(8..len)?.to_vec() })
}

/// The names of the captures.
pub fn captures() -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 10, "the captures are there");
    names
}

/// True of DHCP and of PXE's boot server.
pub fn is_dhcp(datagram: &Datagram) -> bool {
    [67, 68, 4011].contains(&datagram.target) && [67, 68, 4011].contains(&datagram.source)
}
