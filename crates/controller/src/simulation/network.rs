//! The wire: packets are lost, doubled and overtaken by others. What goes over TCP comes whole, or the connection breaks.

use std::sync::Arc;

use super::{
    metal::Reply,
    server::Question,
    world::{Step, World},
};

/// Where a packet goes, or came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Port 67 of everybody.
    Servers,
    /// Port 68 of every box that has this address.
    Mac([u8; 6]),
    Server(usize, u16),
    Box(usize, u16),
}

#[derive(Debug, Clone)]
pub struct Datagram {
    pub from: Place,
    pub to: Place,
    pub bytes: Arc<[u8]>,
}

/// How bad it is, of a thousand packets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Network {
    pub loss: u32,
    pub twice: u32,
    pub late: u32,
}

impl World {
    /// Sends a packet.
    pub fn send(&mut self, from: Place, to: Place, bytes: Vec<u8>) {
        let bytes: Arc<[u8]> = bytes.into();
        let copies = if self.random.chance(self.network.twice) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.chance(self.network.loss) {
                continue;
            }
            let late = if self.random.chance(self.network.late) { self.random.between(50, 3000) } else { 0 };
            let after = self.random.between(1, 5) + late;
            self.at(after, Step::Datagram(Datagram { from, to, bytes: Arc::clone(&bytes) }));
        }
    }

    /// A packet arrives.
    pub fn arrive(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes } = datagram;
        match to {
            Place::Servers => (0..self.servers.len()).for_each(|server| self.discover(server, &bytes)),
            Place::Server(server, port) => self.transfer(server, port, from, &bytes),
            Place::Mac(mac) => {
                let same = |number: &usize| self.boxes[*number].mac == mac;
                let boxes: Vec<_> = (0..self.boxes.len()).filter(same).collect();
                boxes.into_iter().for_each(|number| self.offered(number, &bytes));
            }
            Place::Box(number, port) => self.block(number, port, from, &bytes),
        }
    }

    /// Asks a boot server over TCP. A connection that breaks says nothing: whoever asks has a timer.
    pub fn ask(&mut self, server: usize, box_: usize, question: Question) {
        if self.random.chance(self.network.loss / 4) {
            return;
        }
        let (after, life) = (self.random.between(1, 20), self.boxes[box_].life);
        self.at(after, Step::Ask { server, box_, life, question: Box::new(question) });
    }

    /// Answers over TCP.
    pub fn tell(&mut self, box_: usize, life: u32, reply: Reply) {
        if self.random.chance(self.network.loss / 4) {
            return;
        }
        let after = self.random.between(1, 20);
        self.at(after, Step::Told { box_, life, reply: Box::new(reply) });
    }
}
