//! The partitions of an image, by its first bytes.

use magnetite_api::install::ConfigPlace;

use crate::sparse::HEAD;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name in the GPT; an MBR has none.
    pub label: String,
    /// Its type in the GPT as a GUID, in lower case; of an MBR two digits.
    pub kind: String,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Why an image's partitions are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The image is for other sectors.
    #[error(
        "the image is made for sectors of {image} bytes, and the disk has sectors of {disk}: no firmware would find its partitions"
    )]
    Sectors {
        /// Bytes of a sector, by where the image's GPT is.
        image: u64,
        /// Bytes of a logical sector of the disk.
        disk: u64,
    },
    /// None is the one.
    #[error("no partition of the image has {wanted}; it has {there}")]
    None {
        /// What was looked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// Several are.
    #[error("more than one partition of the image has {wanted}")]
    Several {
        /// What was looked for.
        wanted: String,
    },
}

/// The most entries that are looked at.
const MOST: u32 = 1024;

/// The partitions of an image with this head, on a disk with sectors of so many bytes. An image without a partition table has none.
pub fn read(head: &[u8], sector: u64) -> Result<Vec<Partition>, PartitionError> {
    let signed = |at: u64| bytes(head, at, 8) == Some(b"EFI PART");
    if signed(sector) {
        return Ok(gpt(head, sector).unwrap_or_default());
    }
    if let Some(image) = [512, 4096].into_iter().find(|size| signed(*size)) {
        return Err(PartitionError::Sectors { image, disk: sector });
    }
    Ok(mbr(head, sector))
}

fn bytes(head: &[u8], at: u64, length: usize) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    head.get(at..at.checked_add(length)?)
}

fn le32(head: &[u8], at: u64) -> Option<u32> {
    Some(u32::from_le_bytes(bytes(head, at, 4)?.try_into().ok()?))
}

fn le64(head: &[u8], at: u64) -> Option<u64> {
    Some(u64::from_le_bytes(bytes(head, at, 8)?.try_into().ok()?))
}

/// UEFI 2.10, 5.3.
fn gpt(head: &[u8], sector: u64) -> Option<Vec<Partition>> {
    let table = le64(head, sector + 72)?.checked_mul(sector)?;
    let (count, size) = (le32(head, sector + 80)?.min(MOST), le32(head, sector + 84)?);
    if !(128..=4096).contains(&size) {
        return None;
    }
    let mut found = Vec::new();
    for index in 0..u64::from(count) {
        let Some(entry) = table
            .checked_add(index * u64::from(size))
            .and_then(|at| bytes(head, at, 128))
            .filter(|entry| entry.iter().take(16).any(|byte| *byte != 0))
        else {
            continue;
        };
        let (Some(first), Some(last)) = (le64(entry, 32), le64(entry, 40)) else { continue };
        let Some(length) = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1)?.checked_mul(sector))
        else {
            continue;
        };
        let Some(start) = first.checked_mul(sector) else { continue };
        let name: Vec<u16> = entry[56..128]
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        found.push(Partition { label: String::from_utf16_lossy(&name), kind: guid(entry), start, length });
    }
    Some(found)
}

/// The first sixteen bytes as a GUID, whose first three fields are little-endian.
fn guid(entry: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (place, index) in order.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", entry.get(index).copied().unwrap_or(0)));
    }
    text
}

fn mbr(head: &[u8], sector: u64) -> Vec<Partition> {
    if bytes(head, 510, 2) != Some(&[0x55, 0xaa]) {
        return Vec::new();
    }
    let entry = |index: u64| {
        let at = 446 + index * 16;
        let kind = *bytes(head, at + 4, 1)?.first()?;
        let (start, length) = (u64::from(le32(head, at + 8)?) * sector, u64::from(le32(head, at + 12)?) * sector);
        (kind != 0 && length > 0).then(|| Partition {
            label: String::new(),
            kind: format!("{kind:02x}"),
            start,
            length,
        })
    };
    (0..4).filter_map(entry).collect()
}

/// The partition that takes the config.
pub fn find<'a>(partitions: &'a [Partition], place: &ConfigPlace) -> Result<&'a Partition, PartitionError> {
    let ConfigPlace { partition_label, partition_type, path: _ } = place;
    let label = partition_label.as_deref();
    let kind = partition_type.as_deref().map(str::to_ascii_lowercase);
    let fits = |partition: &&Partition| {
        label.is_none_or(|label| partition.label == label) && kind.as_ref().is_none_or(|kind| partition.kind == *kind)
    };
    let wanted = || match (label, &kind) {
        (Some(label), _) => format!("the label {label:?}"),
        (None, kind) => format!("the type {}", kind.as_deref().unwrap_or("that is not said")),
    };
    let fit: Vec<_> = partitions.iter().filter(fits).collect();
    match fit.as_slice() {
        [partition] => Ok(partition),
        [] => {
            let there: Vec<_> =
                partitions.iter().map(|partition| format!("{:?} ({})", partition.label, partition.kind)).collect();
            let there = if there.is_empty() { "none at all".to_owned() } else { there.join(", ") };
            Err(PartitionError::None { wanted: wanted(), there })
        }
        _ => Err(PartitionError::Several { wanted: wanted() }),
    }
}

/// True if a range of the head is nobody's: the image has zeros there, and no partition covers it.
pub fn is_free(head: &[u8], partitions: &[Partition], start: u64, length: u64) -> bool {
    let end = start.saturating_add(length);
    let zeros =
        head.iter().skip(usize::try_from(start.min(HEAD)).unwrap_or(0)).take(usize::try_from(length).unwrap_or(0));
    let covered = partitions
        .iter()
        .any(|partition| partition.start < end && start < partition.start.saturating_add(partition.length));
    !covered && zeros.copied().all(|byte| byte == 0)
}
