//! Offers that are sent a second time, if nothing shows that the first came.
//!
//! iPXE that has an address takes no proxy's offer after two seconds, in which it asks twice. Where one packet of twenty is lost,
//! one box of a hundred hears the site's DHCP server and not us, and has "nothing to boot". A second copy brings that down to
//! three of ten thousand. A box that has heard us broadcasts its REQUEST to the site's server, on a port that we hear too: it is
//! sent no copy, so a storm on a good network costs none.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::net::batch::Datagram;

/// How long a REQUEST is waited for: iPXE sends it as soon as it has both offers, firmware at the end of its round of four seconds.
pub const PAUSE: Duration = Duration::from_millis(400);
/// Offers that wait at once. More are a storm, in which copies would only delay the first offers of others.
const MOST: usize = 512;

/// Who was made an offer: its MAC, and its transaction.
pub type Asker = ([u8; 6], u32);

/// Offers of which a second copy may be due.
#[derive(Debug, Default)]
pub struct Repeats {
    /// In the order in which they are due, since all wait equally long.
    order: VecDeque<(Instant, Asker)>,
    waiting: HashMap<Asker, (Instant, Datagram)>,
}

impl Repeats {
    /// An offer was sent. One that still waits for the same box is superseded.
    pub fn sent(&mut self, now: Instant, asker: Asker, copy: Datagram) {
        if self.order.len() < MOST {
            let due = now + PAUSE;
            self.order.push_back((due, asker));
            self.waiting.insert(asker, (due, copy));
        }
    }

    /// The box goes on: an offer came.
    pub fn heard(&mut self, asker: Asker) {
        self.waiting.remove(&asker);
    }

    /// When to look for a copy that is due.
    pub fn next(&self) -> Option<Instant> {
        self.order.front().map(|(due, _)| *due)
    }

    /// A copy that is due, if there is one; it is the last of this offer.
    pub fn due(&mut self, now: Instant) -> Option<Datagram> {
        while self.next().is_some_and(|due| due <= now) {
            let (due, asker) = self.order.pop_front()?;
            // A newer offer to the same box has an entry of its own.
            if self.waiting.get(&asker).is_some_and(|(newest, _)| *newest == due) {
                return self.waiting.remove(&asker).map(|(_, copy)| copy);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(byte: u8) -> Datagram {
        Datagram { bytes: vec![byte], to: "255.255.255.255:68".parse().unwrap() }
    }

    #[test]
    fn a_box_that_is_not_heard_gets_one_copy() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let (silent, heard, again) = (([1; 6], 1), ([2; 6], 1), ([3; 6], 1));
        for (asker, byte) in [(silent, 1), (heard, 2), (again, 3)] {
            repeats.sent(start, asker, copy(byte));
        }
        repeats.heard(heard);
        repeats.heard(([1; 6], 2));
        repeats.sent(start + PAUSE / 2, again, copy(4));
        assert_eq!(repeats.due(start + PAUSE / 2), None);
        assert_eq!(repeats.due(start + PAUSE), Some(copy(1)));
        assert_eq!(repeats.due(start + PAUSE), None, "no copy of one that was heard, nor of one that was superseded");
        assert_eq!(repeats.due(start + PAUSE * 2), Some(copy(4)));
        assert_eq!((repeats.due(start + PAUSE * 9), repeats.next(), repeats.waiting.len()), (None, None, 0));
    }

    #[test]
    fn a_flood_of_strangers_is_bounded() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for number in 0..100_000_u32 {
            repeats.sent(start, ([0; 6], number), copy(0));
        }
        assert_eq!((repeats.order.len(), repeats.waiting.len()), (MOST, MOST));
    }
}
