//! Writes an image onto a disk: its zeros without sending them, and its first bytes not at all. Those make a disk bootable, so they are held
//! back until somebody says that the image is the right one.

use std::io;

use crate::target::Target;

/// What is held back: partition table, boot sector, and the room up to where partitions begin by custom.
pub const HEAD: u64 = 1 << 20;
/// What is judged to be zero or not.
const BLOCK: usize = 64 << 10;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is more image than disk.
    #[error("the image is longer than the disk, which has {disk} bytes")]
    TooLong {
        /// Size of the disk.
        disk: u64,
    },
    /// The disk does not take it.
    #[error("the disk could not be written at byte {at}")]
    Write {
        /// Where.
        at: u64,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// An image on its way to a disk.
pub struct Sparse<'a> {
    target: &'a mut dyn Target,
    /// What was held back.
    pub head: Vec<u8>,
    /// Bytes of the image so far.
    pub at: u64,
    /// Zeros that end at `at` and are not on the disk yet.
    zeros: u64,
}

impl<'a> Sparse<'a> {
    /// Begins at the first byte.
    pub fn new(target: &'a mut dyn Target) -> Self {
        Self { target, head: Vec::new(), at: 0, zeros: 0 }
    }

    /// The next bytes of the image.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        self.has_room(bytes.len() as u64)?;
        while !bytes.is_empty() {
            let in_head = HEAD.saturating_sub(self.at);
            let length = match usize::try_from(in_head).unwrap_or(usize::MAX) {
                // Blocks are the disk's, not those of whoever sends: their zeros are found however the bytes are cut.
                0 => BLOCK - usize::try_from(self.at % BLOCK as u64).unwrap_or(0),
                in_head => in_head,
            };
            let (now, later) = bytes.split_at(length.min(bytes.len()));
            if in_head > 0 {
                self.head.extend_from_slice(now);
            } else if now.iter().all(|byte| *byte == 0) {
                self.zeros += now.len() as u64;
            } else {
                self.flush_zeros()?;
                let at = self.at;
                self.target.write_at(at, now).map_err(|source| WriteError::Write { at, source })?;
            }
            self.at += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// So many zeros.
    pub fn skip(&mut self, length: u64) -> Result<(), WriteError> {
        self.has_room(length)?;
        let in_head = length.min(HEAD.saturating_sub(self.at));
        self.head.resize(self.head.len() + usize::try_from(in_head).unwrap_or(0), 0);
        self.zeros += length - in_head;
        self.at += length;
        Ok(())
    }

    /// The image ends here; what follows on the disk is left alone. What was held back is the caller's.
    pub fn finish(mut self) -> Result<(Vec<u8>, u64), WriteError> {
        self.flush_zeros()?;
        Ok((self.head, self.at))
    }

    fn has_room(&self, length: u64) -> Result<(), WriteError> {
        let disk = self.target.size();
        let fits = self.at.checked_add(length).is_some_and(|end| end <= disk);
        if fits { Ok(()) } else { Err(WriteError::TooLong { disk }) }
    }

    fn flush_zeros(&mut self) -> Result<(), WriteError> {
        let (length, at) = (std::mem::take(&mut self.zeros), self.at);
        if length > 0 {
            let start = at - length;
            self.target.zero(start, length).map_err(|source| WriteError::Write { at: start, source })?;
        }
        Ok(())
    }
}
