//! DHCPv4, DHCPv6, PXE, TFTP, router-discovery and LLDP packets: bytes to values and back.
//!
//! Every byte that comes in here was sent by somebody whom nobody knows. So nothing indexes, nothing
//! unwraps, nothing allocates by a length that the peer chose, and nothing does IO or reads a clock.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects, missing_docs)
)]

pub mod dhcp;
pub mod dhcpv6;
pub mod icmpv6;
pub mod lldp;
pub mod pxe;
pub mod reader;
pub mod tftp;
