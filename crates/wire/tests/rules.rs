//! TFTP's rules one by one, with exact counts: RFC 1123 (4.2.3.1), 1350, 2347 to 2349, 7440.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use magnetite_wire::tftp::{
    ErrorCode, Event, Failure, Negotiated, Output, Packet, ReadRequest, Transfer,
    transfer::{Limits, TRIES},
};
use rstest::rstest;

/// Ethernet's 1500 bytes less the headers of IP (20), UDP (8) and TFTP (4).
const LIMITS: Limits = Limits { block_size: 1468, window: 16 };

fn blocks(outputs: &[Output]) -> Vec<u64> {
    outputs.iter().filter_map(|output| if let Output::Data { block } = output { Some(*block) } else { None }).collect()
}

/// A client that takes each window as it comes, on a network that shows the server every ACK of the last 32 again after each
/// one, and loses everything each time `lose` says so. Returns how often the timer went off.
fn storm(transfer: &mut Transfer, lose: impl Fn(u64) -> bool) -> u64 {
    let (mut seen, mut timers, mut turn) = (vec![0u16; 32], 0, 0);
    let mut sent = transfer.on(Event::Start);
    loop {
        turn += 1;
        if lose(turn) {
            timers += 1;
            sent = transfer.on(Event::Timer);
            continue;
        }
        let number = blocks(&sent).last().map_or(0, |block| Transfer::wire_number(*block));
        sent = transfer.on(Event::Ack(number));
        seen.rotate_left(1);
        seen[31] = number;
        if transfer.is_over() {
            return timers;
        }
        for old in &seen {
            assert_eq!(transfer.on(Event::Ack(*old)), [], "an ACK of {old} that was seen before, at {number}");
        }
    }
}

/// RFC 1123, 4.2.3.1 (MUST): DATA sent is blocks and time-outs, however many ACKs are doubled. 100 MiB in blocks of 512 bytes
/// are 204,801: the number on the wire wraps three times, and ACKs from before and after each wrap are all there again.
#[rstest]
#[case::wraps(100 << 20, 512, 1)]
#[case::wraps_in_windows(100 << 20, 512, 16)]
#[case::ends_at_the_wrap(65_535 * 8, 8, 1)]
#[case::ends_at_zero(65_536 * 8 - 1, 8, 1)]
#[case::ethernet(100 << 20, 1468, 1)]
fn a_storm_of_acks_adds_no_data(#[case] size: u64, #[case] block_size: u16, #[case] window: u16) {
    let agreed = Negotiated { block_size, window, oack: true, size: true };
    let last = size / u64::from(block_size) + 1;
    let mut transfer = Transfer::new(size, agreed);
    assert_eq!(storm(&mut transfer, |_| false), 0);
    assert_eq!((transfer.blocks_sent(), transfer.resent(), transfer.retries()), (last, 0, 0));
    assert_eq!(transfer.acknowledged(), size);

    // Each thousandth answer is lost: what is sent besides is what the timer sent, a window each time.
    let mut transfer = Transfer::new(size, agreed);
    let timers = storm(&mut transfer, |turn| turn % 1000 == 7);
    assert!(timers > 0);
    assert_eq!((transfer.retries(), transfer.acknowledged()), (timers, size));
    if window == 1 {
        assert_eq!(transfer.blocks_sent(), last + timers, "blocks and time-outs");
    }
    assert_eq!(transfer.blocks_sent(), last + transfer.resent());
}

/// RFC 2348: 8 to 65464 may be asked for, and no more is granted than fits a frame; whatever was granted carries the file.
#[test]
fn every_block_size_is_granted_up_to_what_fits() {
    for asked in 0..=66_000u32 {
        let raw = format!("\0\u{1}f\0octet\0blksize\0{asked}\0");
        let Packet::Read(request) = Packet::decode(raw.as_bytes()).unwrap() else { panic!("a request") };
        let agreed = Negotiated::from_request(&request, LIMITS);
        let acknowledged = agreed.acknowledge(&request, 9);
        if (8..=65_464).contains(&asked) {
            let granted = asked.min(1468);
            assert_eq!(u32::from(agreed.block_size), granted, "{asked}");
            assert_eq!(acknowledged, [("blksize".to_owned(), granted.to_string())]);
        } else {
            assert_eq!(
                (agreed.block_size, agreed.oack),
                (512, false),
                "{asked} is no size: as if it were not asked for"
            );
            assert_eq!(acknowledged, []);
        }
    }
}

#[rstest]
fn the_file_arrives_in_blocks_of(#[values(8, 9, 511, 512, 1428, 1468, 8192, 65_464)] block_size: u16) {
    let size = 1_000_001;
    let agreed = Negotiated { block_size, window: 4, oack: true, size: false };
    let mut transfer = Transfer::new(size, agreed);
    let (mut sent, mut at) = (transfer.on(Event::Start), 0);
    let mut ack = 0;
    while sent != [Output::Done] {
        for block in blocks(&sent) {
            let range = transfer.range(block);
            assert_eq!(range.start, at, "the bytes follow one another");
            assert!(range.end - range.start <= u64::from(block_size));
            (at, ack) = (range.end, Transfer::wire_number(block));
        }
        sent = transfer.on(Event::Ack(ack));
    }
    assert_eq!(at, size);
}

/// EDK2 asks for the size, ends that with an error and asks again for the file: nothing of the first may be left. Its code
/// is 8, that of older ROMs 0.
#[rstest]
fn a_size_probe_leaves_nothing_behind(#[values(0, 8)] code: u16) {
    let request =
        ReadRequest { file: "snponly.efi".into(), size: true, block_size: Some(1468), ..ReadRequest::default() };
    let agreed = Negotiated::from_request(&request, LIMITS);
    assert_eq!(agreed.acknowledge(&request, 1_040_896)[0], ("tsize".to_owned(), "1040896".to_owned()));
    let mut transfer = Transfer::new(1_040_896, agreed);
    assert_eq!(transfer.on(Event::Start)[0], Output::Oack, "the size, before any DATA");
    assert_eq!(transfer.on(Event::Error(ErrorCode(code))), [Output::Failed(Failure::SizeProbe)]);
    assert!(transfer.is_over() && transfer.blocks_sent() == 0);
    for event in [Event::Timer, Event::Ack(0), Event::Ack(1), Event::Start, Event::Error(ErrorCode(8))] {
        assert_eq!(transfer.on(event), [], "{event:?}");
    }
}

/// RFC 7440, 4: an ACK inside the window is answered with what follows it, once. The same ACK again is a duplicate.
#[test]
fn an_ack_inside_the_window_counts_once() {
    let mut transfer = Transfer::new(1 << 20, Negotiated { block_size: 512, window: 4, oack: true, size: false });
    transfer.on(Event::Start);
    assert_eq!(blocks(&transfer.on(Event::Ack(0))), [1, 2, 3, 4]);
    assert_eq!(blocks(&transfer.on(Event::Ack(2))), [3, 4, 5, 6]);
    for _ in 0..100 {
        assert_eq!(transfer.on(Event::Ack(2)), []);
        assert_eq!(transfer.on(Event::Ack(1)), []);
    }
    assert_eq!(transfer.blocks_sent(), 8);
}

/// A doubled ACK must not feed the patience of the server: a client that says only the same is given up like a silent one.
#[test]
fn doubled_acks_do_not_keep_a_transfer_alive() {
    let mut transfer = Transfer::new(1 << 20, Negotiated { block_size: 512, window: 1, oack: true, size: false });
    transfer.on(Event::Start);
    transfer.on(Event::Ack(0));
    transfer.on(Event::Ack(1));
    for _ in 0..TRIES {
        assert_eq!(blocks(&transfer.on(Event::Timer)), [2]);
        assert_eq!(transfer.on(Event::Ack(1)), []);
    }
    assert_eq!(transfer.on(Event::Timer), [Output::Failed(Failure::Silent)]);
}
