//! QCOW2, versions 2 and 3: as QEMU's docs/interop/qcow2.txt describes it.
//!
//! What an image says of itself is believed only within bounds: its size by the disk, its tables by its size, a cluster by two MiB. What cannot be
//! installed faithfully (a backing file, encryption, data in another file, extended L2 entries) is refused by name.

use std::io::{self, Read};

use ruzstd::decoding::StreamingDecoder;

use crate::{
    source::Parts,
    sparse::{Sparse, WriteError},
};

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// It does not begin as one.
    #[error("it does not begin as a QCOW2 does; what does spec.install.format have to be?")]
    NoQcow2,
    /// A version that we do not know.
    #[error("it is of version {0}; 2 and 3 can be installed")]
    Version(u32),
    /// It has something that cannot be installed.
    #[error("it has {0}, which cannot be installed; `qemu-img convert -O qcow2 IN OUT` makes one without")]
    Unsupported(&'static str),
    /// It contradicts itself.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// There is more image than disk.
    #[error("it is a disk of {image} bytes, and the box's has {disk}")]
    TooLong {
        /// Size of the disk that it is of.
        image: u64,
        /// Size of the disk that it should come onto.
        disk: u64,
    },
    /// It could not be read.
    #[error("it could not be read at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// A packed cluster cannot be unpacked.
    #[error("its cluster for byte {at} of the disk could not be unpacked")]
    Cluster {
        /// Where on the disk it belongs.
        at: u64,
    },
    /// It could not be written.
    #[error("it could not be written")]
    Write(#[from] WriteError),
}

/// How clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Deflate without a head.
    Deflate,
    /// One zstd frame.
    Zstd,
}

/// What an image's first bytes say, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// A cluster has `1 << cluster_bits` bytes; 9 to 21.
    pub cluster_bits: u32,
    /// Size of the disk, in bytes.
    pub size: u64,
    /// Where the table of tables begins, in bytes.
    pub l1_offset: u64,
    /// How many entries it has.
    pub l1_entries: u32,
    /// Version 3 may say of a cluster that it is zeros.
    pub zero_clusters: bool,
    /// How clusters are packed.
    pub packing: Packing,
}

/// As many bytes as a header is read from.
pub const HEADER: usize = 112;
/// QEMU's own bound of the table of tables, in bytes.
const LARGEST_L1: u64 = 32 << 20;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Reads a header; looks at no more than [`HEADER`] bytes.
pub fn read_header(bytes: &[u8]) -> Result<Header, Qcow2Error> {
    const SHORT: Qcow2Error = Qcow2Error::Damaged("its header is cut off");
    let int = |at| u32_at(bytes, at).ok_or(SHORT);
    let long = |at| u64_at(bytes, at).ok_or(SHORT);
    if bytes.get(..4) != Some(b"QFI\xfb") {
        return Err(Qcow2Error::NoQcow2);
    }
    let version = int(4)?;
    if !matches!(version, 2 | 3) {
        return Err(Qcow2Error::Version(version));
    }
    if long(8)? != 0 {
        return Err(Qcow2Error::Unsupported("a backing file"));
    }
    if int(32)? != 0 {
        return Err(Qcow2Error::Unsupported("encryption"));
    }
    let cluster_bits = int(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Qcow2Error::Damaged("its clusters are of no size that there is"));
    }
    let mut packing = Packing::Deflate;
    if version == 3 {
        let incompatible = long(72)?;
        for (bit, what) in
            [(1, "damage that it says itself"), (2, "its data in another file"), (4, "extended L2 entries")]
        {
            if incompatible & (1 << bit) != 0 {
                return Err(Qcow2Error::Unsupported(what));
            }
        }
        // 0: somebody did not close it, which concerns only its reference counts. 3: clusters are packed in another way.
        if incompatible & !0b1_1111 != 0 {
            return Err(Qcow2Error::Unsupported("a feature that nobody knew when this was written"));
        }
        let packed = if int(100)? > 104 { bytes.get(104).copied().ok_or(SHORT)? } else { 0 };
        packing = match packed {
            0 => Packing::Deflate,
            1 => Packing::Zstd,
            _ => return Err(Qcow2Error::Unsupported("clusters packed in an unknown way")),
        };
    }
    let header = Header {
        cluster_bits,
        size: long(24)?,
        l1_offset: long(40)?,
        l1_entries: int(36)?,
        zero_clusters: version == 3,
        packing,
    };
    let entries = header.l1_needed().ok_or(Qcow2Error::Damaged("it says that it is larger than any disk"))?;
    if entries > u64::from(header.l1_entries) || entries * 8 > LARGEST_L1 {
        return Err(Qcow2Error::Damaged("its table of tables does not fit its size"));
    }
    Ok(header)
}

impl Header {
    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one table speaks of.
    fn table_spans(&self) -> u64 {
        self.cluster() * (self.cluster() / 8)
    }

    /// How many tables the disk needs.
    fn l1_needed(&self) -> Option<u64> {
        (self.size < 1 << 56).then(|| self.size.div_ceil(self.table_spans()))
    }
}

/// What a table says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    Zeros,
    Plain { offset: u64 },
    Packed { offset: u64, length: u64 },
}

/// Bits 9 to 55: where something is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Reads an image cluster by cluster, in the order of the disk.
pub struct Reader<'a, 'b> {
    image: &'a mut Parts<'b>,
    header: Header,
}

impl<'a, 'b> Reader<'a, 'b> {
    /// Reads the header. `disk` is the size that the image may have at most.
    pub fn open(image: &'a mut Parts<'b>, disk: u64) -> Result<Self, Qcow2Error> {
        let mut bytes = vec![0; HEADER.min(usize::try_from(image.size).unwrap_or(HEADER))];
        image.read_at(0, &mut bytes).map_err(|source| Qcow2Error::Read { at: 0, source })?;
        let header = read_header(&bytes)?;
        if header.size > disk {
            return Err(Qcow2Error::TooLong { image: header.size, disk });
        }
        Ok(Self { image, header })
    }

    /// Writes the whole disk. `progress` is told how many bytes of it are done.
    pub fn copy(&mut self, sparse: &mut Sparse<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), Qcow2Error> {
        let (cluster, header) = (self.header.cluster(), self.header);
        let mut bytes = vec![0; usize::try_from(cluster).unwrap_or(0)];
        let mut table = bytes.clone();
        for index in 0..header.l1_needed().unwrap_or(0) {
            let start = index * header.table_spans();
            let end = (start + header.table_spans()).min(header.size);
            let mut entry = [0; 8];
            self.read(header.l1_offset.saturating_add(index * 8), &mut entry)?;
            let offset = u64::from_be_bytes(entry) & OFFSET;
            if offset == 0 {
                sparse.skip(end - start)?;
                progress(end);
                continue;
            }
            self.read(offset, &mut table)?;
            for (number, entry) in table.chunks_exact(8).enumerate() {
                let at = start + number as u64 * cluster;
                if at >= end {
                    break;
                }
                let length = cluster.min(header.size - at);
                let entry = entry.try_into().map(u64::from_be_bytes).unwrap_or(0);
                match self.judge(entry) {
                    Cluster::Zeros => sparse.skip(length)?,
                    Cluster::Plain { offset } => {
                        let part = &mut bytes[..usize::try_from(length).unwrap_or(0)];
                        self.read(offset, part)?;
                        sparse.write(part)?;
                    }
                    Cluster::Packed { offset, length: packed } => {
                        self.unpack(at, offset, packed, &mut bytes)?;
                        sparse.write(&bytes[..usize::try_from(length).unwrap_or(0)])?;
                    }
                }
                progress(at + length);
            }
        }
        Ok(())
    }

    fn judge(&self, entry: u64) -> Cluster {
        if entry & (1 << 62) != 0 {
            // The lower part is where it begins, the upper how many sectors it touches beyond the first.
            let bits = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << bits) - 1);
            let sectors = (entry & !(0b11 << 62)) >> bits;
            let length = (offset & !511).saturating_add((sectors + 1) * 512) - offset;
            return Cluster::Packed { offset, length };
        }
        match entry & OFFSET {
            _ if self.header.zero_clusters && entry & 1 == 1 => Cluster::Zeros,
            0 => Cluster::Zeros,
            offset => Cluster::Plain { offset },
        }
    }

    fn unpack(&mut self, at: u64, offset: u64, length: u64, bytes: &mut [u8]) -> Result<(), Qcow2Error> {
        // At most two clusters, by the width of its field. The last one's last sector may be cut off with the file.
        let length = length.min(self.image.size.saturating_sub(offset));
        let mut packed = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(offset, &mut packed)?;
        let whole = match self.header.packing {
            Packing::Deflate => flate2::read::DeflateDecoder::new(packed.as_slice()).read_exact(bytes).is_ok(),
            Packing::Zstd => {
                StreamingDecoder::new(packed.as_slice()).is_ok_and(|mut frame| frame.read_exact(bytes).is_ok())
            }
        };
        if whole { Ok(()) } else { Err(Qcow2Error::Cluster { at }) }
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Qcow2Error> {
        let end = at.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.image.size) {
            // A data cluster at the end of the file may be cut: QEMU reads zeros there. A table may not.
            let there = usize::try_from(self.image.size.saturating_sub(at)).unwrap_or(0).min(buffer.len());
            if there == 0 {
                return Err(Qcow2Error::Damaged("it points behind its own end"));
            }
            let (now, rest) = buffer.split_at_mut(there);
            rest.fill(0);
            return self.image.read_at(at, now).map_err(|source| Qcow2Error::Read { at, source });
        }
        self.image.read_at(at, buffer).map_err(|source| Qcow2Error::Read { at, source })
    }
}
