//! Connections that get rid of readers who hardly read: each holds a place, a buffer and an open file.

use std::{
    future::ready,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum_server::accept::Accept;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// How long nothing at all may be taken from us.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that the kernel holds for a client beyond those under way. There is room again once half of them went: a client
/// that takes 32 KiB in 30 s, about 1 KiB/s, is slow, and one that takes less is stuck. The kernel's own default is
/// megabytes, in which a slow client could not be told from a stuck one.
const UNSENT: u32 = 64 << 10;

/// Makes every accepted connection a [`Paced`] one.
#[derive(Debug, Clone, Copy)]
pub struct Pace;

impl<S> Accept<TcpStream, S> for Pace {
    type Stream = Paced<TcpStream>;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // An answer's last packet must not wait for the acknowledgement of the one before.
        let set = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT));
        ready(set.map(|()| (Paced::new(stream), service)))
    }
}

/// A connection that ends with an error once it took nothing for [`PATIENCE`].
#[derive(Debug)]
pub struct Paced<I> {
    inner: I,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Kept for the next wait.
    idle: Option<Pin<Box<Sleep>>>,
}

impl<I> Paced<I> {
    fn new(inner: I) -> Self {
        Self { inner, waiting: None, idle: None }
    }

    /// Passes on what a write came to, or its timeout.
    fn pace<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.idle = self.waiting.take().or(self.idle.take());
            return written;
        }
        if self.waiting.is_none() {
            let mut timer = self.idle.take().unwrap_or_else(|| Box::pin(sleep(PATIENCE)));
            timer.as_mut().reset(Instant::now() + PATIENCE);
            self.waiting = Some(timer);
        }
        match self.waiting.as_mut().map(|timer| timer.as_mut().poll(context)) {
            Some(Poll::Ready(())) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
            }
            _ => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Paced<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Paced<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.pace(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.pace(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_let_go() {
        let (ours, theirs) = duplex(1024);
        let begin = Instant::now();
        let error = Paced::new(ours).write_all(&[7; 4096]).await.unwrap_err();
        assert_eq!((error.kind(), begin.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_is_served() {
        let (ours, mut theirs) = duplex(1024);
        let mut ours = Paced::new(ours);
        let writing = tokio::spawn(async move { ours.write_all(&[7; 8192]).await });
        let mut got = 0;
        while got < 8192 {
            sleep(PATIENCE - Duration::from_secs(1)).await;
            got += theirs.read(&mut [0; 512]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }
}
