//! HTTP/1.1 clients on connections that are kept.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Seen, client, something};

/// Who asks, and for what.
#[derive(Debug, Clone)]
pub struct Http {
    /// The server.
    pub server: SocketAddr,
    /// Paths, asked for in turn.
    pub paths: Vec<String>,
    /// Connections at once.
    pub connections: usize,
    /// What every body begins with.
    pub begins: Vec<u8>,
    /// Whether bytes or answers are counted.
    pub count_bytes: bool,
    /// How long.
    pub time: Duration,
}

struct Connection {
    stream: TcpStream,
    /// The head, until it is whole.
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is whole.
    left: Option<usize>,
    path: usize,
    asked: Instant,
}

impl Http {
    /// Asks, for as long as is wanted. An answer is right if its status is 200 and its body is whole and begins as it should.
    pub fn run(&self) -> Result<Seen> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let requests: Vec<Vec<u8>> = self.paths.iter().map(|path| self.request(path)).collect();
        let mut connections = Vec::new();
        for number in 0..self.connections {
            let stream = connect(client(number), self.server)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            let mut new = Connection { stream, head: Vec::new(), left: None, path: number, asked: Instant::now() };
            ask(&mut new, &requests)?;
            connections.push(new);
        }
        let (mut seen, mut answers, mut bytes) = (Seen::default(), 0_u64, 0_u64);
        let (mut events, mut buffer) = (vec![EpollEvent::empty(); 64], vec![0; 256 << 10]);
        let start = Instant::now();
        while start.elapsed() < self.time {
            let ready = epoll.wait(&mut events, EpollTimeout::from(100_u8))?;
            for event in events.iter().take(ready) {
                let connection = connections.get_mut(usize::try_from(event.data())?).context("a connection")?;
                let len = match connection.stream.read(&mut buffer) {
                    Ok(0) => anyhow::bail!("the server hung up"),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error).context("read an answer"),
                };
                bytes += len as u64;
                if self.take(connection, &buffer[..len])? {
                    answers += 1;
                    seen.latencies.push(connection.asked.elapsed());
                    connection.path += self.connections;
                    ask(connection, &requests)?;
                }
            }
        }
        let counted = if self.count_bytes { bytes } else { answers };
        seen.rate = counted as f64 / start.elapsed().as_secs_f64();
        something(seen, "answer")
    }

    fn request(&self, path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive\r\nUser-Agent: iPXE/1.21.1\r\n\r\n",
            self.server
        )
        .into_bytes()
    }

    /// True once an answer is whole.
    fn take(&self, connection: &mut Connection, bytes: &[u8]) -> Result<bool> {
        let left = match connection.left {
            Some(left) => left.checked_sub(bytes.len()).context("more came than was said")?,
            None => {
                connection.head.extend(bytes);
                let Some(end) = connection.head.windows(4).position(|four| four == b"\r\n\r\n") else {
                    return Ok(false);
                };
                let (head, body) = connection.head.split_at(end + 4);
                let length = length(head)?;
                if body.len() < self.begins.len().min(length) {
                    return Ok(false);
                }
                ensure!(
                    body.starts_with(&self.begins),
                    "a body begins {:?}",
                    String::from_utf8_lossy(&body[..body.len().min(40)])
                );
                length.checked_sub(body.len()).context("more came than was said")?
            }
        };
        connection.left = Some(left);
        Ok(left == 0)
    }
}

fn ask(connection: &mut Connection, requests: &[Vec<u8>]) -> Result<()> {
    connection.head.clear();
    (connection.left, connection.asked) = (None, Instant::now());
    let request = requests.get(connection.path % requests.len()).context("a path")?;
    connection.stream.write_all(request).context("ask")
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into()).with_context(|| format!("connect to {to}"))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The body's length of an answer that is 200.
fn length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head).context("a head that is no text")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "the server says {:?}", head.lines().next().unwrap_or_default());
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
    });
    value.context("an answer without Content-Length")?.context("a Content-Length that is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_that_are_200_count() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").unwrap(), 12);
        assert!(length(b"HTTP/1.1 503 Busy\r\ncontent-length: 12\r\n\r\n").is_err());
        assert!(length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
