//! Boxes by the thousand, simulated: what firmware sends, when it sends it again, and when it gives up, over real sockets.
//!
//! Nothing here stands on Magnetite's own crates: a fault that client and server share would not be seen. A box is a value
//! ([`boxes::Machine`]) that takes packets and the time and says what it does next; [`crowd`] has the sockets and the clock.
//! What is not real: TCP is this kernel's, not iPXE's; every client asks for broadcast answers (as OVMF and iPXE of 2025 do, older
//! iPXE does not), because all share one interface; and a loader that was fetched whole is compared and then taken as run.

pub mod boxes;
pub mod crowd;
pub mod junk;
pub mod packet;
pub mod report;
pub mod stuck;
mod timers;
mod transfer;
