//! What a boot request says of its sender: the facts that the decision needs, without the packet.

use crate::fleet::Identity;

/// Which protocol the client speaks, by option 60.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientClass {
    /// `PXEClient`: loaders come by TFTP.
    Pxe,
    /// `HTTPClient`: the loader comes by HTTP, from the firmware itself.
    Http,
}

/// A boot request as values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which protocol the client speaks.
    pub class: ClientClass,
    /// Option 93, all of it: RFC 4578 makes it a list.
    pub arches: Vec<u16>,
    /// True if the client is iPXE: user class `iPXE` (option 77) or iPXE's own options (175).
    pub ipxe: bool,
    /// True if it is an iPXE that has HTTPS, by its feature flags (option 175). Those that do not say have none.
    pub https: bool,
    /// Who it says it is.
    pub identity: Identity,
}
