//! A disk as bytes: read, written, zeroed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use magnetite_api::install::WipeMethod;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise},
};

/// A disk, or what stands for one in a test. All offsets and lengths are bytes.
pub trait Target {
    /// Size.
    fn size(&self) -> u64;
    /// Fills `buffer` with what is at `offset`.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. They are sure to be there after [`Target::sync`], and not before.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a range read as zeros, as cheaply as it can. Says how.
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<WipeMethod>;
    /// Everything written is on the medium when this returns.
    fn sync(&mut self) -> io::Result<()>;
}

/// The most that is zeroed by one call: a drive that does it slowly must not look as if it hung.
const ZEROED_AT_ONCE: u64 = 1 << 30;
/// What is written at once where neither drive nor kernel zero.
const OVERWRITTEN_AT_ONCE: usize = 1 << 20;

/// A block device, or a file.
#[derive(Debug)]
pub struct BlockTarget {
    file: File,
    size: u64,
    /// What worked last: what a device refused once it refuses always.
    method: WipeMethod,
}

impl BlockTarget {
    /// Opens a disk for itself alone: one that is mounted, or that a RAID or volume group stands on, is refused with `EBUSY`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = std::fs::metadata(path)?.file_type().is_block_device();
        // Without O_CREAT, O_EXCL is of a meaning for block devices only.
        let flags = if device { OFlag::O_EXCL } else { OFlag::empty() } | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self { file, size, method: WipeMethod::Unmapped })
    }

    /// Opens a disk to read what it says of itself, whoever else uses it. Nothing can be written.
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_CLOEXEC.bits()).open(path)?;
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self { file, size, method: WipeMethod::Unmapped })
    }

    fn zero_by(&self, method: WipeMethod, offset: u64, length: u64) -> io::Result<()> {
        let long = |number: u64| i64::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match method {
            // Both promise zeros afterwards, of a block device too (Linux 4.9): the first lets the device give the blocks back, and fails where
            // the device cannot promise it; the second writes zeros where the device has nothing better.
            WipeMethod::Unmapped => {
                fallocate(&self.file, keep | FallocateFlags::FALLOC_FL_PUNCH_HOLE, long(offset)?, long(length)?)?;
            }
            WipeMethod::Zeroed => {
                fallocate(&self.file, keep | FallocateFlags::FALLOC_FL_ZERO_RANGE, long(offset)?, long(length)?)?;
            }
            // The others are the drive's own, and of the whole of it.
            WipeMethod::Overwritten | WipeMethod::NvmeFormat | WipeMethod::AtaSecureErase => {
                let zeros = vec![0; OVERWRITTEN_AT_ONCE];
                let mut done = 0;
                while done < length {
                    let part = usize::try_from(length - done).unwrap_or(usize::MAX).min(zeros.len());
                    self.file.write_all_at(&zeros[..part], offset + done)?;
                    done += part as u64;
                }
            }
        }
        Ok(())
    }
}

impl Target for BlockTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<WipeMethod> {
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROED_AT_ONCE);
            match self.zero_by(self.method, offset + done, part) {
                Ok(()) => done += part,
                Err(error) => {
                    self.method = match self.method {
                        WipeMethod::Unmapped => WipeMethod::Zeroed,
                        WipeMethod::Zeroed if cannot(&error) => WipeMethod::Overwritten,
                        WipeMethod::Zeroed
                        | WipeMethod::Overwritten
                        | WipeMethod::NvmeFormat
                        | WipeMethod::AtaSecureErase => return Err(error),
                    }
                }
            }
        }
        Ok(self.method)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        // What is read back afterwards is to come from the medium, and not from memory.
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }
}

/// True of an error that says "not I", and not "it failed".
fn cannot(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::ENODEV | Errno::EREMOTEIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_zeroed_in_every_way() {
        for method in [WipeMethod::Unmapped, WipeMethod::Zeroed, WipeMethod::Overwritten] {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), vec![7; 300_000]).expect("written");
            let mut target = BlockTarget { method, ..BlockTarget::open(file.path()).expect("opened") };
            assert_eq!(target.size(), 300_000);
            target.zero(100_001, 150_000).expect("zeroed");
            target.sync().expect("synced");
            let bytes = std::fs::read(file.path()).expect("read");
            assert_eq!(bytes.len(), 300_000);
            assert!(bytes[..100_001].iter().chain(&bytes[250_001..]).all(|byte| *byte == 7), "{method:?}");
            assert!(bytes[100_001..250_001].iter().all(|byte| *byte == 0), "{method:?}");
        }
    }
}
