//! BMCs: one box's power, by Redfish or by IPMI.
//!
//! What a BMC answers becomes values ([`redfish::resource`], [`ipmi::output`]); which request comes next is decided there as well;
//! [`redfish::Redfish`] and [`ipmi::Ipmi`] ask. Each of their calls ends within its deadline, reads no more than a bounded answer, and goes
//! to no other host. Nothing here decides whether a box should be switched, and nothing is tried twice: a caller who gets an
//! [`Error`] is told by [`Error::happened`] whether the box may have been switched all the same.
//!
//! A BMC is not trusted: what it says is cut and stripped before it is shown, and a link in its answers leads nowhere but to itself.

pub mod credentials;
pub mod error;
pub mod ipmi;
pub mod redfish;
pub mod said;

pub use credentials::Credentials;
pub use error::{Error, Happened};

/// Whether a box is on, as its BMC says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// It is on its way to be on.
    PoweringOn,
    /// It is on its way to be off.
    PoweringOff,
}

/// What a BMC can be told to do with a box's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Switch it on.
    On,
    /// Ask its system to shut down, as by a short press of the button.
    Shutdown,
    /// Cut its power.
    Off,
    /// Press the reset button.
    Reset,
}

impl Act {
    /// The act in words, as in "the BMC was told to …".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "switch the box on",
            Self::Shutdown => "shut the system down",
            Self::Off => "cut the power",
            Self::Reset => "reset the box",
        }
    }
}

/// How a box boots over the network when it is told to do so once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkBoot {
    /// PXE.
    Pxe,
    /// UEFI HTTP Boot.
    UefiHttp,
}

/// A BMC, as one machine's power is asked of it.
#[derive(Debug)]
pub enum Bmc {
    /// By Redfish.
    Redfish(Box<redfish::Redfish>),
    /// By IPMI.
    Ipmi(ipmi::Ipmi),
}

impl Bmc {
    /// Whether the box is on.
    ///
    /// # Errors
    /// It does not say.
    pub async fn power(&self) -> Result<Power, Error> {
        match self {
            Self::Redfish(redfish) => redfish.power().await,
            Self::Ipmi(ipmi) => ipmi.power().await,
        }
    }

    /// The next boot, and only that, is to be from the network.
    ///
    /// # Errors
    /// It did not take that.
    pub async fn boot_network_once(&self, how: NetworkBoot) -> Result<(), Error> {
        match self {
            Self::Redfish(redfish) => redfish.boot_network_once(how).await,
            Self::Ipmi(ipmi) => ipmi.boot_network_once().await,
        }
    }

    /// Does something with the box's power. That the BMC took it does not say that it has happened: look.
    ///
    /// # Errors
    /// It did not take it, or nobody knows: [`Error::happened`].
    pub async fn act(&self, act: Act) -> Result<(), Error> {
        match self {
            Self::Redfish(redfish) => redfish.act(act).await,
            Self::Ipmi(ipmi) => ipmi.act(act).await,
        }
    }
}
