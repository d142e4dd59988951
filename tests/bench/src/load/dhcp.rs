//! DISCOVERs of many clients, so many of them under way at once.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use magnetite_wire::dhcp::{MessageType, request::Persona};

use super::{Seen, something, udp};

/// A question that was not answered by then is asked again, and counted.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Dhcp {
    /// Clients, each with a MAC of its own.
    pub clients: u32,
    /// Questions under way.
    pub window: u32,
    /// How long.
    pub time: Duration,
}

/// The MAC of a client: 02:00:00 and its number.
pub fn mac(number: u32) -> [u8; 6] {
    let [_, a, b, c] = number.to_be_bytes();
    [2, 0, 0, a, b, c]
}

struct Asked {
    client: u32,
    serial: u32,
    at: Instant,
}

impl Dhcp {
    /// Asks, for as long as is wanted. An answer is right if it is an OFFER to the question and names a server.
    pub fn run(self) -> Result<Seen> {
        let socket = socket()?;
        let mut questions = (0..self.clients).map(question).collect::<Result<Vec<_>>>()?;
        let mut slots: Vec<Asked> = Vec::new();
        let (mut next, mut serial) = (0, 0);
        let mut ask = |slot: u32, client: u32| -> Result<Asked> {
            serial = (serial + 1) & 0xff_ffff;
            let packet = questions.get_mut(client as usize).context("a client that was counted")?;
            // The slot in the xid's first byte: an answer is found without a search.
            packet[4..8].copy_from_slice(&((slot << 24) | serial).to_be_bytes());
            socket.send_to(packet, SocketAddr::from((Ipv4Addr::BROADCAST, 67)))?;
            Ok(Asked { client, serial, at: Instant::now() })
        };
        let start = Instant::now();
        for slot in 0..self.window.min(255) {
            slots.push(ask(slot, next)?);
            next = (next + 1) % self.clients;
        }
        let (mut seen, mut right, mut buffer) = (Seen::default(), 0_u64, [0; 2048]);
        while start.elapsed() < self.time {
            let len = match socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    for (number, slot) in (0_u32..).zip(&mut slots) {
                        if slot.at.elapsed() > PATIENCE {
                            seen.errors += 1;
                            *slot = ask(number, slot.client)?;
                        }
                    }
                    continue;
                }
                Err(error) => return Err(error).context("receive an OFFER"),
            };
            let Some((number, answered)) = offer(&buffer[..len]) else { continue };
            let Some(slot) = slots.get_mut(number as usize).filter(|slot| slot.serial == answered) else { continue };
            seen.latencies.push(slot.at.elapsed());
            right += 1;
            *slot = ask(number, next)?;
            next = (next + 1) % self.clients;
        }
        seen.rate = right as f64 / start.elapsed().as_secs_f64();
        something(seen, "OFFER")
    }

    /// Asks once, until somebody answers with a boot file; its name.
    pub fn first(patience: Duration, ipxe: bool) -> Result<String> {
        let socket = socket()?;
        // A number for each kind: an offer may be sent twice, and the second copy of one is no answer to the other.
        let (persona, xid) = if ipxe { (Persona::BIOS.ipxe(), 78) } else { (Persona::BIOS, 77) };
        let mut packet = Vec::new();
        persona.request(MessageType::DISCOVER, mac(0), None, xid).encode(&mut packet)?;
        let (start, mut buffer) = (Instant::now(), [0; 2048]);
        while start.elapsed() < patience {
            socket.send_to(&packet, SocketAddr::from((Ipv4Addr::BROADCAST, 67)))?;
            let Ok(len) = socket.recv(&mut buffer) else { continue };
            if offer(&buffer[..len]) == Some((0, xid)) {
                let packet = magnetite_wire::dhcp::Packet::decode(&buffer[..len])?;
                return Ok(String::from_utf8_lossy(&packet.bootfile()).into_owned());
            }
        }
        anyhow::bail!("no OFFER within {} s", patience.as_secs())
    }
}

fn socket() -> Result<UdpSocket> {
    let socket = udp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)))?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(b"eth0"))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket.into())
}

fn question(client: u32) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    Persona::BIOS.request(MessageType::DISCOVER, mac(client), None, 0).encode(&mut packet)?;
    Ok(packet)
}

/// Slot and serial number of an OFFER that names its server.
fn offer(packet: &[u8]) -> Option<(u32, u32)> {
    if *packet.first()? != 2 || packet.get(236..240)? != [99, 130, 83, 99] {
        return None;
    }
    let (mut options, mut kind, mut server) = (packet.get(240..)?, 0, false);
    while let [code, rest @ ..] = options {
        match code {
            0 => options = rest,
            255 => break,
            code => {
                let (len, rest) = rest.split_first()?;
                let value = rest.get(..usize::from(*len))?;
                match code {
                    53 => kind = *value.first()?,
                    54 => server = value.len() == 4,
                    _ => {}
                }
                options = rest.get(usize::from(*len)..)?;
            }
        }
    }
    let xid = u32::from_be_bytes(packet.get(4..8)?.try_into().ok()?);
    (kind == 2 && server).then_some((xid >> 24, xid & 0xff_ffff))
}

/// The plain loop, the limit: receives, and sends an OFFER that was made beforehand. Until `stop`.
pub fn echo(stop: &AtomicBool) -> Result<()> {
    let socket = udp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 67)))?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(b"eth0"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let socket = UdpSocket::from(socket);
    let mut answer = Persona::BIOS.request(MessageType::OFFER, [0; 6], None, 0);
    answer.op = 2;
    answer.options.push(magnetite_wire::dhcp::OptionCode::SERVER_ID, [10, 77, 0, 1]);
    let (mut out, mut buffer) = (Vec::new(), [0; 2048]);
    answer.encode(&mut out)?;
    while !stop.load(Ordering::Relaxed) {
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        if len > 44 {
            out[4..8].copy_from_slice(&buffer[4..8]);
            out[28..44].copy_from_slice(&buffer[28..44]);
            socket.send_to(&out, SocketAddr::from((Ipv4Addr::BROADCAST, 68)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_offer_that_names_its_server_is_right() {
        let mut packet = Persona::BIOS.request(MessageType::OFFER, mac(7), None, 0x0500_0009);
        packet.op = 2;
        let bytes = |packet: &magnetite_wire::dhcp::Packet| {
            let mut bytes = Vec::new();
            packet.encode(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(offer(&bytes(&packet)), None, "no server");
        packet.options.push(magnetite_wire::dhcp::OptionCode::SERVER_ID, [10, 77, 0, 1]);
        assert_eq!(offer(&bytes(&packet)), Some((5, 9)));
        assert_eq!(offer(&bytes(&packet)[..250]), None);
        packet.op = 1;
        assert_eq!(offer(&bytes(&packet)), None);
    }
}
