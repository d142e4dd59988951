//! What the boot path reads: one immutable value, swapped whole when anything changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use kube::ResourceExt;
use magnetite_api::{Machine, MachineClaim, Profile, machine::IntentStatus};
use magnetite_boot::{
    fleet::Fleet,
    select::{self, Chosen, SelectError},
};
pub use magnetite_catalog::ConfigMaps;
use tokio::sync::watch;

/// Everything that is declared, indexed.
#[derive(Debug, Default)]
pub struct View {
    /// The Machines. Shared with the views before and after in which they are the same.
    pub fleet: Arc<Fleet>,
    /// The Profiles.
    pub profiles: Vec<Arc<Profile>>,
    /// The ConfigMaps of our namespace.
    pub config_maps: ConfigMaps,
    /// Claims by name; empty without a cluster.
    pub claims: BTreeMap<String, Arc<MachineClaim>>,
    /// Windows that this server keeps itself, by Machine; empty in a cluster, where they are in the status.
    pub windows: BTreeMap<String, IntentStatus>,
    /// The Profiles' selectors, read when one is first asked for.
    pub selectors: OnceLock<select::Profiles>,
}

/// The boot path's end of the view.
pub type Reader = watch::Receiver<Arc<View>>;
/// The store's end.
pub type Writer = watch::Sender<Arc<View>>;

impl View {
    /// The Profile of a Machine.
    pub fn profile(&self, machine: &Machine) -> Result<Arc<Chosen>, SelectError> {
        self.selectors.get_or_init(|| select::Profiles::read(&self.profiles)).of(machine)
    }

    /// The Profile of Machines that are held; `discovery` is its name.
    pub fn of_held(&self, discovery: Option<&str>) -> Result<Arc<Chosen>, SelectError> {
        self.selectors.get_or_init(|| select::Profiles::read(&self.profiles)).of_held(discovery)
    }

    /// The template of a Profile's Ignition config, wherever it is.
    pub fn ignition<'a>(&'a self, profile: &'a Profile) -> Option<&'a str> {
        magnetite_catalog::ignition(profile, &self.config_maps)
    }

    /// The text of one of a Profile's templates, wherever it is.
    pub fn template<'a>(&'a self, profile: &'a Profile, name: &str) -> Option<&'a str> {
        magnetite_catalog::template(profile, name, &self.config_maps)
    }

    /// The intent of a Machine and its window.
    pub fn intent<'a>(&'a self, machine: &'a Machine) -> Option<&'a IntentStatus> {
        let own = self.windows.get(&machine.name_any());
        own.or_else(|| machine.status.as_ref()?.intent.as_ref())
    }
}
