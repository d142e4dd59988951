//! Which files of the cache make room for another. Pure: sizes, ranks and times in, names out.

use std::path::PathBuf;

use magnetite_api::{Sha256, report::size_of};

/// How much a file is needed. What is needed more may drive out what is needed less, never the other way round, so
/// that two that do not both fit do not drive each other out for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// No Profile names it.
    Left,
    /// A Profile names it that no Machine boots.
    Spare,
    /// A Profile names it that a Machine boots: it stays.
    Pinned,
}

/// A file of the cache that nobody reads or fetches now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its sum, which is its name.
    pub sum: Sha256,
    /// Its size.
    pub bytes: u64,
    /// How much it is needed.
    pub rank: Rank,
    /// When it was last used, in seconds.
    pub last_used: i64,
}

/// What bounds the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The quota.
    Quota(u64),
    /// The disk on which this folder is; whether a share of it is left to others.
    Disk(PathBuf, bool),
}

/// There is not enough room, even without all that may go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it needs {} more, and {}", size_of(*need), bound.has(*free))]
pub struct Shortage {
    /// Bytes that are needed.
    pub need: u64,
    /// Bytes that could be had.
    pub free: u64,
    /// Why no more.
    pub bound: Bound,
}

impl Bound {
    fn has(&self, free: u64) -> String {
        let free = size_of(free);
        match self {
            Self::Quota(quota) => format!(
                "{free} of --cache-quota ({}) can be made free: raise it, or delete Profiles that need other files",
                size_of(*quota)
            ),
            Self::Disk(folder, false) => format!("the disk of {} has {free} for it: make room there", folder.display()),
            Self::Disk(folder, true) => format!(
                "the disk of {} has {free} for it, since without --cache-quota a tenth of the disk is left free: make \
                 room there, or set --cache-quota",
                folder.display()
            ),
        }
    }
}

/// The files that go so that one of this rank finds `need` bytes where `free` are: those that are needed least, and of
/// these the least recently used, and no more than must.
///
/// # Errors
/// How much is missing if all that may go went. Then none goes.
pub fn make_room(
    mut held: Vec<Held>,
    need: u64,
    free: i128,
    rank: Rank,
    bound: Bound,
) -> Result<Vec<Sha256>, Shortage> {
    held.retain(|file| file.rank < rank);
    held.sort_by_key(|file| (file.rank, file.last_used, file.sum));
    let (mut free, mut go) = (free, Vec::new());
    let mut held = held.into_iter();
    while free < i128::from(need) {
        let Some(file) = held.next() else {
            return Err(Shortage { need, free: u64::try_from(free.max(0)).unwrap_or(u64::MAX), bound });
        };
        free += i128::from(file.bytes);
        go.push(file.sum);
    }
    Ok(go)
}

#[cfg(test)]
mod tests {
    use Rank::{Left, Pinned, Spare};
    use rstest::rstest;

    use super::*;

    fn sum(name: u8) -> Sha256 {
        Sha256([name; 32])
    }

    /// Files of 10 bytes each, named by their number.
    fn held() -> Vec<Held> {
        let all = [(1, Pinned, 1), (2, Spare, 2), (3, Left, 9), (4, Left, 4), (5, Spare, 1), (6, Left, 6)];
        all.map(|(name, rank, last_used)| Held { sum: sum(name), bytes: 10, rank, last_used }).into()
    }

    /// Need, free, rank; who goes, or how much there could be.
    #[rstest]
    #[case::there_is_room(7, 7, Pinned, Ok(vec![]))]
    #[case::the_least_recently_used_that_nobody_names(7, 0, Spare, Ok(vec![4]))]
    #[case::as_many_as_must(25, 0, Pinned, Ok(vec![4, 6, 3]))]
    #[case::then_what_no_machine_boots(50, 0, Pinned, Ok(vec![4, 6, 3, 5, 2]))]
    #[case::never_what_a_machine_boots(51, 0, Pinned, Err(50))]
    #[case::nor_one_that_is_needed_as_much(31, 0, Spare, Err(30))]
    #[case::over_the_quota_already(5, -7, Spare, Ok(vec![4, 6]))]
    #[case::far_over_it(5, -70, Spare, Err(0))]
    fn who_goes(#[case] need: u64, #[case] free: i128, #[case] rank: Rank, #[case] wanted: Result<Vec<u8>, u64>) {
        let went = make_room(held(), need, free, rank, Bound::Quota(100));
        let wanted = wanted.map(|names| names.into_iter().map(sum).collect());
        assert_eq!(went.map_err(|shortage| shortage.free), wanted);
    }

    #[test]
    fn a_shortage_says_what_to_do() {
        let shortage = |bound| Shortage { need: 157_000_000, free: 20_000_000, bound }.to_string();
        assert_eq!(
            shortage(Bound::Quota(1 << 30)),
            "it needs 157 MB more, and 20 MB of --cache-quota (1.0 GB) can be made free: raise it, or delete Profiles that \
             need other files"
        );
        assert_eq!(
            shortage(Bound::Disk("/d".into(), false)),
            "it needs 157 MB more, and the disk of /d has 20 MB for it: make room there"
        );
    }
}
