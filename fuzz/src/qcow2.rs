//! An image of a disk in QEMU's format, which a Profile's author names and whose sum is right: all else of it may be made to do harm.

use std::io::{self, Read};

use magnetite_api::{
    Sha256,
    install::{ImageFormat, WipeMethod},
};
use magnetite_disk::{image, source::Source, sparse::HEAD, target::Target};

/// Size of the disk.
const DISK: u64 = 4 << 20;

/// A disk that remembers only where it was touched.
struct Bounded {
    end: u64,
}

impl Target for Bounded {
    fn size(&self) -> u64 {
        DISK
    }
    fn read_at(&mut self, _: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset >= HEAD, "what makes a disk bootable is held back");
        assert!(offset >= self.end, "the image is written in the order of the disk");
        self.end = offset + bytes.len() as u64;
        assert!(self.end <= DISK, "nothing is written behind the disk");
        Ok(())
    }
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<WipeMethod> {
        assert!(offset >= HEAD && offset >= self.end, "as for what is written");
        self.end = offset + length;
        assert!(self.end <= DISK, "nothing is zeroed behind the disk");
        Ok(WipeMethod::Zeroed)
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let rest = self.0.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        Ok(Box::new(io::Cursor::new(rest.to_vec())))
    }
}

/// Whatever an image says, it is refused or it is a disk of the size that it says, which is no larger than the one that there is; and what it says
/// of itself is no size of anything in memory.
pub fn check(bytes: &[u8]) {
    let header = image::read_header(bytes);
    let mut disk = Bounded { end: 0 };
    let mut source = Bytes(bytes.to_vec());
    let mut written = None;
    let used = allocation_counter::measure(|| {
        written = Some(image::write(&mut source, ImageFormat::Qcow2, Sha256::of(bytes), &mut disk, &mut |_, _| {}));
    });
    // Two clusters of two MiB each, what was held back, a part of the image, and what unpacks a cluster.
    let most = (32 << 20) + 8 * bytes.len() as u64;
    assert!(used.bytes_max <= most, "{} bytes held at once for an image of {}", used.bytes_max, bytes.len());
    if let Some(Ok(written)) = written {
        let header = header.expect("what is installed has a header that can be read");
        assert!(written.size == header.size && written.size <= DISK);
        assert_eq!(written.head.len() as u64, written.size.min(HEAD));
    }
}
