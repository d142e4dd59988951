//! Clients that stop in the middle: cards that died, kernels that hang, and those who do it on purpose.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// Begins so many transfers of a file, each from an address of its own, and stops each after one to sixteen blocks. The sockets are
/// given back: dropping them makes their ports unreachable, which a server may take as a farewell.
///
/// # Errors
/// If a transfer does not begin.
pub fn tftp(server: Ipv4Addr, file: &str, from: impl Iterator<Item = Ipv4Addr>) -> Result<Vec<UdpSocket>> {
    let mut all = Vec::new();
    let mut buffer = [0; 2048];
    for (number, address) in from.enumerate() {
        let socket = UdpSocket::bind((address, 0)).with_context(|| format!("bind {address}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request = format!("\0\x01{file}\0octet\0blksize\x001468\0");
        socket.send_to(request.as_bytes(), SocketAddrV4::new(server, 69))?;
        for block in 0..=u16::try_from(number % 16)? {
            let (len, peer) =
                socket.recv_from(&mut buffer).with_context(|| format!("block {block} of transfer {number}"))?;
            ensure!(len > 3 && buffer[1] != 5, "{}", String::from_utf8_lossy(&buffer[..len]));
            let [high, low] = block.to_be_bytes();
            socket.send_to(&[0, 4, high, low], peer)?;
        }
        all.push(socket);
    }
    Ok(all)
}

/// Connections that ask for a file and take a byte a second.
pub struct SlowReaders(Vec<TcpStream>);

impl SlowReaders {
    /// Opens so many connections, each from an address of its own, and asks each for the path.
    ///
    /// # Errors
    /// If one is not taken.
    pub fn start(server: SocketAddr, path: &str, from: impl Iterator<Item = Ipv4Addr>) -> Result<Self> {
        let mut streams = Vec::new();
        for address in from {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            // Room for next to nothing, so that what is not read stays with the server.
            socket.set_recv_buffer_size(4096)?;
            socket.bind(&SocketAddr::from((address, 0)).into())?;
            socket.connect(&server.into()).with_context(|| format!("connect to {server}"))?;
            let mut stream = TcpStream::from(socket);
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(Self(streams))
    }

    /// Takes a byte of each that has one.
    pub fn take_a_byte(&mut self) {
        for stream in &mut self.0 {
            // What the server had sent before it hung up is read to its end, a byte a second: whether it did is for others to see.
            drop(stream.read(&mut [0; 1]));
        }
    }
}
