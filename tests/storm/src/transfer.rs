//! A loader by TFTP, as EDK2 fetches it: once for the size, broken off, then in windows of four. ROMs ask for no window.

use std::{net::SocketAddrV4, sync::Arc};

use crate::timers::{PXE_TFTP, Waits};

/// How a transfer ends that heard nothing of the server: all its tries, or their answers, were lost.
pub(crate) const UNHEARD: [&str; 2] =
    ["TFTP: no answer to the question for the size", "TFTP: no answer to the request"];

/// Only asks how long the file is, then says "aborted" (boot-facts: ERROR 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Size,
    File,
}

/// What a packet led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing new: the timer goes on.
    Nothing,
    /// Send this to the server's port of this transfer; the timer begins anew.
    Send(Vec<u8>),
    /// Send this, then begin the second request from a new port.
    Again(Vec<u8>),
    /// Send the last ACK: the file is whole.
    Whole(Vec<u8>),
    /// It ended.
    Broken(String),
}

/// A transfer.
#[derive(Debug, Clone)]
pub struct Transfer {
    stage: Stage,
    windows: bool,
    name: String,
    file: Arc<[u8]>,
    /// The server's port 69.
    pub server: SocketAddrV4,
    /// The port that it answered from.
    pub peer: Option<SocketAddrV4>,
    last: Vec<u8>,
    tries: usize,
    block: usize,
    window: usize,
    /// Blocks that came in order, and those of them that no ACK was sent for.
    came: usize,
    unacknowledged: usize,
}

impl Transfer {
    /// A transfer of `name`, which should hold `file`. `windows`: EDK2 of 2019 and later.
    pub fn new(server: SocketAddrV4, name: &str, file: Arc<[u8]>, windows: bool) -> Self {
        let mut new = Self {
            stage: Stage::Size,
            windows,
            name: name.to_owned(),
            file,
            server,
            peer: None,
            last: Vec::new(),
            tries: 0,
            block: 512,
            window: 1,
            came: 0,
            unacknowledged: 0,
        };
        new.last = new.request();
        new
    }

    fn request(&self) -> Vec<u8> {
        let size = if self.stage == Stage::Size { "tsize\x000\0" } else { "" };
        let window = if self.windows { "windowsize\x004\0" } else { "" };
        format!("\0\x01{}\0octet\0{size}blksize\x001468\0{window}", self.name).into_bytes()
    }

    /// What was sent last, and to whom: sent first, and again when the timer runs out.
    pub fn last(&self) -> (Vec<u8>, SocketAddrV4) {
        (self.last.clone(), self.peer.unwrap_or(self.server))
    }

    /// What does not come, if nothing comes.
    pub fn awaited(&self) -> &'static str {
        match (self.stage, self.peer, self.came) {
            (Stage::Size, ..) => UNHEARD[0],
            (Stage::File, None, _) => UNHEARD[1],
            (Stage::File, Some(_), 0) => "TFTP: no first block",
            (Stage::File, Some(_), _) => "TFTP: no next block",
        }
    }

    /// The timer of the present wait.
    pub fn waits(&self) -> (Waits, usize) {
        (PXE_TFTP, self.tries)
    }

    /// The timer ran out: one try more.
    pub fn again(&mut self) {
        self.tries += 1;
    }

    /// Takes a packet.
    pub fn packet(&mut self, from: SocketAddrV4, bytes: &[u8]) -> Step {
        if from.ip() != self.server.ip() || self.peer.is_some_and(|peer| peer != from) {
            return Step::Nothing;
        }
        match bytes {
            [0, 6, options @ ..] if self.came == 0 => self.options(from, options),
            [0, 3, high, low, data @ ..] => self.data(from, u16::from_be_bytes([*high, *low]), data),
            [0, 5, _, code, text @ ..] => Step::Broken(format!("TFTP error {code}: {}", String::from_utf8_lossy(text))),
            _ => Step::Nothing,
        }
    }

    fn options(&mut self, from: SocketAddrV4, options: &[u8]) -> Step {
        let words: Vec<_> = options.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        for pair in words.chunks_exact(2) {
            let Ok(value) = pair[1].parse::<usize>() else { return Step::Broken(format!("option {pair:?}")) };
            match &*pair[0] {
                "blksize" => self.block = value,
                "windowsize" => self.window = value,
                "tsize" if value != self.file.len() => return Step::Broken(format!("a size of {value}")),
                _ => {}
            }
        }
        if self.stage == Stage::Size {
            (self.stage, self.peer, self.tries) = (Stage::File, None, 0);
            (self.block, self.window) = (512, 1);
            self.last = self.request();
            return Step::Again(b"\0\x05\0\x08User aborted the transfer\0".to_vec());
        }
        (self.peer, self.tries) = (Some(from), 0);
        self.acknowledge()
    }

    fn acknowledge(&mut self) -> Step {
        let [.., high, low] = self.came.to_be_bytes();
        self.unacknowledged = 0;
        self.last = vec![0, 4, high, low];
        Step::Send(self.last.clone())
    }

    fn data(&mut self, from: SocketAddrV4, number: u16, data: &[u8]) -> Step {
        if self.stage == Stage::Size {
            return Step::Nothing;
        }
        self.peer = Some(from);
        if usize::from(number) != (self.came + 1) & 0xffff {
            // EDK2 acknowledges again what it has, for every block that is not the next one.
            return self.acknowledge();
        }
        let at = self.came * self.block;
        if self.file.get(at..at + data.len()) != Some(data) {
            return Step::Broken(format!("block {number} is not the file's"));
        }
        (self.came, self.tries) = (self.came + 1, 0);
        self.unacknowledged += 1;
        if data.len() < self.block {
            return match self.acknowledge() {
                Step::Send(ack) if at + data.len() == self.file.len() => Step::Whole(ack),
                _ => Step::Broken(format!("the file ends after {} bytes", at + data.len())),
            };
        }
        if self.unacknowledged >= self.window { self.acknowledge() } else { Step::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(number: u16, bytes: &[u8]) -> Vec<u8> {
        [&[0, 3][..], &number.to_be_bytes(), bytes].concat()
    }

    #[test]
    fn the_size_first_then_the_file_in_windows() {
        let server = "10.0.0.1:69".parse().unwrap();
        let port = |port| SocketAddrV4::new([10, 0, 0, 1].into(), port);
        let file: Arc<[u8]> = vec![7; 5].into();
        let mut transfer = Transfer::new(server, "f", Arc::clone(&file), true);
        assert!(transfer.last().0.ends_with(b"tsize\x000\0blksize\x001468\0windowsize\x004\0"));
        assert!(matches!(transfer.packet(port(1), b"\0\x06tsize\x006\0"), Step::Broken(_)), "another size");
        assert!(matches!(transfer.packet(port(1), b"\0\x06tsize\x005\0blksize\x002\0"), Step::Again(_)));
        assert_eq!(transfer.packet(port(2), b"\0\x06blksize\x002\0windowsize\x002\0"), Step::Send(vec![0, 4, 0, 0]));
        assert_eq!(transfer.packet(port(3), &data(1, &[7, 7])), Step::Nothing, "of another port");
        assert_eq!(transfer.packet(port(2), &data(1, &[7, 7])), Step::Nothing, "in the window");
        assert_eq!(transfer.packet(port(2), &data(3, &[7])), Step::Send(vec![0, 4, 0, 1]), "one was lost");
        assert!(matches!(transfer.clone().packet(port(2), &data(2, &[7, 8])), Step::Broken(_)), "other bytes");
        assert_eq!(transfer.packet(port(2), &data(2, &[7, 7])), Step::Nothing);
        assert_eq!(transfer.packet(port(2), &data(3, &[7])), Step::Whole(vec![0, 4, 0, 3]));
    }
}
