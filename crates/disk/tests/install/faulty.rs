//! A disk in memory whose power fails when it is told to, and images for it.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use magnetite_api::install::WipeMethod;
use magnetite_disk::{source::Source, target::Target};

/// What a disk writes at once, whatever happens.
const SECTOR: usize = 512;

/// A disk with a cache: what was not synced may be there after a power cut, or not, sector by sector.
#[derive(Clone)]
pub struct FaultyDisk {
    /// What is on the medium.
    medium: Vec<u8>,
    /// What is read: the medium and the cache.
    seen: Vec<u8>,
    /// Sectors that are in the cache alone.
    cached: BTreeMap<usize, Vec<u8>>,
    /// How many more writes, zeroings and syncs there are before the power fails.
    pub fuel: usize,
}

impl FaultyDisk {
    /// A disk full of an older system.
    pub fn used(size: usize) -> Self {
        let mut seen: Vec<u8> = (0..size).map(|at| (at % 251) as u8 | 1).collect();
        seen[510..512].copy_from_slice(&[0x55, 0xaa]);
        Self { medium: seen.clone(), seen, cached: BTreeMap::new(), fuel: usize::MAX }
    }

    /// What the box finds once the power is back; `chance` says of each sector that was not synced whether it got there.
    pub fn after_power_cut(mut self, mut chance: impl FnMut() -> bool) -> Self {
        for (sector, bytes) in std::mem::take(&mut self.cached) {
            if chance() {
                self.medium[sector * SECTOR..][..bytes.len()].copy_from_slice(&bytes);
            }
        }
        Self { seen: self.medium.clone(), cached: BTreeMap::new(), fuel: usize::MAX, ..self }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.seen
    }

    /// True if a firmware would try to start what is there: UEFI wants this of a GPT too (its protective MBR).
    pub fn is_bootable(&self) -> bool {
        self.seen[510..512] == [0x55, 0xaa]
    }

    fn burn(&mut self) -> io::Result<()> {
        self.fuel = self.fuel.checked_sub(1).ok_or_else(|| io::Error::other("the power failed"))?;
        Ok(())
    }

    fn touch(&mut self, offset: usize, length: usize) {
        for sector in offset / SECTOR..(offset + length).div_ceil(SECTOR) {
            let end = ((sector + 1) * SECTOR).min(self.seen.len());
            self.cached.insert(sector, self.seen[sector * SECTOR..end].to_vec());
        }
    }
}

impl Target for FaultyDisk {
    fn size(&self) -> u64 {
        self.seen.len() as u64
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.seen[offset as usize..][..buffer.len()]);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.burn()?;
        self.seen[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        self.touch(offset as usize, bytes.len());
        Ok(())
    }
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<WipeMethod> {
        self.burn()?;
        self.seen[offset as usize..][..length as usize].fill(0);
        self.touch(offset as usize, length as usize);
        Ok(WipeMethod::Zeroed)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.burn()?;
        for (sector, bytes) in std::mem::take(&mut self.cached) {
            self.medium[sector * SECTOR..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

/// An image that comes whole.
pub struct Fixed(pub Vec<u8>);

impl Source for Fixed {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let rest = self.0.get(offset as usize..).unwrap_or_default().to_vec();
        Ok(Box::new(io::Cursor::new(rest)))
    }
}

/// An image whose stream breaks after so many bytes, each time.
pub struct Broken {
    pub image: Vec<u8>,
    pub after: usize,
    /// How often it was opened.
    pub opened: usize,
}

impl Source for Broken {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        self.opened += 1;
        let rest = self.image.get(offset as usize..).unwrap_or_default();
        let now = rest[..rest.len().min(self.after)].to_vec();
        let whole = now.len() == rest.len();
        Ok(Box::new(io::Cursor::new(now).chain(Breaks(!whole))))
    }
}

struct Breaks(bool);

impl Read for Breaks {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        if self.0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(0) }
    }
}
