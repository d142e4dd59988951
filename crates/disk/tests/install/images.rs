//! Images of a system with a partition for its config.

use std::io::Write;

use flate2::{Compression, write::DeflateEncoder, write::GzEncoder};

/// Where the partition `OEM` begins and ends, in sectors of 512 bytes.
pub const OEM: (u64, u64) = (4096, 6143);

/// A disk of 4 MiB and a bit with a GPT, two partitions, data here and there, and zeros between.
pub fn system() -> Vec<u8> {
    let mut image = vec![0; (4 << 20) + 4096];
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[512..520].copy_from_slice(b"EFI PART");
    image[512 + 72..512 + 80].copy_from_slice(&2u64.to_le_bytes());
    image[512 + 80..512 + 84].copy_from_slice(&128u32.to_le_bytes());
    image[512 + 84..512 + 88].copy_from_slice(&128u32.to_le_bytes());
    for (index, (name, first, last)) in [("EFI-SYSTEM", 2048, 4095), ("OEM", OEM.0, OEM.1)].into_iter().enumerate() {
        let entry = 1024 + index * 128;
        image[entry..entry + 16].copy_from_slice(&[0x28 + index as u8; 16]);
        image[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
        image[entry + 40..entry + 48].copy_from_slice(&last.to_le_bytes());
        for (place, unit) in name.encode_utf16().enumerate() {
            image[entry + 56 + place * 2..entry + 58 + place * 2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    for at in [1 << 20, (1 << 20) + 70_000, (2 << 20) + 5, (3 << 20) + 65_535, (4 << 20) + 100] {
        for (number, byte) in image[at..at + 3000].iter_mut().enumerate() {
            *byte = (at + number * 7) as u8 | 1;
        }
    }
    image
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// How a QCOW2 is made.
#[derive(Clone, Copy)]
pub struct Qcow2 {
    pub version: u32,
    pub cluster_bits: u32,
    /// None: plain. Else clusters are packed so.
    pub packed: Option<Packed>,
    /// Its parts are in the opposite order: data before tables, the end before the beginning.
    pub backwards: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Packed {
    Deflate,
    Zstd,
}

impl Qcow2 {
    pub fn of(self, disk: &[u8]) -> Vec<u8> {
        let cluster = 1usize << self.cluster_bits;
        let per_table = cluster / 8;
        let clusters: Vec<&[u8]> = disk.chunks(cluster).collect();
        let tables = clusters.len().div_ceil(per_table);
        let l1_clusters = (tables * 8).div_ceil(cluster);
        // Header, then what the tables need; data follows, or (backwards) comes in between.
        let mut file = vec![0u8; cluster];
        let reserve = |file: &mut Vec<u8>, length: usize| {
            file.resize(file.len().next_multiple_of(cluster), 0);
            let at = file.len();
            file.resize(at + length, 0);
            at
        };
        let (mut l1, mut l2) = (0, Vec::new());
        if !self.backwards {
            l1 = reserve(&mut file, l1_clusters * cluster);
            l2 = (0..tables).map(|_| reserve(&mut file, cluster)).collect();
        }
        let mut entries = vec![0u64; clusters.len()];
        let order: Vec<usize> =
            if self.backwards { (0..clusters.len()).rev().collect() } else { (0..clusters.len()).collect() };
        for index in order {
            let mut data = clusters[index].to_vec();
            if data.iter().all(|byte| *byte == 0) {
                // A version 3 image may say so, or leave it out.
                entries[index] = if self.version == 3 && index % 2 == 0 { 1 } else { 0 };
                continue;
            }
            data.resize(cluster, 0);
            entries[index] = match self.packed {
                None => {
                    let at = reserve(&mut file, cluster);
                    file[at..at + cluster].copy_from_slice(&data);
                    at as u64 | 1 << 63
                }
                Some(packed) => {
                    let bytes = match packed {
                        Packed::Deflate => {
                            let mut packer = DeflateEncoder::new(Vec::new(), Compression::best());
                            packer.write_all(&data).expect("packed");
                            packer.finish().expect("packed")
                        }
                        Packed::Zstd => zstd(&data),
                    };
                    let at = file.len();
                    file.extend_from_slice(&bytes);
                    let bits = 62 - (self.cluster_bits - 8);
                    let sectors = ((at + bytes.len() - 1) / 512 - at / 512) as u64;
                    1 << 62 | sectors << bits | at as u64
                }
            };
        }
        if self.backwards {
            l2 = (0..tables).rev().map(|_| reserve(&mut file, cluster)).collect();
            l2.reverse();
            l1 = reserve(&mut file, l1_clusters * cluster);
        }
        for (table, entries) in entries.chunks(per_table).enumerate() {
            let empty = entries.iter().all(|entry| *entry == 0);
            let pointer = if empty { 0 } else { l2[table] as u64 | 1 << 63 };
            file[l1 + table * 8..][..8].copy_from_slice(&pointer.to_be_bytes());
            for (index, entry) in entries.iter().enumerate() {
                file[l2[table] + index * 8..][..8].copy_from_slice(&entry.to_be_bytes());
            }
        }
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb");
        put(4, &self.version.to_be_bytes());
        put(20, &self.cluster_bits.to_be_bytes());
        put(24, &(disk.len() as u64).to_be_bytes());
        put(36, &(tables as u32).to_be_bytes());
        put(40, &(l1 as u64).to_be_bytes());
        if self.version == 3 {
            put(100, &112u32.to_be_bytes());
            if self.packed == Some(Packed::Zstd) {
                put(72, &8u64.to_be_bytes());
                put(104, &[1]);
            }
        }
        file
    }
}
