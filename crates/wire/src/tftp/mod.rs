//! TFTP (RFC 1350) with options (RFC 2347, 2348, 2349, 7440), for reading only.

pub mod packet;
pub mod transfer;

pub use packet::{DecodeError, ErrorCode, Packet, ReadRequest};
pub use transfer::{Event, Failure, Negotiated, Output, Step, Transfer};
