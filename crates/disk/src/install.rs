//! One install, step by step, so that the power may fail at any moment: the disk is either such that nothing boots from it, or whole.
//!
//! 1. What was bootable, and what an older install said of itself, is zeroed: the first and the last MiB.
//! 2. The image is written, but for its first MiB, and summed.
//! 3. The sum is right, or it ends here. Until now nothing of the image was looked at but to unpack it.
//! 4. The config of the first boot is written into its partition, which the kernel finds by its place: no partition table is on the disk yet.
//! 5. The first MiB is written: the head of its partition table after all else, and its first sector, without which neither a BIOS nor UEFI
//!    starts anything, after that. A disk writes one sector whole or not at all.
//! 6. The disk is marked with the intent. Without the mark the install is begun anew, with it never.

use std::io;

use magnetite_api::{
    Sha256,
    install::{ConfigPlace, ImageFormat},
};

use crate::{
    config::ConfigError,
    image::{self, ImageError, Written},
    marker::{self, Marker},
    partitions::{self, Partition, PartitionError},
    source::Source,
    sparse::HEAD,
    target::Target,
};

/// What is to be installed.
#[derive(Debug, Clone)]
pub struct Order {
    /// What the image is.
    pub format: ImageFormat,
    /// Bytes of a logical sector of the disk.
    pub sector: u64,
    /// What the disk is to say of itself; its `image` is the sum that the image must have.
    pub marker: Marker,
    /// Where the config of the first boot goes, if there is one.
    pub config: Option<ConfigPlace>,
}

/// How far an install is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The image is being written.
    Writing {
        /// Bytes of the disk that are done.
        written: u64,
        /// Bytes of the image that were fetched.
        fetched: u64,
    },
    /// The sum is right.
    Verified,
    /// The config is in its place.
    Configured,
}

/// What is on the disk now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Size of the system, in bytes.
    pub bytes: u64,
    /// Sum of its image.
    pub image: Sha256,
}

/// Why a system is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The disk is too small for anything.
    #[error("the disk has {0} bytes, which is less than any system needs")]
    TooSmall(u64),
    /// The disk does not do it.
    #[error("the disk failed while {doing}")]
    Disk {
        /// What was done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The image is not on the disk.
    #[error("the image was not installed")]
    Image(#[from] ImageError),
    /// The image's partitions are not as they must be.
    #[error("the image does not fit this disk, or what spec.install says of it")]
    Partitions(#[from] PartitionError),
    /// The disk cannot be marked.
    #[error(
        "the image leaves no room for the mark that keeps it from being installed again: neither the last 4 KiB of its first MiB nor 64 KiB before the disk's end are free"
    )]
    NoRoom,
    /// The config is not in its place.
    #[error("the config of the first boot could not be written")]
    Config(#[source] ConfigError),
}

/// Installs. `configure` is called with the partition that takes the config, where there is to be one. Whatever fails, nothing bootable is on
/// the disk then, and the same call begins anew.
pub fn install(
    target: &mut dyn Target,
    source: &mut dyn Source,
    order: &Order,
    configure: &mut dyn FnMut(&Partition) -> Result<(), ConfigError>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Installed, InstallError> {
    let Order { format, sector, marker, config } = order;
    let on_disk = |doing| move |source| InstallError::Disk { doing, source };
    let size = target.size();
    if size < 4 * HEAD {
        return Err(InstallError::TooSmall(size));
    }
    target.zero(0, HEAD).map_err(on_disk("zeroing its beginning"))?;
    target.zero(size - HEAD, HEAD).map_err(on_disk("zeroing its end"))?;
    target.sync().map_err(on_disk("writing what it had"))?;

    let mut writing = |written, fetched| progress(Progress::Writing { written, fetched });
    let Written { head, size: bytes } = image::write(source, *format, marker.image, target, &mut writing)?;
    target.sync().map_err(on_disk("writing what it had"))?;
    progress(Progress::Verified);

    let partitions = partitions::read(&head, *sector)?;
    let mark_at = marker::place(&head, bytes, &partitions, size).ok_or(InstallError::NoRoom)?;
    if let Some(place) = config {
        let partition = partitions::find(&partitions, place)?;
        configure(partition).map_err(InstallError::Config)?;
        target.sync().map_err(on_disk("writing the config"))?;
        progress(Progress::Configured);
    }

    let sector = usize::try_from(*sector).unwrap_or(512);
    let cut = |at: usize| head.split_at(at.min(head.len()));
    let ((first, _), (upto, rest)) = (cut(sector), cut(2 * sector));
    let second = upto.get(first.len()..).unwrap_or_default();
    for (at, part) in [(upto.len(), rest), (first.len(), second), (0, first)] {
        target.write_at(at as u64, part).map_err(on_disk("writing the first MiB"))?;
        target.sync().map_err(on_disk("writing the first MiB"))?;
    }
    marker::write(target, mark_at, marker).map_err(on_disk("marking it"))?;
    Ok(Installed { bytes, image: marker.image })
}
