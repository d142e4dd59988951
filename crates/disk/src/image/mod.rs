//! Images of disks: from the bytes that come to the bytes of the disk. Nothing here is sized by what the image says of itself.

mod qcow2;
mod unpack;

use std::io::{self, Read};

use magnetite_api::{Sha256, install::ImageFormat};

pub use qcow2::{Qcow2Error, Reader, read_header};

use crate::{
    source::{Parts, PartsError, Source, Summed},
    sparse::{Sparse, WriteError},
    target::Target,
};

/// Why an image is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It did not come.
    #[error("the image could not be read to its end")]
    Read(#[source] io::Error),
    /// It is not what it is said to be.
    #[error("the image could not be unpacked as spec.install.format says ({format:?})")]
    Unpack {
        /// What it is said to be.
        format: ImageFormat,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// It is no QCOW2 that we take.
    #[error("the image is not a QCOW2 that can be installed")]
    Qcow2(#[from] Qcow2Error),
    /// It cannot be written.
    #[error("the image could not be written")]
    Write(#[from] WriteError),
    /// It is another image.
    #[error("the image has the SHA-256 {found}, not {wanted}; nothing bootable was written")]
    WrongSum {
        /// What it has.
        found: Sha256,
        /// What it must have.
        wanted: Sha256,
    },
    /// It has no bytes.
    #[error("the image is empty")]
    Empty,
}

/// What a written image leaves to be done.
#[derive(Debug)]
pub struct Written {
    /// The first bytes, which are not on the disk yet: at most [`crate::sparse::HEAD`].
    pub head: Vec<u8>,
    /// Size of the unpacked image, in bytes.
    pub size: u64,
}

/// How much more than the disk a packed image may have: what cannot be packed grows a little.
const OVERHEAD: u64 = 64 << 20;
/// What is unpacked at once.
const AT_ONCE: usize = 1 << 20;

/// Fetches an image, unpacks it, and writes it, but for its head. Fails if its sum is not the wanted one. `progress` is told bytes of the
/// disk that are done, and of them that were fetched.
pub fn write(
    source: &mut dyn Source,
    format: ImageFormat,
    wanted: Sha256,
    target: &mut dyn Target,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Written, ImageError> {
    let written = match format {
        ImageFormat::Raw | ImageFormat::Gzip | ImageFormat::Zstd => stream(source, format, wanted, target, progress)?,
        ImageFormat::Qcow2 => {
            let mut parts = Parts::first_reading(source, wanted, &mut |fetched| progress(0, fetched)).map_err(
                |error| match error {
                    PartsError::Read(error) => ImageError::Read(error),
                    PartsError::WrongSum { found } => ImageError::WrongSum { found, wanted },
                },
            )?;
            let fetched = parts.size;
            let mut reader = Reader::open(&mut parts, target.size())?;
            let mut sparse = Sparse::new(target);
            reader.copy(&mut sparse, &mut |done| progress(done, fetched))?;
            let (head, size) = sparse.finish()?;
            Written { head, size }
        }
    };
    if written.size == 0 { Err(ImageError::Empty) } else { Ok(written) }
}

fn stream(
    source: &mut dyn Source,
    format: ImageFormat,
    wanted: Sha256,
    target: &mut dyn Target,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Written, ImageError> {
    let most = target.size().saturating_add(OVERHEAD);
    let mut summed = Summed::new(source, most);
    let mut sparse = Sparse::new(target);
    let mut buffer = vec![0; AT_ONCE];
    let unpacked = unpack::each(&mut summed, format, &mut buffer, &mut |bytes, fetched| {
        sparse.write(bytes)?;
        progress(sparse.at, fetched);
        Ok(())
    });
    match unpacked {
        Ok(()) => {}
        // A wrong byte shows as nonsense before it shows in the sum: whose fault it is, the sum knows.
        Err(unpack::Stop::Unpack(source)) => {
            let found = summed.finish().map_err(ImageError::Read)?;
            return Err(if found == wanted {
                ImageError::Unpack { format, source }
            } else {
                ImageError::WrongSum { found, wanted }
            });
        }
        Err(unpack::Stop::Read(error)) => return Err(ImageError::Read(error)),
        Err(unpack::Stop::Write(error)) => return Err(error.into()),
    }
    let found = summed.finish().map_err(ImageError::Read)?;
    if found != wanted {
        return Err(ImageError::WrongSum { found, wanted });
    }
    let (head, size) = sparse.finish()?;
    Ok(Written { head, size })
}

/// Reads to the end of `buffer` or of what there is; says how much.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
