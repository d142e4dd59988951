//! What a disk says of how it came to be: which intent of which Machine put which image on it. It is the third place that knows, beside the API
//! and the boot server, and the one that goes with the disk: where the other two were restored from a backup, this one was not.

use std::io;

use magnetite_api::Sha256;
use serde::{Deserialize, Serialize};

use crate::{
    partitions::{self, Partition},
    sparse::HEAD,
    target::Target,
};

/// Bytes of a mark.
pub const SIZE: u64 = 4096;
/// Where it is as a rule: the last of the first MiB, which image makers leave free between partition table and first partition.
pub const FIRST_PLACE: u64 = HEAD - SIZE;
/// How far before the disk's end it is otherwise. Partition tools leave that much free, for their copy of the table and to round.
const FROM_END: u64 = 64 << 10;

const MAGIC: &[u8] = b"magnetite.dev disk marker 1\n";
const SUM: usize = 32;

/// What a disk says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Marker {
    /// UID of the Machine; its name, where there is no cluster.
    pub machine: String,
    /// The intent.
    pub intent: String,
    /// When the intent's window opened, in seconds since 1970.
    pub opened_at: i64,
    /// SHA-256 of the image, as it was fetched.
    pub image: Sha256,
}

/// What is to be done about an install, by what a disk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Install.
    Install,
    /// This intent did it already.
    Done,
    /// A later intent did: whoever asks now was restored from a time before it.
    Later {
        /// That intent.
        intent: String,
    },
}

/// Whether to install for this mark, on a disk that carries that one. Pure.
pub fn judge(found: Option<&Marker>, wanted: &Marker) -> Verdict {
    let Marker { machine, intent, opened_at, image: _ } = wanted;
    match found {
        // A disk that another Machine installed was put into this box, or its Machine was made anew: both are a first intent.
        Some(found) if found.machine == *machine && found.intent == *intent => Verdict::Done,
        Some(found) if found.machine == *machine && found.opened_at > *opened_at => {
            Verdict::Later { intent: found.intent.clone() }
        }
        Some(_) | None => Verdict::Install,
    }
}

/// The same, where a box has several disks: what any of them did is done. Says on which.
pub fn judge_all<'a>(found: &'a [(String, Marker)], wanted: &Marker) -> (Verdict, Option<&'a str>) {
    let judged = || found.iter().map(|(disk, marker)| (judge(Some(marker), wanted), Some(disk.as_str())));
    let done = judged().find(|(verdict, _)| *verdict == Verdict::Done);
    let later = || judged().find(|(verdict, _)| *verdict != Verdict::Install);
    done.or_else(later).unwrap_or((Verdict::Install, None))
}

impl Marker {
    /// As it is on the disk: text, zeros, and the sum of both.
    pub fn encode(&self) -> Result<Vec<u8>, io::Error> {
        let mut bytes = MAGIC.to_vec();
        serde_json::to_writer(&mut bytes, self)?;
        let most = SIZE as usize - SUM;
        if bytes.len() > most {
            return Err(io::Error::other("names in the disk's mark are too long"));
        }
        bytes.resize(most, 0);
        let sum = Sha256::of(&bytes);
        bytes.extend_from_slice(&sum.0);
        Ok(bytes)
    }

    /// Reads one; none, if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (text, sum) = bytes.get(..SIZE as usize)?.split_at(SIZE as usize - SUM);
        let text_of = text.strip_prefix(MAGIC)?;
        if Sha256::of(text).0 != *sum {
            return None;
        }
        let end = text_of.iter().rposition(|byte| *byte != 0)?;
        serde_json::from_slice(text_of.get(..=end)?).ok()
    }
}

/// Where the mark of an image with this head goes on a disk of so many bytes; none, if there is no room that is nobody's.
pub fn place(head: &[u8], image: u64, partitions: &[Partition], disk: u64) -> Option<u64> {
    if disk >= HEAD && partitions::is_free(head, partitions, FIRST_PLACE, SIZE) {
        return Some(FIRST_PLACE);
    }
    let last = last_place(disk)?;
    let end = last + SIZE;
    let covered = partitions.iter().any(|one| one.start < end && last < one.start.saturating_add(one.length));
    (last >= image && !covered).then_some(last)
}

fn last_place(disk: u64) -> Option<u64> {
    disk.checked_sub(FROM_END).map(|at| at & !(SIZE - 1)).filter(|at| *at >= HEAD)
}

/// What a disk says, in either place.
pub fn read(target: &mut dyn Target) -> io::Result<Option<Marker>> {
    let disk = target.size();
    let places = [(disk >= HEAD).then_some(FIRST_PLACE), last_place(disk)];
    for at in places.into_iter().flatten() {
        let mut bytes = vec![0; SIZE as usize];
        target.read_at(at, &mut bytes)?;
        if let Some(marker) = Marker::decode(&bytes) {
            return Ok(Some(marker));
        }
    }
    Ok(None)
}

/// Writes the mark, and reads it back from where readers look.
pub fn write(target: &mut dyn Target, at: u64, marker: &Marker) -> io::Result<()> {
    target.write_at(at, &marker.encode()?)?;
    target.sync()?;
    if read(target)?.as_ref() == Some(marker) {
        Ok(())
    } else {
        Err(io::Error::other("the disk's mark did not read back as it was written"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn marker(machine: &str, intent: &str, opened_at: i64) -> Marker {
        Marker { machine: machine.into(), intent: intent.into(), opened_at, image: Sha256([1; 32]) }
    }

    #[test]
    fn a_mark_reads_back_and_a_flipped_bit_is_none() {
        let marker = marker("3f0d2c5e-0000-4000-8000-000000000010", &"x".repeat(63), i64::MAX);
        let bytes = marker.encode().expect("fits");
        assert_eq!((bytes.len() as u64, Marker::decode(&bytes)), (SIZE, Some(marker.clone())));
        for at in [0, 30, 200, 4000, 4095] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(Marker::decode(&bytes), None, "byte {at}");
        }
        assert_eq!(Marker::decode(&bytes[..4095]), None);
        assert_eq!(Marker::decode(&[0; 4096]), None);
        assert!(super::Marker { intent: "x".repeat(5000), ..marker }.encode().is_err());
    }

    #[rstest]
    #[case::empty(None, Verdict::Install)]
    #[case::this_intent(Some(marker("m", "b", 20)), Verdict::Done)]
    #[case::this_intent_opened_anew(Some(marker("m", "b", 10)), Verdict::Done)]
    #[case::an_older_intent(Some(marker("m", "a", 10)), Verdict::Install)]
    #[case::a_later_intent(Some(marker("m", "c", 21)), Verdict::Later { intent: "c".into() })]
    #[case::another_machine(Some(marker("n", "b", 99)), Verdict::Install)]
    fn what_a_disk_says_decides(#[case] found: Option<Marker>, #[case] want: Verdict) {
        assert_eq!(judge(found.as_ref(), &marker("m", "b", 20)), want);
    }
}
