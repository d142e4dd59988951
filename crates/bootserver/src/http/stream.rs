//! A checked file's bytes, on their way to a client.

use std::{
    fs::File,
    io::{Error, IoSliceMut, Read, Seek, SeekFrom},
    sync::Arc,
};

use axum::body::Bytes;
use futures::Stream;
use magnetite_api::{Machine, report::BootStepName};
use magnetite_daemon::clock;
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::{sync::OwnedSemaphorePermit, task::spawn_blocking};

use super::Peer;
use crate::{app::App, artifacts::Checked, metrics::Way, record::Detail};

/// Bytes that are taken at once: few enough to be in the processor's cache still when they are sent, and for a client that hardly reads
/// to hold few of them. Whoever had to wait for a disk finds the next ones in memory: the kernel reads ahead.
const PIECE: u64 = 64 << 10;

/// The file from `start` on, if it is still the one that was checked.
pub fn open(checked: &Checked, start: u64) -> Option<File> {
    let mut file = File::open(checked.path()).ok()?;
    let same = checked.is_same(&file.metadata().ok()?);
    (same && (start == 0 || file.seek(SeekFrom::Start(start)).is_ok())).then_some(file)
}

/// The file's bytes. The last of them are kept back until it is certain that nobody wrote to the file meanwhile: a client that does
/// not get them all throws the rest away, and comes again.
pub fn bytes(file: File, checked: Checked, sent: Sent) -> impl Stream<Item = std::io::Result<Bytes>> {
    futures::stream::try_unfold((file, checked, sent), async |(mut file, checked, mut sent)| {
        let left = sent.want - sent.bytes;
        if left == 0 {
            return Ok(None);
        }
        let want = left.min(PIECE);
        let piece = match at_hand(&file, want) {
            Some(piece) => piece,
            None => {
                let read = move || read(&file, want).map(|piece| (file, piece));
                let piece;
                (file, piece) = spawn_blocking(read).await.map_err(Error::other)??;
                piece
            }
        };
        let whole = piece.len() as u64 == left;
        if piece.is_empty() || (whole && !checked.is_same(&file.metadata()?)) {
            return Err(Error::other("the file changed while it was sent"));
        }
        sent.bytes += piece.len() as u64;
        Ok(Some((Bytes::from(piece), (file, checked, sent))))
    })
}

/// The file's next bytes, if the kernel has them in memory, as it has while many boxes fetch the same: no thread need wait for a disk.
fn at_hand(file: &File, most: u64) -> Option<Vec<u8>> {
    let mut piece = vec![0; usize::try_from(most).ok()?];
    // This offset means the file's own position. What the file system cannot do, and errors, are for who reads and waits.
    let len = preadv2(file, &mut [IoSliceMut::new(&mut piece)], u64::MAX, ReadWriteFlags::NOWAIT).ok()?;
    piece.truncate(len);
    Some(piece).filter(|piece| !piece.is_empty())
}

/// The file's next bytes; fewer if it ends before.
fn read(file: &File, most: u64) -> std::io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(usize::try_from(most).unwrap_or_default());
    file.take(most).read_to_end(&mut piece)?;
    Ok(piece)
}

/// Counts what was sent. Dropped with the stream, when the client has it all or went away.
pub struct Sent {
    app: Arc<App>,
    step: (Arc<Machine>, BootStepName, String),
    peer: Peer,
    bytes: u64,
    want: u64,
    /// Whether that is the file's end: who has only the parts before it does not have the file.
    last: bool,
    _place: OwnedSemaphorePermit,
}

impl Sent {
    /// Nothing yet of so many bytes. `step`: what is reached with the last of them, and the file's name.
    pub fn new(
        app: Arc<App>,
        step: (Arc<Machine>, BootStepName, String),
        peer: Peer,
        want: u64,
        last: bool,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { app, step, peer, bytes: 0, want, last, _place: place }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let Self { app, step: (machine, step, what), peer, bytes, want, last, _place } = self;
        app.metrics.sent(Way::Http, *bytes);
        if bytes == want {
            if !*last {
                return;
            }
            let words = Some(std::mem::take(what)).filter(|what| !what.is_empty());
            let detail = Detail { words, ..Detail::bytes(*bytes) }.at_peer(peer.ip());
            app.records.step(machine, *step, detail, clock::now());
        } else {
            // Not sent, so not a step; a step that comes after all clears it.
            let message = format!("{what} was cut off after {bytes} of {want} bytes").trim_start().to_owned();
            app.records.cut(machine, *step, &message, clock::now());
        }
    }
}
