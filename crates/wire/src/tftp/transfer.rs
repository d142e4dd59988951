//! One read transfer, without a socket, a file or a clock.
//!
//! Three rules, each with a scar behind it. DATA is sent again only when a timer says so, never on a duplicate
//! ACK (RFC 1123, 4.2.3.1: the Sorcerer's Apprentice). Until the first ACK proves that the address is real,
//! at most two copies more are sent, else a forged request makes us an amplifier (the published factor for
//! TFTP is about 60); then nothing is sent, but an ACK is still waited for: all copies of ours, or the client's
//! ACK of each, may have been lost, and EDK2 sends that ACK for 24 s and never asks anew. After the first ACK the
//! timer is short and patient: at 20 % loss, 0.5 s and 20 tries finish every file, the usual 3 s and 5 tries
//! hardly any.

use std::{ops::Range, time::Duration};

use super::packet::{ErrorCode, ReadRequest};

/// The pause before something is sent again.
pub const RETRANSMIT: Duration = Duration::from_millis(500);
/// Tries again before the client's first ACK of an OACK.
pub const TRIES_BEFORE_ACK: u32 = 2;
/// Tries again before the first ACK where no option was asked for: the answer is a block of 512 bytes to a request of some
/// twenty, and a second copy of it would be more than 25 bytes for each one, headers counted.
pub const TRIES_OF_A_BLOCK: u32 = 1;
/// How long a first ACK is waited for when nothing is sent any more: EDK2 tries six times, four seconds apart.
pub const PATIENCE: Duration = Duration::from_secs(25);
/// Tries again after it, for one block.
pub const TRIES: u32 = 20;
/// Block size without the option (RFC 1350).
pub const DEFAULT_BLOCK: u16 = 512;

/// What client and server agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes a block.
    pub block_size: u16,
    /// Blocks a window.
    pub window: u16,
    /// True if an OACK says so first.
    pub oack: bool,
    /// True if the client asked for the size: it may want no more than that.
    pub size: bool,
}

/// The server's own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest block that fits the path's MTU: 1468 for Ethernet (1500 less IP, UDP and TFTP headers).
    pub block_size: u16,
    /// Largest window.
    pub window: u16,
}

impl Negotiated {
    /// What a request comes to under the server's limits.
    ///
    /// The client's `timeout` is never agreed to. Who acknowledges it must wait that long (RFC 2349), up to 255 s, and then
    /// neither loss nor a client that went away is met in time. A server may leave an option out (RFC 2347).
    pub fn from_request(request: &ReadRequest, limits: Limits) -> Self {
        let ReadRequest { file: _, block_size, size, window, timeout: _ } = request;
        Self {
            block_size: block_size.map_or(DEFAULT_BLOCK, |asked| asked.min(limits.block_size.max(8))),
            window: window.map_or(1, |asked| asked.min(limits.window.max(1))),
            oack: block_size.is_some() || *size || window.is_some(),
            size: *size,
        }
    }

    /// The options to acknowledge: of those that were asked for (RFC 2347), the ones that are kept to. `size` is the file's,
    /// in bytes.
    pub fn acknowledge(&self, request: &ReadRequest, size: u64) -> Vec<(String, String)> {
        let mut options = Vec::new();
        if request.size {
            options.push(("tsize".to_owned(), size.to_string()));
        }
        if request.block_size.is_some() {
            options.push(("blksize".to_owned(), self.block_size.to_string()));
        }
        if request.window.is_some() {
            options.push(("windowsize".to_owned(), self.window.to_string()));
        }
        options
    }
}

/// What happens to a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The request was accepted.
    Start,
    /// The client acknowledged a block.
    Ack(u16),
    /// The client sent an error.
    Error(ErrorCode),
    /// The timer went off.
    Timer,
}

/// What a transfer wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send the OACK.
    Oack,
    /// Send a block; [`Transfer::range`] says which bytes.
    Data {
        /// Its number, from 1, not wrapped.
        block: u64,
    },
    /// Set the timer anew.
    ArmTimer(Duration),
    /// The whole file is acknowledged.
    Done,
    /// It is over without that.
    Failed(Failure),
}

/// What a transfer wants done after an event, in one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing; the timer goes on.
    Nothing,
    /// Send the OACK and set the timer to [`RETRANSMIT`].
    Oack,
    /// Send these blocks, in their order, and set the timer to [`RETRANSMIT`].
    Blocks {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// Send nothing more, and set the timer to [`PATIENCE`]: only an ACK brings this transfer back.
    Quiet,
    /// The whole file is acknowledged.
    Done,
    /// It is over without that.
    Failed(Failure),
}

/// Why a transfer ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The client only wanted the size: EDK2 asks once for it and once for the file. No fault.
    SizeProbe,
    /// The client gave up.
    Aborted(ErrorCode),
    /// The client was never heard of again.
    Silent,
}

/// A read transfer. Blocks are numbered in 64 bits inside; only the wire's numbers wrap (RFC 1350 does not
/// say how; every client carries on with 0).
#[derive(Debug, Clone)]
pub struct Transfer {
    size: u64,
    agreed: Negotiated,
    last: u64,
    acked: u64,
    next: u64,
    awaiting_oack: bool,
    heard: bool,
    /// Tries again for what is awaited now.
    tries: u32,
    /// True once anything went out.
    started: bool,
    /// The last block that went out at least once.
    highest: u64,
    blocks_sent: u64,
    resent: u64,
    retries: u64,
    over: bool,
}

impl Transfer {
    /// A transfer of a file of `size` bytes.
    pub fn new(size: u64, agreed: Negotiated) -> Self {
        let agreed = Negotiated { block_size: agreed.block_size.max(1), ..agreed };
        let block = u64::from(agreed.block_size);
        // A file of a whole number of blocks ends with an empty one.
        let last = size.checked_div(block).unwrap_or(0).saturating_add(1);
        Self {
            size,
            agreed,
            last,
            acked: 0,
            next: 1,
            awaiting_oack: agreed.oack,
            heard: false,
            tries: 0,
            started: false,
            highest: 0,
            blocks_sent: 0,
            resent: 0,
            retries: 0,
            over: false,
        }
    }

    /// The bytes of a block.
    pub fn range(&self, block: u64) -> Range<u64> {
        let size = u64::from(self.agreed.block_size);
        let start = block.saturating_sub(1).saturating_mul(size).min(self.size);
        start..start.saturating_add(size).min(self.size)
    }

    /// A block's number on the wire.
    pub fn wire_number(block: u64) -> u16 {
        let [.., high, low] = block.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Packets that were sent again: blocks and OACKs, whether a timer or an ACK inside the window asked for it.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// DATA packets that were sent, each time counted.
    pub fn blocks_sent(&self) -> u64 {
        self.blocks_sent
    }

    /// How often the timer made it send again.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Bytes that the client has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acked.saturating_mul(u64::from(self.agreed.block_size)).min(self.size)
    }

    /// True once the client has acknowledged anything.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// True from when nothing is sent any more, until the ACK that is waited for: whoever needs its room may have it.
    pub fn is_quiet(&self) -> bool {
        !self.heard && self.tries > self.most_tries()
    }

    /// Tries again for what is awaited now.
    fn most_tries(&self) -> u32 {
        match (self.heard, self.agreed.oack) {
            (true, _) => TRIES,
            (false, true) => TRIES_BEFORE_ACK,
            (false, false) => TRIES_OF_A_BLOCK,
        }
    }

    /// True once it is done or failed.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes one event, says what to do, packet by packet: [`Transfer::step`] spelled out.
    pub fn on(&mut self, event: Event) -> Vec<Output> {
        match self.step(event) {
            Step::Nothing => Vec::new(),
            Step::Oack => vec![Output::Oack, Output::ArmTimer(RETRANSMIT)],
            Step::Blocks { first, last } => {
                let blocks = (first..=last).map(|block| Output::Data { block });
                blocks.chain([Output::ArmTimer(RETRANSMIT)]).collect()
            }
            Step::Quiet => vec![Output::ArmTimer(PATIENCE)],
            Step::Done => vec![Output::Done],
            Step::Failed(failure) => vec![Output::Failed(failure)],
        }
    }

    /// Takes one event, says what to do. Allocates nothing: there is an event for every packet of every client.
    pub fn step(&mut self, event: Event) -> Step {
        if self.over {
            return Step::Nothing;
        }
        match event {
            Event::Start if self.started => Step::Nothing,
            Event::Start => self.send(),
            Event::Ack(number) => self.ack(number),
            Event::Timer => self.timer(),
            // Older ROMs end a probe with "undefined" instead of 8.
            Event::Error(ErrorCode::OPTIONS | ErrorCode::UNDEFINED) if self.awaiting_oack && self.agreed.size => {
                self.fail(Failure::SizeProbe)
            }
            Event::Error(code) => self.fail(Failure::Aborted(code)),
        }
    }

    fn fail(&mut self, failure: Failure) -> Step {
        self.over = true;
        Step::Failed(failure)
    }

    fn send(&mut self) -> Step {
        let again = std::mem::replace(&mut self.started, true);
        if self.awaiting_oack {
            self.resent = self.resent.saturating_add(u64::from(again));
            return Step::Oack;
        }
        // No more than one block goes to an address that nobody has proved.
        let window = if self.heard { u64::from(self.agreed.window.max(1)) } else { 1 };
        let (first, last) = (self.next, self.acked.saturating_add(window).min(self.last));
        let old = self.highest.min(last).saturating_add(1).saturating_sub(first);
        self.resent = self.resent.saturating_add(old);
        self.blocks_sent = self.blocks_sent.saturating_add(last.saturating_add(1).saturating_sub(first));
        self.highest = self.highest.max(last);
        self.next = last.saturating_add(1);
        Step::Blocks { first, last }
    }

    fn ack(&mut self, number: u16) -> Step {
        if self.awaiting_oack {
            if number != 0 {
                return Step::Nothing;
            }
            (self.awaiting_oack, self.heard, self.tries) = (false, true, 0);
            return self.send();
        }
        // The wrapped number must name a block in flight; anything else is stale, doubled or forged, and nothing
        // is ever sent on its account.
        let ahead = u64::from(number.wrapping_sub(Self::wire_number(self.acked)));
        let named = self.acked.saturating_add(ahead);
        if ahead == 0 || named >= self.next {
            return Step::Nothing;
        }
        (self.acked, self.heard, self.tries) = (named, true, 0);
        if self.acked == self.last {
            self.over = true;
            return Step::Done;
        }
        // RFC 7440, 4: an ACK inside the window says that the rest of it was lost.
        self.next = self.acked.saturating_add(1);
        self.send()
    }

    fn timer(&mut self) -> Step {
        let most = self.most_tries();
        if self.tries > most || (self.heard && self.tries == most) {
            return self.fail(Failure::Silent);
        }
        self.tries = self.tries.saturating_add(1);
        if self.tries > most {
            return Step::Quiet;
        }
        self.retries = self.retries.saturating_add(1);
        self.next = self.acked.saturating_add(1);
        self.send()
    }
}
