//! An image as bytes that come: summed while they do, never more than was agreed, and once more in parts that are the same.

use std::io::{self, Read};

use magnetite_api::Sha256;
use sha2::{Digest, Sha256 as Hasher};

/// Where an image comes from.
pub trait Source {
    /// Its bytes from `offset` to its end.
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// How often in a row a stream that broke is taken up where it broke, before the install fails. The agent then begins anew.
const RESUMED: u32 = 8;
/// After so many bytes it is no longer in a row: an image of many gigabytes may break more often.
const IN_A_ROW: u64 = 1 << 20;

/// The image from its beginning, summed as it is read.
pub struct Summed<'a> {
    source: &'a mut dyn Source,
    stream: Option<Box<dyn Read + Send>>,
    /// Bytes so far.
    pub read: u64,
    most: u64,
    hasher: Hasher,
    resumed: u32,
    /// Where it broke last.
    broke_at: u64,
}

impl<'a> Summed<'a> {
    /// Reads at most `most` bytes of a source; one that is longer is an error.
    pub fn new(source: &'a mut dyn Source, most: u64) -> Self {
        Self { source, stream: None, read: 0, most, hasher: Hasher::new(), resumed: 0, broke_at: 0 }
    }

    /// Reads what is left, and says the sum of all.
    pub fn finish(mut self) -> io::Result<Sha256> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest)? > 0 {}
        Ok(Sha256(self.hasher.finalize().into()))
    }
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(self.source.open(self.read)?),
            };
            match stream.read(buffer) {
                Ok(length) => {
                    self.hasher.update(&buffer[..length]);
                    self.read += length as u64;
                    if self.read > self.most {
                        return Err(io::Error::other(format!("the image has more than {} bytes", self.most)));
                    }
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let on = self.read - std::mem::replace(&mut self.broke_at, self.read) >= IN_A_ROW;
                    self.resumed = if on { 1 } else { self.resumed + 1 };
                    if self.resumed > RESUMED {
                        return Err(error);
                    }
                    self.stream = None;
                }
            }
        }
    }
}

/// Bytes of a part that is summed by itself.
pub const PART: u64 = 1 << 20;
/// The longest image that is read in parts: their sums are kept in memory.
pub const LONGEST: u64 = 1 << 40;

/// An image that was read once, and summed in parts meanwhile: what is read of it again is the same, whoever sends it.
pub struct Parts<'a> {
    source: &'a mut dyn Source,
    sums: Vec<[u8; 32]>,
    /// Size of the image.
    pub size: u64,
    /// A part that is at hand.
    kept: Option<(u64, Vec<u8>)>,
    /// A stream, and the part that it stands before.
    stream: Option<(u64, Box<dyn Read + Send>)>,
    resumed: u32,
}

impl<'a> Parts<'a> {
    /// Reads the whole image once. Fails if it has another sum than it must.
    pub fn first_reading(
        source: &'a mut dyn Source,
        wanted: Sha256,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, PartsError> {
        let mut summed = Summed::new(source, LONGEST);
        let (mut sums, mut part) = (Vec::new(), Vec::new());
        loop {
            part.clear();
            (&mut summed).take(PART).read_to_end(&mut part).map_err(PartsError::Read)?;
            if part.is_empty() {
                break;
            }
            sums.push(Hasher::digest(&part).into());
            progress(summed.read);
        }
        let size = summed.read;
        let found = summed.finish().map_err(PartsError::Read)?;
        if found != wanted {
            return Err(PartsError::WrongSum { found });
        }
        Ok(Self { source, sums, size, kept: None, stream: None, resumed: 0 })
    }

    /// Fills `buffer` with what is at `offset`. What is behind the end is an error.
    pub fn read_at(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let within = usize::try_from(offset % PART).map_err(io::Error::other)?;
            let part = self.part(offset / PART)?;
            let there = part.get(within..).filter(|rest| !rest.is_empty()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = there.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(length);
            now.copy_from_slice(&there[..length]);
            offset += length as u64;
            buffer = later;
        }
        Ok(())
    }

    fn part(&mut self, index: u64) -> io::Result<&[u8]> {
        if self.kept.as_ref().is_none_or(|(kept, _)| *kept != index) {
            let sum = usize::try_from(index).ok().and_then(|index| self.sums.get(index)).copied();
            let sum = sum.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.kept = Some((index, self.fetch(index, sum)?));
        }
        Ok(self.kept.as_ref().map_or(&[], |(_, bytes)| bytes))
    }

    fn fetch(&mut self, index: u64, sum: [u8; 32]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let mut stream = match self.stream.take() {
                Some((at, stream)) if at == index && bytes.is_empty() => stream,
                _ => self.source.open(index * PART + bytes.len() as u64)?,
            };
            let failed = match (&mut stream).take(PART - bytes.len() as u64).read_to_end(&mut bytes) {
                Ok(_) if <[u8; 32]>::from(Hasher::digest(&bytes)) == sum => {
                    self.resumed = 0;
                    self.stream = Some((index + 1, stream));
                    return Ok(bytes);
                }
                Ok(_) => {
                    bytes.clear();
                    io::Error::new(io::ErrorKind::InvalidData, "the image changed while it was read")
                }
                Err(error) => error,
            };
            self.resumed += 1;
            if self.resumed > RESUMED {
                return Err(failed);
            }
        }
    }
}

/// Why an image could not be read once.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// It did not come.
    #[error("the image could not be read")]
    Read(#[source] io::Error),
    /// It is another one.
    #[error("the image has the SHA-256 {found}")]
    WrongSum {
        /// What it has.
        found: Sha256,
    },
}
