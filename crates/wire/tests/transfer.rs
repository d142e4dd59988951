//! The transfer, step by step, and against a client on a link that loses and doubles. `network.rs` reorders too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use magnetite_wire::tftp::{
    ErrorCode, Event, Failure, Negotiated, Output, ReadRequest, Transfer,
    transfer::{Limits, PATIENCE, TRIES, TRIES_BEFORE_ACK, TRIES_OF_A_BLOCK},
};
use proptest::prelude::*;

const LIMITS: Limits = Limits { block_size: 1468, window: 16 };

fn agreed(block_size: u16, window: u16) -> Negotiated {
    Negotiated { block_size, window, oack: true, size: true }
}

/// A small generator of our own, so that a seed is a whole world.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, percent: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 100 < percent
    }
}

/// Runs a transfer against a client that acknowledges the last block in order of each burst. Returns the
/// blocks that the client has, and how many DATA were sent.
fn run(size: u64, agreed: Negotiated, loss: u64, seed: u64) -> (u64, u64, Transfer) {
    let mut dice = Dice(seed);
    let mut transfer = Transfer::new(size, agreed);
    let (mut have, mut sent, mut bytes) = (0u64, 0u64, 0u64);
    let mut outputs = transfer.on(Event::Start);
    for _ in 0..4_000_000 {
        let mut ack = None;
        for output in std::mem::take(&mut outputs) {
            match output {
                Output::Oack => ack = (!dice.roll(loss)).then_some(0),
                Output::Data { block } => {
                    sent += 1;
                    if dice.roll(loss) {
                        continue;
                    }
                    if block == have + 1 {
                        have = block;
                        let range = transfer.range(block);
                        bytes += range.end - range.start;
                    }
                    ack = Some(Transfer::wire_number(have));
                }
                Output::ArmTimer(_) => {}
                Output::Done => {
                    assert_eq!(bytes, size, "every byte, once");
                    return (have, sent, transfer);
                }
                Output::Failed(_) => return (have, sent, transfer),
            }
        }
        outputs = match ack {
            Some(number) if !dice.roll(loss) => {
                let mut out = transfer.on(Event::Ack(number));
                // The network doubles one in ten.
                if dice.roll(if loss > 0 { 10 } else { 0 }) {
                    out.extend(transfer.on(Event::Ack(number)));
                }
                out
            }
            _ => transfer.on(Event::Timer),
        };
        if outputs.is_empty() && !transfer.is_over() {
            outputs = transfer.on(Event::Timer);
        }
    }
    panic!("a transfer that never ends");
}

#[test]
fn more_blocks_than_the_wire_can_count() {
    for window in [1, 16] {
        let (blocks, sent, transfer) = run(100 << 20, agreed(512, window), 0, 1);
        assert_eq!((blocks, sent), ((100 << 20) / 512 + 1, (100 << 20) / 512 + 1));
        assert_eq!(transfer.resent(), 0);
    }
}

#[test]
fn a_file_of_whole_blocks_ends_with_an_empty_one() {
    for (size, last) in [(0, 1), (511, 1), (512, 2), (513, 2)] {
        let (blocks, _, transfer) = run(size, agreed(512, 1), 0, 1);
        assert_eq!(blocks, last, "{size}");
        assert_eq!(transfer.range(last).end, size);
    }
}

#[test]
fn a_duplicate_ack_sends_nothing() {
    let mut transfer = Transfer::new(4096, Negotiated { oack: false, ..agreed(512, 1) });
    transfer.on(Event::Start);
    assert_eq!(transfer.on(Event::Ack(1))[0], Output::Data { block: 2 });
    assert_eq!(transfer.on(Event::Ack(1)), []);
    assert_eq!(transfer.on(Event::Ack(3)), [], "the next block, which was not sent yet");
    assert_eq!(transfer.on(Event::Ack(9)), [], "a block that was never sent");
    assert_eq!(transfer.on(Event::Ack(0)), []);
}

#[test]
fn an_ack_inside_the_window_sends_the_rest_again() {
    let mut transfer = Transfer::new(1 << 20, agreed(512, 4));
    transfer.on(Event::Start);
    let blocks = |outputs: Vec<Output>| {
        outputs
            .into_iter()
            .filter_map(|output| if let Output::Data { block } = output { Some(block) } else { None })
            .collect::<Vec<_>>()
    };
    assert_eq!(blocks(transfer.on(Event::Ack(0))), [1, 2, 3, 4]);
    assert_eq!(blocks(transfer.on(Event::Ack(2))), [3, 4, 5, 6]);
}

#[test]
fn an_address_that_nobody_proved_gets_little() {
    for (oack, tries) in [(true, TRIES_BEFORE_ACK), (false, TRIES_OF_A_BLOCK)] {
        let mut transfer = Transfer::new(1 << 20, Negotiated { oack, ..agreed(if oack { 1468 } else { 512 }, 16) });
        let mut packets = 0;
        let mut outputs = transfer.on(Event::Start);
        while !transfer.is_over() {
            packets += outputs.iter().filter(|output| matches!(output, Output::Oack | Output::Data { .. })).count();
            outputs = transfer.on(Event::Timer);
        }
        assert_eq!(outputs, [Output::Failed(Failure::Silent)]);
        assert_eq!(packets, 1 + tries as usize, "whatever the window");
        assert_eq!((transfer.retries(), transfer.resent()), (tries.into(), tries.into()));
    }
}

/// Bytes out for bytes in, headers counted, towards a client that never acknowledges: at most 3 with options, 25 without.
#[test]
fn a_forged_request_is_worth_little() {
    const HEADERS: usize = 20 + 8;
    let request = HEADERS + "\0\x01undionly.kpxe\0octet\0".len();
    let blocks = (HEADERS + 4 + 512) * (1 + TRIES_OF_A_BLOCK as usize);
    assert!(blocks <= 25 * request, "{blocks} bytes for {request}");
    let request = request + "tsize\x000\0blksize\x001468\0".len();
    let oacks = (HEADERS + "\0\x06tsize\x001048576\0blksize\x001468\0".len()) * (1 + TRIES_BEFORE_ACK as usize);
    assert!(oacks <= 3 * request, "{oacks} bytes for {request}");
}

/// All three OACKs were lost, or the ACK of each: EDK2 goes on to acknowledge the one that it had, and never asks anew.
#[test]
fn a_first_ack_that_comes_late_is_still_heard() {
    let mut transfer = Transfer::new(1000, agreed(512, 1));
    transfer.on(Event::Start);
    assert!(matches!(transfer.on(Event::Timer)[..], [Output::Oack, _]));
    assert!(matches!(transfer.on(Event::Timer)[..], [Output::Oack, _]) && !transfer.is_quiet());
    assert_eq!(transfer.on(Event::Timer), [Output::ArmTimer(PATIENCE)], "not a byte more");
    assert!(transfer.is_quiet());
    let mut forgotten = transfer.clone();
    assert!(matches!(transfer.on(Event::Ack(0))[..], [Output::Data { block: 1 }, _]) && !transfer.is_quiet());
    assert_eq!(forgotten.on(Event::Timer), [Output::Failed(Failure::Silent)]);
}

#[test]
fn a_probe_for_the_size_is_no_fault() {
    let mut transfer = Transfer::new(1000, agreed(1468, 1));
    transfer.on(Event::Start);
    assert_eq!(transfer.on(Event::Error(ErrorCode(8))), [Output::Failed(Failure::SizeProbe)]);
    let mut transfer = Transfer::new(100_000, agreed(1468, 1));
    transfer.on(Event::Start);
    transfer.on(Event::Ack(0));
    assert_eq!(transfer.on(Event::Error(ErrorCode(8))), [Output::Failed(Failure::Aborted(ErrorCode(8)))]);
    // Who did not ask for the size cannot have wanted only that: our options were refused.
    let mut transfer = Transfer::new(1000, Negotiated { size: false, ..agreed(1468, 1) });
    transfer.on(Event::Start);
    assert_eq!(transfer.on(Event::Error(ErrorCode(8))), [Output::Failed(Failure::Aborted(ErrorCode(8)))]);
}

#[test]
fn negotiation_keeps_to_the_limits_and_answers_only_what_was_asked() {
    let request =
        ReadRequest { file: "f".into(), block_size: Some(65464), size: true, window: Some(64), timeout: None };
    let agreed = Negotiated::from_request(&request, LIMITS);
    assert_eq!(agreed, Negotiated { block_size: 1468, window: 16, oack: true, size: true });
    let names: Vec<_> =
        agreed.acknowledge(&request, 7).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(names, ["tsize=7", "blksize=1468", "windowsize=16"]);
    let plain = ReadRequest { file: "f".into(), ..ReadRequest::default() };
    let agreed = Negotiated::from_request(&plain, LIMITS);
    assert_eq!(agreed, Negotiated { block_size: 512, window: 1, oack: false, size: false });
    assert!(agreed.acknowledge(&plain, 7).is_empty());
}

#[test]
fn a_timeout_that_is_not_kept_to_is_not_acknowledged() {
    let only = ReadRequest { file: "f".into(), timeout: Some(255), ..ReadRequest::default() };
    assert!(!Negotiated::from_request(&only, LIMITS).oack, "no option is left: no OACK (RFC 2347)");
    let request = ReadRequest { size: true, ..only };
    let agreed = Negotiated::from_request(&request, LIMITS);
    assert_eq!(agreed.acknowledge(&request, 7), [("tsize".to_owned(), "7".to_owned())]);
}

#[test]
fn what_is_sent_again_is_counted() {
    let mut transfer = Transfer::new(1 << 20, agreed(512, 16));
    transfer.on(Event::Start);
    assert_eq!(transfer.on(Event::Start), [], "it has begun");
    transfer.on(Event::Timer);
    assert_eq!((transfer.blocks_sent(), transfer.resent(), transfer.retries()), (0, 1, 1), "the OACK");
    transfer.on(Event::Ack(0));
    assert_eq!((transfer.blocks_sent(), transfer.resent()), (16, 1));
    transfer.on(Event::Timer);
    assert_eq!((transfer.blocks_sent(), transfer.resent(), transfer.retries()), (32, 17, 2), "the whole window");
    transfer.on(Event::Ack(4));
    assert_eq!(
        (transfer.blocks_sent(), transfer.resent(), transfer.retries()),
        (48, 29, 2),
        "5 to 16, and 17 to 20 anew"
    );
    transfer.on(Event::Ack(20));
    assert_eq!((transfer.blocks_sent(), transfer.resent(), transfer.acknowledged()), (64, 29, 20 * 512));
}

#[test]
fn twenty_tries_of_half_a_second_after_the_first_ack() {
    let mut transfer = Transfer::new(1 << 20, agreed(512, 1));
    transfer.on(Event::Start);
    transfer.on(Event::Ack(0));
    for _ in 0..TRIES {
        assert_eq!(
            transfer.on(Event::Timer),
            [Output::Data { block: 1 }, Output::ArmTimer(Duration::from_millis(500))]
        );
    }
    assert_eq!(transfer.on(Event::Timer), [Output::Failed(Failure::Silent)]);
    assert_eq!(transfer.on(Event::Ack(1)), [], "over is over");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is lost, a transfer ends: with every byte, or with a failure that says so.
    #[test]
    fn every_world_ends(size in 0u64..200_000, block in prop::sample::select(vec![8u16, 512, 1432, 1468]), window in 1u16..17, loss in 0u64..40, seed: u64) {
        let size = size.min(u64::from(block) * 2000);
        let (_, sent, transfer) = run(size, agreed(block, window), loss, seed);
        prop_assert!(transfer.is_over());
        let blocks = size / u64::from(block) + 1;
        prop_assert!(sent <= (blocks + 1) * 21 * u64::from(window), "{} sent for {}", sent, blocks);
    }
}

/// Twenty per cent of everything lost, a thousand worlds: all but those that lose the very first packets finish.
#[test]
fn at_twenty_per_cent_loss_files_arrive() {
    let done = (0..1000).filter(|seed| run(850_000, agreed(1432, 1), 20, *seed).2.acknowledged() == 850_000).count();
    assert!(done >= 940, "{done} of 1000");
}
