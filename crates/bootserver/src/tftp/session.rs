//! One transfer and what is to be told of it.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use magnetite_api::report::BootStepName;
use magnetite_daemon::clock;
use magnetite_wire::tftp::{Failure, Negotiated, Packet, ReadRequest, Step, Transfer};

use super::send;
use crate::{
    app::App,
    loaders::Asked,
    metrics::{Way, count},
    record::Detail,
};

/// A transfer under way.
pub struct Session {
    /// Names it among all that ever were.
    pub id: u64,
    /// How far it is.
    pub transfer: Transfer,
    /// When something is sent again.
    pub timer: Instant,
    /// When the timer is looked at next: no later than it goes off.
    pub look: Instant,
    request: ReadRequest,
    agreed: Negotiated,
    file: Asked,
    /// Whether a window goes out in one piece, to be cut up below us.
    segments: bool,
}

impl Session {
    pub fn new(id: u64, request: &ReadRequest, agreed: Negotiated, file: Asked, timer: Instant) -> Self {
        let transfer = Transfer::new(file.bytes.len() as u64, agreed);
        Self { id, transfer, timer, look: timer, request: request.clone(), agreed, file, segments: true }
    }

    /// True if the request is the one that this transfer is for, the client has not answered yet, and the next word is ours.
    pub fn is_unanswered(&self, request: &ReadRequest) -> bool {
        !self.transfer.is_heard() && !self.transfer.is_quiet() && self.request == *request
    }

    /// Sends what a step wants sent. What a full buffer, or a client that is gone, swallows, the timer sends again.
    pub fn send(&mut self, socket: &UdpSocket, peer: SocketAddr, step: Step) {
        let Self { transfer, request, agreed, file, segments, .. } = self;
        match step {
            Step::Oack => {
                let options = agreed.acknowledge(request, file.bytes.len() as u64);
                send::packet(socket, peer, &Packet::Oack(options));
            }
            Step::Blocks { first, last } => {
                let blocks = (first..=last).map(|block| {
                    let range = transfer.range(block);
                    let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                    let bytes = range.and_then(|(start, end)| file.bytes.get(start..end)).unwrap_or_default();
                    (Transfer::wire_number(block), bytes)
                });
                send::blocks(socket, peer, blocks, agreed.block_size, segments);
            }
            Step::Nothing | Step::Quiet | Step::Done | Step::Failed(_) => {}
        }
    }

    /// Tells how it ended.
    pub fn over(self, app: &App, peer: SocketAddr, outcome: &'static str) {
        let Self { transfer, file: Asked { machine, name: loader, bytes: _ }, .. } = self;
        let (sent, resent) = (transfer.acknowledged(), transfer.resent());
        count(&app.metrics.tftp, outcome);
        app.metrics.sent(Way::Tftp, sent);
        let name = machine.as_ref().and_then(|machine| machine.metadata.name.as_deref());
        match outcome {
            // EDK2 asks twice: for the size, then for the file.
            "size_probe" => tracing::debug!(%peer, file = loader, machine = name, "TFTP size told"),
            "done" => {
                tracing::info!(%peer, file = loader, machine = name, bytes = sent, retries = resent, "TFTP transfer done");
            }
            _ => {
                tracing::warn!(%peer, file = loader, machine = name, bytes = sent, reason = outcome, "TFTP transfer not done");
            }
        }
        if let ("done", Some(machine), false) = (outcome, machine, loader.ends_with(".ipxe")) {
            let words = if resent > 0 { format!("{loader}, {resent} packets sent again") } else { loader };
            let detail = Detail { bytes: Some(sent), ..Detail::words(words) }.at_peer(peer.ip());
            app.records.step(&machine, BootStepName::LoaderSent, detail, clock::now());
        }
    }
}

/// A failure in the words of the metric.
pub fn outcome(failure: Failure) -> &'static str {
    match failure {
        Failure::SizeProbe => "size_probe",
        Failure::Aborted(_) => "aborted",
        Failure::Silent => "silent",
    }
}
