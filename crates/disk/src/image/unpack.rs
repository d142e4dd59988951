//! Raw, gzip and zstd: one stream each.

use std::{
    cell::RefCell,
    io::{self, BufRead, BufReader, Read},
};

use flate2::bufread::MultiGzDecoder;
use magnetite_api::install::ImageFormat;
use ruzstd::decoding::{
    StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::fill;
use crate::{source::Summed, sparse::WriteError};

/// Why no more is unpacked.
#[derive(Debug)]
pub enum Stop {
    /// The bytes do not come.
    Read(io::Error),
    /// The bytes are nonsense.
    Unpack(io::Error),
    /// The bytes cannot be written.
    Write(WriteError),
}

/// A source that remembers its own error: decoders do not tell it from theirs.
struct Told<'a, 'b> {
    summed: &'a mut Summed<'b>,
    error: &'a RefCell<Option<io::Error>>,
    fetched: &'a RefCell<u64>,
}

impl Read for Told<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.summed.read(buffer);
        *self.fetched.borrow_mut() = self.summed.read;
        read.map_err(|error| {
            let kind = error.kind();
            *self.error.borrow_mut() = Some(error);
            io::Error::from(kind)
        })
    }
}

type Sink<'a> = dyn FnMut(&[u8], u64) -> Result<(), WriteError> + 'a;

/// Unpacks a stream; gives `sink` the bytes in order, with how many were fetched so far.
pub fn each(summed: &mut Summed<'_>, format: ImageFormat, buffer: &mut [u8], sink: &mut Sink<'_>) -> Result<(), Stop> {
    let (error, fetched) = (RefCell::new(None), RefCell::new(0));
    let told = Told { summed, error: &error, fetched: &fetched };
    let mut reader = BufReader::with_capacity(256 << 10, told);
    let mut sink = |bytes: &[u8]| sink(bytes, *fetched.borrow());
    let done = match format {
        // Qcow2 is no stream and never comes here; read byte by byte it would be as wrong as any.
        ImageFormat::Raw | ImageFormat::Qcow2 => copy(&mut reader, buffer, &mut sink),
        ImageFormat::Gzip => copy(&mut MultiGzDecoder::new(&mut reader), buffer, &mut sink),
        ImageFormat::Zstd => frames(&mut reader, buffer, &mut sink),
    };
    drop(reader);
    match (done, error.into_inner()) {
        (Err(Stop::Unpack(_)), Some(error)) => Err(Stop::Read(error)),
        (done, _) => done,
    }
}

fn copy(
    reader: &mut dyn Read,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), Stop> {
    loop {
        match fill(reader, buffer).map_err(Stop::Unpack)? {
            0 => return Ok(()),
            length => sink(&buffer[..length]).map_err(Stop::Write)?,
        }
    }
}

/// Frames one after another, and between them such as carry no data (RFC 8878, 3.1.2).
fn frames(
    reader: &mut dyn BufRead,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), Stop> {
    while !reader.fill_buf().map_err(Stop::Unpack)?.is_empty() {
        match StreamingDecoder::new(&mut *reader) {
            Ok(mut frame) => copy(&mut frame, buffer, sink)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                let skipped = io::copy(&mut (&mut *reader).take(length), &mut io::sink()).map_err(Stop::Unpack)?;
                if skipped < length {
                    return Err(Stop::Unpack(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Err(error) => return Err(Stop::Unpack(io::Error::new(io::ErrorKind::InvalidData, error.to_string()))),
        }
    }
    Ok(())
}
