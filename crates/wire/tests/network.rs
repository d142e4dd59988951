//! A transfer over a network that loses, doubles and delays, so that packets overtake one another; with a clock of its own,
//! so that seconds cost nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use magnetite_wire::tftp::{Event, Failure, Negotiated, Output, Transfer};
use proptest::prelude::*;

/// A small generator of our own, so that a seed is a whole world.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Debug, Clone, Copy)]
enum Packet {
    Oack,
    Data { block: u64 },
    Ack(u16),
}

/// What may happen, in percent and in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Weather {
    loss: u64,
    doubled: u64,
    delay: u64,
}

struct Network {
    now: u64,
    /// By time of arrival and order of sending.
    flying: BTreeMap<(u64, u64), Packet>,
    sent: u64,
    weather: Weather,
    dice: Dice,
}

impl Network {
    fn send(&mut self, packet: Packet) {
        let copies = if self.dice.below(100) < self.weather.doubled { 2 } else { 1 };
        for _ in 0..copies {
            self.sent += 1;
            if self.dice.below(100) >= self.weather.loss {
                let arrives = self.now + 1 + self.dice.below(self.weather.delay + 1);
                self.flying.insert((arrives, self.sent), packet);
            }
        }
    }
}

/// A client as RFC 7440 has it: takes blocks in order, acknowledges a full window, the last block, or, at a gap, what
/// it has; and says so again after a second of silence.
struct Client {
    window: u64,
    last: u64,
    have: u64,
    acked: u64,
    wakes: u64,
}

impl Client {
    fn take(&mut self, packet: Packet, network: &mut Network) {
        let say = match packet {
            Packet::Oack => self.have == 0,
            Packet::Data { block } if block == self.have + 1 => {
                self.have = block;
                block == self.last || block - self.acked >= self.window
            }
            Packet::Data { .. } => true,
            Packet::Ack(_) => unreachable!("the server sends none"),
        };
        if say {
            self.say(network);
        }
        self.wakes = network.now + 1000;
    }

    fn say(&mut self, network: &mut Network) {
        self.acked = self.have;
        network.send(Packet::Ack(Transfer::wire_number(self.have)));
    }
}

/// How a world ended.
struct End {
    how: Output,
    transfer: Transfer,
    got: u64,
    last: u64,
    seconds: u64,
}

fn run(size: u64, block_size: u16, window: u16, weather: Weather, seed: u64) -> End {
    let agreed = Negotiated { block_size, window, oack: true, size: true };
    let last = size / u64::from(block_size) + 1;
    let mut network = Network { now: 0, flying: BTreeMap::new(), sent: 0, weather, dice: Dice(seed) };
    let mut client = Client { window: window.into(), last, have: 0, acked: 0, wakes: 1000 };
    let mut transfer = Transfer::new(size, agreed);
    let (mut timer, mut outputs) = (u64::MAX, transfer.on(Event::Start));
    loop {
        for output in outputs.drain(..) {
            match output {
                Output::Oack => network.send(Packet::Oack),
                Output::Data { block } => {
                    assert!((1..=last).contains(&block), "a block that the file has");
                    network.send(Packet::Data { block });
                }
                Output::ArmTimer(after) => timer = network.now + after.as_millis() as u64,
                Output::Done | Output::Failed(_) => {
                    let seconds = network.now / 1000;
                    return End { how: output, transfer, got: client.have, last, seconds };
                }
            }
        }
        // The next thing to happen: an arrival, the server's timer, or the client's.
        let arrival = network.flying.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
        network.now = arrival.min(timer).min(client.wakes);
        if arrival == network.now {
            match network.flying.pop_first().unwrap().1 {
                Packet::Ack(number) => outputs = transfer.on(Event::Ack(number)),
                packet => client.take(packet, &mut network),
            }
        } else if timer == network.now {
            timer = u64::MAX;
            outputs = transfer.on(Event::Timer);
        } else {
            client.wakes = network.now + 1000;
            client.say(&mut network);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the weather, a transfer ends, within bounds; and if it says "done", the client has every block.
    #[test]
    fn every_transfer_ends(size in 0u64..150_000, block in prop::sample::select(vec![8u16, 512, 1432, 1468]), window in 1u16..17, loss in 0u64..60, doubled in 0u64..50, delay in 0u64..1500, seed: u64) {
        let size = size.min(u64::from(block) * 500);
        let End { how, transfer, got, last, seconds } = run(size, block, window, Weather { loss, doubled, delay }, seed);
        match how {
            Output::Done => prop_assert_eq!((got, transfer.acknowledged()), (last, size)),
            Output::Failed(Failure::Silent) => prop_assert!(transfer.acknowledged() <= size),
            other => prop_assert!(false, "{:?}", other),
        }
        // At worst, one block is won by each twentieth try, and each try sends a window.
        prop_assert!(seconds <= (last + 1) * 21, "{} s for {} blocks", seconds, last);
        prop_assert!(transfer.blocks_sent() <= (last + 1) * 21 * u64::from(window));
        prop_assert!(transfer.resent() <= transfer.blocks_sent() + 2 + transfer.retries());
    }

    /// Events in an order that no client keeps: no panic, no flood, and the end is the end.
    #[test]
    fn no_order_of_events_is_a_flood(size in 0u64..100_000, window in 0u16..17, block_size in 0u16..2000, oack: bool, events in prop::collection::vec((0u8..8, any::<u16>()), 0..200)) {
        let mut transfer = Transfer::new(size, Negotiated { block_size, window, oack, size: true });
        for (kind, number) in events {
            let event = match kind {
                0 => Event::Start,
                1 | 2 => Event::Timer,
                3 => Event::Ack(number),
                _ => Event::Ack(number % 32),
            };
            let was_over = transfer.is_over();
            let outputs = transfer.on(event);
            prop_assert!(outputs.len() <= usize::from(window.max(1)) + 1);
            prop_assert!(!was_over || outputs.is_empty());
        }
    }
}

/// RFC 1123, 4.2.3.1: every ACK and every DATA doubled, on a link that loses nothing, must not double what is sent.
#[test]
fn doubled_packets_are_not_answered_twice() {
    let weather = Weather { loss: 0, doubled: 100, delay: 0 };
    let End { how, transfer, last, .. } = run(1 << 20, 512, 1, weather, 1);
    assert_eq!((how, transfer.blocks_sent(), transfer.resent()), (Output::Done, last, 0));
}

/// The same storm where a delay makes the timer go off too: blocks and time-outs, and nothing else.
#[test]
fn a_storm_of_doubled_acks_adds_nothing_to_the_timer_s() {
    for seed in 0..50 {
        let weather = Weather { loss: 10, doubled: 100, delay: 700 };
        let End { how, transfer, last, .. } = run(200_000, 1432, 1, weather, seed);
        assert_eq!(how, Output::Done, "seed {seed}");
        assert!(transfer.blocks_sent() <= last + transfer.retries(), "seed {seed}");
    }
}

/// R4: once the client was heard, a fifth of all packets may be lost and every file arrives.
#[test]
fn at_twenty_per_cent_loss_every_client_that_was_heard_gets_its_file() {
    let weather = Weather { loss: 20, doubled: 2, delay: 30 };
    for seed in 0..300 {
        let window = [1, 4, 16][seed as usize % 3];
        let End { how, transfer, .. } = run(850_000, 1432, window, weather, seed);
        let never_heard = transfer.blocks_sent() == 0;
        assert!(how == Output::Done || never_heard, "seed {seed}: {how:?}");
    }
}
