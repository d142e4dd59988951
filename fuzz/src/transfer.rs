//! A TFTP transfer under whatever a client, a network or a forger sends.
//!
//! The input: size of the file (4 bytes), the server's limits (2 for the block, 1 for the window), length of the request
//! (1), the request as on the wire, then events of 3 bytes: what, and a number.

use magnetite_wire::{
    reader::Reader,
    tftp::{
        ErrorCode, Event, Failure, Negotiated, Output, Packet, Transfer,
        transfer::{Limits, PATIENCE, TRIES, TRIES_BEFORE_ACK, TRIES_OF_A_BLOCK},
    },
};

/// Files are at most as large: no loader has more, and more blocks than the wire can count fit.
pub const MOST: u32 = (128 << 20) - 1;

/// What happens, by the first byte of an event; others are taken modulo 5.
pub mod kind {
    /// The timer goes off.
    pub const TIMER: u8 = 0;
    /// An acknowledgement, by its number on the wire.
    pub const ACK: u8 = 1;
    /// An acknowledgement, counted from the last one that was taken; so a few bytes lead far into a file.
    pub const ACK_NEXT: u8 = 2;
    /// The client's error.
    pub const ERROR: u8 = 3;
    /// The request again.
    pub const START: u8 = 4;
}

/// Every step does exactly what the rules of `wire::tftp::transfer` allow, and every transfer ends.
pub fn check(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let Some((mut model, mut events)) = begin(&mut reader).map(|model| (model, reader)) else { return };
    model.feed(Event::Start);
    while let Some([what, high, low]) = events.take() {
        let number = u16::from_be_bytes([high, low]);
        let event = match what % 5 {
            kind::TIMER => Event::Timer,
            kind::ACK => Event::Ack(number),
            kind::ACK_NEXT => Event::Ack(Transfer::wire_number(model.acked).wrapping_add(number)),
            kind::ERROR => Event::Error(ErrorCode(number)),
            _ => Event::Start,
        };
        model.feed(event);
    }
    model.clone().finish();
    model.abandon();
}

fn begin(reader: &mut Reader<'_>) -> Option<Model> {
    let size = u32::from_be_bytes(reader.take()?) & MOST;
    let block_size = u16::from_be_bytes(reader.take()?);
    let limits = Limits { block_size, window: reader.byte()?.into() };
    let len = reader.byte()?;
    let Ok(Packet::Read(request)) = Packet::decode(reader.slice(len.into())?) else { return None };
    Some(Model::new(size.into(), Negotiated::from_request(&request, limits)))
}

/// What a transfer has to be at, worked out from the events alone.
#[derive(Clone)]
struct Model {
    transfer: Transfer,
    agreed: Negotiated,
    size: u64,
    last: u64,
    acked: u64,
    highest: u64,
    started: bool,
    awaiting_oack: bool,
    heard: bool,
    tries: u32,
    over: bool,
    /// Packets to an address that nobody proved.
    unproven: u32,
    data: u64,
    resent: u64,
    retries: u64,
}

impl Model {
    fn new(size: u64, agreed: Negotiated) -> Self {
        Self {
            transfer: Transfer::new(size, agreed),
            agreed,
            size,
            last: size / u64::from(agreed.block_size) + 1,
            acked: 0,
            highest: 0,
            started: false,
            awaiting_oack: agreed.oack,
            heard: false,
            tries: 0,
            over: false,
            unproven: 0,
            data: 0,
            resent: 0,
            retries: 0,
        }
    }

    fn feed(&mut self, event: Event) {
        let outputs = self.transfer.on(event);
        let end = match event {
            _ if self.over => return assert_eq!(outputs, [], "over is over: {event:?}"),
            Event::Start if self.started => return assert_eq!(outputs, [], "a doubled request"),
            Event::Start => None,
            Event::Ack(number) => match self.named(number) {
                // RFC 1123, 4.2.3.1: never DATA for an ACK that is doubled, stale or made up.
                None => return assert_eq!(outputs, [], "{event:?} after {}, {} sent", self.acked, self.highest),
                Some(block) => {
                    (self.acked, self.heard, self.tries, self.awaiting_oack) = (block, true, 0, false);
                    (block == self.last).then_some(Output::Done)
                }
            },
            Event::Timer => {
                self.tries += 1;
                if !self.heard && self.tries == self.before_ack() + 1 {
                    // Nothing more goes to an address that nobody proved; its ACK is waited for.
                    self.started = true;
                    return assert_eq!(outputs, [Output::ArmTimer(PATIENCE)]);
                }
                let most = if self.heard { TRIES } else { self.before_ack() + 1 };
                (self.tries > most).then_some(Output::Failed(Failure::Silent))
            }
            Event::Error(code) => {
                let probe = self.awaiting_oack && self.agreed.size && matches!(code.0, 0 | 8);
                Some(Output::Failed(if probe { Failure::SizeProbe } else { Failure::Aborted(code) }))
            }
        };
        self.started = true;
        if let Some(end) = end {
            self.over = true;
            assert_eq!(outputs, [end], "{event:?}");
        } else {
            self.retries += u64::from(event == Event::Timer);
            self.sent(&outputs);
        }
        self.count();
    }

    fn before_ack(&self) -> u32 {
        if self.agreed.oack { TRIES_BEFORE_ACK } else { TRIES_OF_A_BLOCK }
    }

    /// The block in flight that an acknowledgement names.
    fn named(&self, number: u16) -> Option<u64> {
        if self.awaiting_oack {
            return (number == 0).then_some(0);
        }
        (self.acked + 1..=self.highest).find(|block| Transfer::wire_number(*block) == number)
    }

    /// What goes out is the OACK, or the window after the last acknowledged block; then the timer is set.
    fn sent(&mut self, outputs: &[Output]) {
        let Some((Output::ArmTimer(after), packets)) = outputs.split_last() else {
            panic!("without a timer it would never end: {outputs:?}");
        };
        assert!(!after.is_zero(), "a timer that goes off at once");
        let first = self.data == 0 && self.resent == 0 && self.retries == 0;
        if self.awaiting_oack {
            assert_eq!(packets, [Output::Oack]);
            self.resent += u64::from(!first);
        } else {
            let window = if self.heard { u64::from(self.agreed.window) } else { 1 };
            let end = (self.acked + window).min(self.last);
            let blocks: Vec<_> = (self.acked + 1..=end).collect();
            let wanted: Vec<_> = blocks.iter().map(|block| Output::Data { block: *block }).collect();
            assert_eq!(packets, wanted, "the window after {}", self.acked);
            for block in blocks {
                self.in_file(block);
                self.data += 1;
                self.resent += u64::from(block <= self.highest);
                self.highest = self.highest.max(block);
            }
        }
        if !self.heard {
            self.unproven += 1;
            assert!(self.unproven <= 1 + self.before_ack() && packets.len() == 1, "an amplifier");
        }
    }

    fn in_file(&self, block: u64) {
        let (size, range) = (u64::from(self.agreed.block_size), self.transfer.range(block));
        assert_eq!(range.start, (block - 1) * size, "block {block}");
        assert!(range.start <= range.end && range.end <= self.size, "block {block}: {range:?} of {}", self.size);
        let full = range.end - range.start == size;
        assert_eq!(full, block < self.last, "only the last block is short: {block} of {}", self.last);
    }

    fn count(&self) {
        let Self { transfer, acked, .. } = self;
        assert_eq!(transfer.is_over(), self.over);
        assert_eq!((transfer.blocks_sent(), transfer.retries()), (self.data, self.retries));
        assert_eq!(transfer.resent(), self.resent);
        assert_eq!(transfer.acknowledged(), (acked * u64::from(self.agreed.block_size)).min(self.size));
        if self.agreed.window == 1 {
            assert!(self.data <= self.highest + self.retries, "DATA sent: blocks and time-outs, and nothing else");
        }
    }

    /// From wherever it is, a client that acknowledges every window gets on with each; here, for some of them.
    fn finish(mut self) {
        for _ in 0..512 {
            if self.over {
                return;
            }
            let before = (self.acked, self.awaiting_oack);
            let block = if self.awaiting_oack { 0 } else { self.highest };
            self.feed(Event::Ack(Transfer::wire_number(block)));
            assert_ne!((self.acked, self.awaiting_oack), before, "a client that takes everything is not served");
        }
    }

    /// From wherever it is, a client that went away is given up.
    fn abandon(mut self) {
        for _ in 0..=TRIES {
            self.feed(Event::Timer);
        }
        assert!(self.over, "a transfer that never ends");
        self.feed(Event::Ack(Transfer::wire_number(self.highest)));
    }
}
