//! Floods: what nobody asked for, as fast as one thread sends it.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::packet::{DISCOVER, Identity, Question};

/// What was sent, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// The time it took.
    pub time: Duration,
}

impl Sent {
    /// Packets a second.
    pub fn rate(&self) -> f64 {
        self.packets as f64 / self.time.as_secs_f64().max(f64::EPSILON)
    }
}

/// Sends junk to a boot server, at most `rate` packets a second, until `stop`: noise, DHCP cut short, DISCOVERs of strangers,
/// requests of TFTP for what is not there, to the ports that it listens on.
///
/// # Errors
/// If there is no socket.
pub fn flood(server: Ipv4Addr, rate: u32, stop: &AtomicBool) -> Result<Sent> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (start, mut packets, mut state) = (Instant::now(), 0_u64, 0x9e37_79b9_7f4a_7c15_u64);
    while !stop.load(Ordering::Relaxed) {
        // In bursts: so many as the time that went by allows.
        let allowed = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while packets < allowed && !stop.load(Ordering::Relaxed) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (bytes, port) = packet(state);
            // A full queue is what a flood is for. To the boot server alone: the site's DHCP server is not what is tested.
            drop(socket.send_to(&bytes, (server, port)));
            packets += 1;
        }
        std::thread::yield_now();
    }
    Ok(Sent { packets, time: start.elapsed() })
}

/// One packet of junk, and the port that it goes to.
fn packet(random: u64) -> (Vec<u8>, u16) {
    let bytes = random.to_le_bytes();
    let stranger = Identity { mac: [6, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]], arch: 7, ipxe: false };
    let question = || Question { kind: DISCOVER, xid: u32::from(bytes[6]), ..Question::default() }.bytes(stranger);
    match bytes[0] % 8 {
        0 => (question(), 67),
        1 => {
            let mut cut = question();
            cut.truncate(usize::from(bytes[7]) + 40);
            (cut, 67)
        }
        2 | 3 => (bytes.repeat(usize::from(bytes[7] % 64) + 1), 67),
        4 => (format!("\0\x01{:x}\0octet\0", random).into_bytes(), 69),
        5 => (vec![0, 4, bytes[1], bytes[2]], 69),
        6 => (bytes.repeat(3), 69),
        _ => (question(), 4011),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_of_every_kind() {
        let all: Vec<_> = (0..2000_u64).map(|n| packet(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        for port in [67, 69, 4011] {
            assert!(all.iter().any(|(_, to)| *to == port), "{port}");
        }
        assert!(all.iter().all(|(bytes, _)| bytes.len() < 1472), "none is larger than a packet");
    }
}
