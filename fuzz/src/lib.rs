//! What must hold of everything in Magnetite that reads bytes from nobody knows whom.
//!
//! Each target is one function of bytes that panics if a property does not hold. `cargo xtask fuzz` lets libFuzzer look
//! for such bytes; `cargo test -p magnetite-fuzz` runs the seeds (`corpus/`) and whatever was ever found
//! (`regressions/`) through the same functions, and needs no fuzzer for it.

pub mod dhcp;
pub mod dhcpv6;
pub mod icmpv6;
pub mod image;
pub mod join;
pub mod link;
pub mod lldp;
pub mod pxe;
pub mod qcow2;
pub mod reply;
pub mod request;
pub mod template;
pub mod tftp;
pub mod tpm;
pub mod transfer;

/// A target by name.
pub struct Target {
    /// Name of its binary and of its folders of inputs.
    pub name: &'static str,
    /// Panics if a property does not hold.
    pub check: fn(&[u8]),
}

/// All targets; a new decoder gets its line here, its `[[bin]]` in Cargo.toml and its seeds in `examples/seed.rs`.
pub const TARGETS: [Target; 15] = [
    Target { name: "dhcp", check: dhcp::check },
    Target { name: "dhcpv6", check: dhcpv6::check },
    Target { name: "icmpv6", check: icmpv6::check },
    Target { name: "image", check: image::check },
    Target { name: "join", check: join::check },
    Target { name: "link", check: link::check },
    Target { name: "lldp", check: lldp::check },
    Target { name: "pxe", check: pxe::check },
    Target { name: "qcow2", check: qcow2::check },
    Target { name: "reply", check: reply::check },
    Target { name: "request", check: request::check },
    Target { name: "template", check: template::check },
    Target { name: "tftp", check: tftp::check },
    Target { name: "tpm", check: tpm::check },
    Target { name: "transfer", check: transfer::check },
];

/// Runs a decoder, and panics if it holds more than `per_byte` bytes of memory at once for each byte that it reads: a length
/// that the peer wrote must never become an allocation by itself.
pub fn bounded<T>(input: &[u8], per_byte: u64, decode: impl FnOnce() -> T) -> T {
    let mut decoded = None;
    let used = allocation_counter::measure(|| decoded = Some(decode()));
    let most = 4096 + per_byte * input.len() as u64;
    assert!(used.bytes_max <= most, "{} bytes held at once to read {} bytes", used.bytes_max, input.len());
    decoded.expect("the decoder ran")
}
