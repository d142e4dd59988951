//! When firmware asks again, and when it gives up. Source: ../../docs/under-fire.md, which says what was measured.

use std::time::Duration;

const fn ms(milliseconds: &'static [u64]) -> Waits {
    Waits(milliseconds)
}

/// How long a box waits after each try, in milliseconds. After the last it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits(&'static [u64]);

impl Waits {
    /// The wait after a try, counted from 0; none after the last.
    pub fn after(self, tries: usize) -> Option<Duration> {
        self.0.get(tries).copied().map(Duration::from_millis)
    }
}

/// DISCOVER and REQUEST of the PXE specification 2.1, which EDK2 and the ROMs of network cards keep to.
pub const PXE_DHCP: Waits = ms(&[4000, 8000, 16_000, 32_000]);
/// The same of iPXE: its retry timer doubles from one second, and ends with the first wait over ten.
pub const IPXE_DHCP: Waits = ms(&[1000, 2000, 4000, 8000]);
/// How long iPXE that has an address waits for a proxy's offer (DHCP_DISC_PROXY_TIMEOUT_SEC).
pub const IPXE_PROXY: Duration = Duration::from_secs(2);
/// A boot server on port 4011, asked by EDK2.
pub const PXE_BOOT_SERVER: Waits = ms(&[1000, 2000, 3000, 4000]);
/// TFTP of EDK2: six tries of four seconds.
pub const PXE_TFTP: Waits = ms(&[4000, 4000, 4000, 4000, 4000, 4000]);
/// How long a script may take to come. iPXE's TCP gives up after some 50 s without an answer.
pub const HTTP: Duration = Duration::from_secs(50);
