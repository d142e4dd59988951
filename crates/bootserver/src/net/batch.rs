//! Many UDP packets with one system call: while a site powers on, those calls are a third of the work.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    libc::in_pktinfo,
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg},
};

use super::{packet_info, send_from};

/// Packets that are taken or sent at once. Most of the calls are saved by then, and with more the first would wait for the last.
const MOST: usize = 8;
/// The largest packet that is taken whole: no client of DHCP sends as much.
const LARGEST: usize = 4096;

/// A packet, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The packet.
    pub bytes: Vec<u8>,
    /// Where it goes.
    pub to: SocketAddrV4,
}

/// What one call took.
pub struct Batch {
    buffers: Vec<[u8; LARGEST]>,
    got: Vec<(usize, SocketAddrV4)>,
    taken: MultiHeaders<SockaddrIn>,
    sent: MultiHeaders<SockaddrIn>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffers: vec![[0; LARGEST]; MOST],
            got: Vec::with_capacity(MOST),
            taken: MultiHeaders::preallocate(MOST, None),
            sent: MultiHeaders::preallocate(MOST, Some(cmsg_space!(in_pktinfo))),
        }
    }
}

impl Batch {
    /// Takes what has come, without waiting, in place of what was taken before. True if there may be more.
    ///
    /// # Errors
    /// If the socket fails; that nothing came is none.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.got.clear();
        let mut slices: Vec<_> = self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut self.taken, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Ok(messages) => {
                let from = |address: Option<SockaddrIn>| address.map(SocketAddrV4::from);
                self.got.extend(messages.filter_map(|message| Some((message.bytes, from(message.address)?))));
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.got.len() == MOST)
    }

    /// The packets that were taken, and who sent them.
    pub fn packets(&self) -> impl Iterator<Item = (&[u8], SocketAddrV4)> {
        self.buffers.iter().zip(&self.got).map(|(buffer, (len, from))| (buffer.get(..*len).unwrap_or_default(), *from))
    }

    /// Sends packets from an address of this host, as [`send_from`] does with one; which were not sent, and why.
    pub fn send(
        &mut self,
        socket: &UdpSocket,
        source: Ipv4Addr,
        packets: &[Datagram],
    ) -> Vec<(SocketAddrV4, io::Error)> {
        let (info, mut failed, mut rest) = (packet_info(source), Vec::new(), packets);
        while let [first, others @ ..] = rest {
            let slices: Vec<_> = rest.iter().map(|packet| [IoSlice::new(&packet.bytes)]).collect();
            let to: Vec<_> = rest.iter().map(|packet| Some(SockaddrIn::from(packet.to))).collect();
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            let sent = sendmmsg(socket.as_raw_fd(), &mut self.sent, &slices, &to, control, MsgFlags::empty());
            rest = match sent.map(Iterator::count) {
                Ok(count @ 1..) => rest.get(count..).unwrap_or_default(),
                // The first of them was not sent. By itself it waits for a full buffer, or says what is wrong with it.
                Ok(0) | Err(_) => {
                    let alone = send_from(socket, source, &first.bytes, first.to);
                    failed.extend(alone.err().map(|error| (first.to, error)));
                    others
                }
            };
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_sent_and_taken_and_one_that_cannot_be_sent_holds_up_no_other() {
        let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = |socket: &UdpSocket| match socket.local_addr().unwrap() {
            std::net::SocketAddr::V4(address) => address,
            other => panic!("{other}"),
        };
        let (from, to) = (address(&ours), address(&theirs));
        let mut packets: Vec<_> = (0..100_u8).map(|number| Datagram { bytes: vec![number; 300], to }).collect();
        // Without permission to broadcast nobody may.
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 9);
        packets[40].to = everybody;
        let mut batch = Batch::default();
        let failed = batch.send(&ours, Ipv4Addr::LOCALHOST, &packets);
        assert_eq!(failed.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [everybody]);
        let (mut got, mut turns) = (Vec::new(), 0);
        while got.len() < 99 {
            let more = batch.receive(&theirs).unwrap();
            got.extend(batch.packets().map(|(bytes, peer)| (bytes.len(), bytes[0], peer)));
            assert_eq!(more, got.len() % MOST == 0);
            turns += 1;
        }
        assert_eq!(turns, 99_usize.div_ceil(MOST));
        let want: Vec<_> = (0..100).filter(|number| *number != 40).map(|number| (300, number, from)).collect();
        assert_eq!(got, want);
        assert!(!batch.receive(&theirs).unwrap());
        assert_eq!(batch.packets().count(), 0, "nothing of the last time is left");
    }
}
