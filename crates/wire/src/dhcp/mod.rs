//! DHCPv4 (RFC 2131, 2132, 3396) as PXE clients speak it (RFC 4578; PXE 2.1).

mod options;
mod packet;
pub mod reply;
pub mod request;

pub use options::{Arch, MessageType, OptionCode, OptionError, Options};
pub use packet::{DecodeError, EncodeError, Packet};
