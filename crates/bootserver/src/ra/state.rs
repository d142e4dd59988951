//! When to speak, without clock and socket. A moment is the time since the start.

use std::time::Duration;

/// Questions for routers before the first word, and the time for each (RFC 4861, 10: MAX_RTR_SOLICITATIONS and
/// RTR_SOLICITATION_INTERVAL).
const QUESTIONS: u8 = 3;
const ANSWER_TIME: Duration = Duration::from_secs(4);
/// Between two advertisements that nobody asked for.
const INTERVAL: Duration = Duration::from_secs(300);
/// Between any two (RFC 4861, 10: MIN_DELAY_BETWEEN_RAS): they go to all, so one is the answer to many.
const LEAST_INTERVAL: Duration = Duration::from_secs(3);
/// The longest that a router may be silent between two advertisements (RFC 4861, 6.2.1: MaxRtrAdvInterval).
const LONGEST_SILENCE: Duration = Duration::from_secs(1800);
/// After a router should have spoken again, and did not.
const MARGIN: Duration = Duration::from_secs(60);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The moment that [`Advertiser::wake`] named has come.
    Tick,
    /// A host asks for routers.
    Solicited,
    /// A router spoke: whoever gives hosts something to route by.
    Router {
        /// For how long it says that it is a default router; nothing if it is none, but has a prefix.
        lifetime: Duration,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Ask for routers.
    Solicit,
    /// Say that there is none.
    Advertise,
    /// Tell people that a router spoke, and that there is silence from now on.
    Silenced,
    /// Tell people that no router speaks.
    Alone,
    /// Somebody asked, and a router is there to answer.
    Withheld,
}

/// Says that there is no router, as long as there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertiser {
    state: State,
    wake: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asks whether there is a router, so many times yet.
    Asks(u8),
    /// Speaks; the last time then.
    Speaks(Duration),
    /// Is silent until [`Advertiser::wake`].
    Silent,
}

impl Advertiser {
    /// Begins with a question, at once.
    pub fn new(now: Duration) -> Self {
        Self { state: State::Asks(QUESTIONS), wake: now }
    }

    /// When the next [`Event::Tick`] is due.
    pub fn wake(&self) -> Duration {
        self.wake
    }

    /// What is to be done now.
    pub fn on(&mut self, event: Event, now: Duration) -> Vec<Output> {
        match (event, self.state) {
            (Event::Tick, _) if now < self.wake => Vec::new(),
            (Event::Tick, State::Asks(0)) => self.speak(now, &[Output::Alone, Output::Advertise]),
            (Event::Tick, State::Asks(left)) => {
                self.state = State::Asks(left - 1);
                self.wake = now + ANSWER_TIME;
                vec![Output::Solicit]
            }
            (Event::Tick, State::Speaks(_)) => self.speak(now, &[Output::Advertise]),
            (Event::Tick, State::Silent) => {
                *self = Self::new(now);
                self.on(Event::Tick, now)
            }
            (Event::Solicited, State::Speaks(last)) if now >= last + LEAST_INTERVAL => {
                self.speak(now, &[Output::Advertise])
            }
            (Event::Solicited, State::Speaks(last)) => {
                self.wake = self.wake.min(last + LEAST_INTERVAL);
                Vec::new()
            }
            // A host asks more than once; by then it is known whether there is a router.
            (Event::Solicited, State::Asks(_)) => Vec::new(),
            (Event::Solicited, State::Silent) => vec![Output::Withheld],
            (Event::Router { lifetime }, before) => {
                let until = now + lifetime.max(LONGEST_SILENCE) + MARGIN;
                self.state = State::Silent;
                match before {
                    State::Silent => {
                        self.wake = self.wake.max(until);
                        Vec::new()
                    }
                    State::Asks(_) | State::Speaks(_) => {
                        self.wake = until;
                        vec![Output::Silenced]
                    }
                }
            }
        }
    }

    fn speak(&mut self, now: Duration, outputs: &[Output]) -> Vec<Output> {
        self.state = State::Speaks(now);
        self.wake = now + INTERVAL;
        outputs.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Lets time pass until `end`, and returns what was done when.
    fn pass(advertiser: &mut Advertiser, end: u64) -> Vec<(u64, Output)> {
        let mut done = Vec::new();
        while advertiser.wake() <= s(end) {
            let now = advertiser.wake();
            done.extend(advertiser.on(Event::Tick, now).into_iter().map(|output| (now.as_secs(), output)));
        }
        done
    }

    fn speaking() -> Advertiser {
        let mut advertiser = Advertiser::new(s(0));
        pass(&mut advertiser, 12);
        advertiser
    }

    #[test]
    fn it_asks_thrice_before_it_speaks() {
        let mut advertiser = Advertiser::new(s(0));
        assert_eq!(advertiser.on(Event::Solicited, s(0)), []);
        let done = pass(&mut advertiser, 700);
        use Output::{Advertise, Alone, Solicit};
        let want = [(0, Solicit), (4, Solicit), (8, Solicit), (12, Alone), (12, Advertise), (312, Advertise)];
        assert_eq!(done[..6], want);
        assert_eq!(done.len(), 7);
    }

    #[test]
    fn a_question_is_answered_at_once_but_not_oftener_than_all_must_hear() {
        let mut advertiser = speaking();
        assert_eq!(advertiser.on(Event::Solicited, s(100)), [Output::Advertise]);
        // A rack that powers on: all of it is answered by the next one.
        for _ in 0..1000 {
            assert_eq!(advertiser.on(Event::Solicited, s(101)), []);
        }
        assert_eq!(pass(&mut advertiser, 110), [(103, Output::Advertise)]);
        assert_eq!(advertiser.wake(), s(403));
    }

    #[test]
    fn it_is_silent_while_a_router_is_there_and_a_margin_longer() {
        let mut advertiser = speaking();
        assert_eq!(advertiser.on(Event::Router { lifetime: s(9000) }, s(20)), [Output::Silenced]);
        assert_eq!(advertiser.on(Event::Solicited, s(21)), [Output::Withheld]);
        // Another one, with less to say, shortens nothing.
        assert_eq!(advertiser.on(Event::Router { lifetime: s(0) }, s(22)), []);
        assert_eq!(pass(&mut advertiser, 9079), []);
        let done = pass(&mut advertiser, 9100);
        assert_eq!(done[0], (9080, Output::Solicit), "asks again before it speaks");
        assert_eq!(done[4], (9092, Output::Advertise));
    }

    #[test]
    fn a_prefix_without_a_default_route_silences_as_long_as_its_router_may_be_quiet() {
        let mut advertiser = Advertiser::new(s(0));
        pass(&mut advertiser, 0);
        assert_eq!(advertiser.on(Event::Router { lifetime: s(0) }, s(1)), [Output::Silenced], "before it ever spoke");
        assert_eq!(pass(&mut advertiser, 1860), []);
        assert_eq!(advertiser.wake(), s(1861));
    }

    proptest! {
        /// Whatever happens: within half an hour of a router's word nothing is said, and never twice within three seconds.
        #[test]
        fn never_beside_a_router(events in prop::collection::vec((0..4u8, 0..4000u64, 0..65_536u64), 0..60)) {
            let (mut advertiser, mut now) = (Advertiser::new(s(0)), s(0));
            let (mut router, mut spoke): (Option<Duration>, Option<Duration>) = (None, None);
            for (kind, after, lifetime) in events {
                now += s(after);
                let event = match kind {
                    0 => Event::Router { lifetime: s(lifetime) },
                    1 => Event::Solicited,
                    _ => {
                        now = now.max(advertiser.wake());
                        Event::Tick
                    }
                };
                let said = advertiser.on(event, now).contains(&Output::Advertise);
                if let Event::Router { lifetime } = event {
                    router = router.max(Some(now + lifetime.max(s(1800))));
                }
                if said {
                    prop_assert!(router.is_none_or(|until| now > until));
                    prop_assert!(spoke.is_none_or(|last| now >= last + s(3)));
                    spoke = Some(now);
                }
            }
        }
    }
}
