//! Packets out: DATA goes from the file's bytes to the kernel without a copy of ours.

use std::{
    io::IoSlice,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
};

use magnetite_wire::tftp::Packet;
use nix::{
    Error,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};

/// Bytes that one call may hand over: an IP packet's largest, less the headers.
const MOST_BYTES: usize = 65_000;
/// Segments that the kernel cuts one piece into at most (UDP_MAX_SEGMENTS, in the oldest kernels that do).
const MOST_SEGMENTS: usize = 64;
/// How long a full buffer may take to drain, in milliseconds. After it the packet is as good as lost.
const DRAIN: u8 = 100;

/// Sends one packet.
pub fn packet(socket: &UdpSocket, to: SocketAddr, packet: &Packet<'_>) {
    let mut out = Vec::with_capacity(128);
    packet.encode(&mut out);
    hand_over(socket, &to.into(), &[IoSlice::new(&out)], &[]).ok();
}

/// Sends DATA of consecutive blocks, each with its number and bytes. More than one goes out as one piece that the kernel, or
/// the network card, cuts into packets (UDP_SEGMENT), until `segments` says that it cannot.
pub fn blocks<'a>(
    socket: &UdpSocket,
    to: SocketAddr,
    blocks: impl Iterator<Item = (u16, &'a [u8])>,
    size: u16,
    segments: &mut bool,
) {
    let to = SockaddrStorage::from(to);
    let segment = size.saturating_add(4);
    let at_once = (MOST_BYTES / usize::from(segment).max(1)).clamp(1, MOST_SEGMENTS);
    let mut blocks = blocks.peekable();
    while let Some((number, bytes)) = blocks.next() {
        if !*segments || blocks.peek().is_none() || at_once == 1 {
            hand_over(socket, &to, &[IoSlice::new(&head(number)), IoSlice::new(bytes)], &[]).ok();
            continue;
        }
        let more = std::iter::once((number, bytes)).chain(std::iter::from_fn(|| blocks.next())).take(at_once);
        let (heads, bodies): (Vec<_>, Vec<_>) = more.map(|(number, bytes)| (head(number), bytes)).unzip();
        let slices = heads.iter().zip(&bodies).flat_map(|(head, body)| [IoSlice::new(head), IoSlice::new(body)]);
        let slices: Vec<_> = slices.collect();
        if let Err(Error::EINVAL | Error::EIO | Error::EMSGSIZE | Error::EOPNOTSUPP) =
            hand_over(socket, &to, &slices, &[ControlMessage::UdpGsoSegments(&segment)])
        {
            // The card sums no packets up (EIO), or the way became narrower than a block (EINVAL): one by one then.
            *segments = false;
            for pair in slices.chunks(2) {
                hand_over(socket, &to, pair, &[]).ok();
            }
        }
    }
}

/// The header of DATA.
fn head(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [0, 3, high, low]
}

/// Waits once for a full buffer to drain: all transfers share it, and the card is what holds them up.
fn hand_over(
    socket: &UdpSocket,
    to: &SockaddrStorage,
    slices: &[IoSlice<'_>],
    control: &[ControlMessage<'_>],
) -> nix::Result<()> {
    let send = || sendmsg(socket.as_raw_fd(), slices, control, MsgFlags::empty(), Some(to)).map(drop);
    match send() {
        Err(Error::EAGAIN | Error::ENOBUFS) => {
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], DRAIN).ok();
            send()
        }
        other => other,
    }
}
