//! PXE's sub-options of option 43 (PXE 2.1, table 2-1).

use crate::reader::Reader;

/// Sub-option 6, "discovery control": bit 3 says that the boot file in the same offer is to be loaded at once,
/// without asking a boot server on port 4011.
pub const DISCOVERY_CONTROL: u8 = 6;
/// Sub-option 71, "boot item": the type and layer that a client chose from a menu; a reply echoes it.
pub const BOOT_ITEM: u8 = 71;
/// iPXE's sub-option of option 175 for HTTPS: one byte, the feature's version.
pub const IPXE_HTTPS: u8 = 20;
/// The end of the sub-options.
pub const END: u8 = 255;

/// Says: load the boot file of this offer. This one form satisfied every firmware that was measured.
pub const BOOT_AT_ONCE: [u8; 4] = [DISCOVERY_CONTROL, 1, 8, END];

/// Finds a sub-option. A broken encoding ends the search: what came before it counts. iPXE's option 175 has the same
/// form, with sub-options of its own.
pub fn sub_option(encapsulated: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(encapsulated);
    loop {
        match reader.byte()? {
            0 => {}
            END => return None,
            code => {
                let len = reader.byte()?;
                let value = reader.slice(usize::from(len))?;
                if code == wanted {
                    return Some(value);
                }
            }
        }
    }
}
