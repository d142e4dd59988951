//! DHCPv6 (RFC 8415) as boot clients speak it (RFC 5970: URL, parameters, architectures).
//!
//! DHCPv6 knows no proxy. What stands in for one, and which firmware takes it, is told in [`reply`].

mod duid;
mod options;
mod packet;
pub mod reply;

pub use duid::Duid;
pub use options::{OptionCode, OptionError, Options, VendorClass};
pub use packet::{DecodeError, EncodeError, Message, MessageType, Packet, Relay};

/// Where clients send to: all servers and relay agents on the link (RFC 8415, 7.1).
pub const ALL_SERVERS: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The port of servers and relay agents.
pub const SERVER_PORT: u16 = 547;
/// The port of clients.
pub const CLIENT_PORT: u16 = 546;
/// Intel's enterprise number, under which PXE and HTTP boot have their vendor class (UEFI 2.10, 24.3.2).
pub const INTEL: u32 = 343;
