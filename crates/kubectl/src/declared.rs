//! What is declared, from a folder or from a cluster: all that the boot decision looks at.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt, api::ListParams};
use magnetite_api::{
    Machine, Profile,
    machine::{IntentState, IntentStatus},
    time::seconds,
};
use magnetite_catalog::ConfigMaps;

use crate::{cluster, error::Error, suggest::nearest};

/// What is declared.
#[derive(Debug)]
pub struct Declared {
    /// The Machine in question.
    pub machine: Arc<Machine>,
    /// All Machines: another may claim the same identity.
    pub machines: Vec<Arc<Machine>>,
    /// All Profiles.
    pub profiles: Vec<Arc<Profile>>,
    /// The ConfigMaps that Profiles name.
    pub config_maps: ConfigMaps,
    /// The intent of the Machine, and its window.
    pub intent: Option<IntentStatus>,
    /// False of a folder: then nobody can issue a certificate.
    pub cluster: bool,
    /// What of the folder cannot be used.
    pub problems: Vec<String>,
}

impl Declared {
    /// From a folder. Its windows are the boot server's to keep; here the Machine's is open.
    ///
    /// # Errors
    /// If the folder cannot be read, or has no such Machine.
    pub fn of_catalog(folder: &Path, name: &str, now: Timestamp) -> Result<Self, Error> {
        let stamps = magnetite_catalog::stamps(folder).map_err(|error| Error::Read(folder.to_owned(), error))?;
        let read = magnetite_catalog::read(folder, &stamps);
        let magnetite_catalog::Catalog { machines, profiles, config_maps, problems } = read;
        let Some(machine) = machines.iter().find(|machine| machine.name_any() == name).cloned() else {
            // It may be there and not usable: then that is what to say.
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let near = nearest(name, machines.iter().map(|machine| machine.name_any()));
            return Err(Error::NotInCatalog { name: name.to_owned(), near, problems });
        };
        let problems = problems.iter().map(ToString::to_string).collect();
        let intent = Some(open(&machine, now));
        Ok(Self { machine, machines, profiles, config_maps, intent, cluster: false, problems })
    }

    /// From a cluster. `namespace`: that of the boot servers, where the ConfigMaps are.
    ///
    /// # Errors
    /// If something cannot be read.
    pub async fn of_cluster(client: &Client, namespace: &str, name: &str) -> Result<Self, Error> {
        let machine = Arc::new(cluster::machine(client, name).await?);
        let ask = |what: &str| {
            let what = what.to_owned();
            move |error| cluster::refusal(&what, error)
        };
        let all = ListParams::default();
        let machines = Api::<Machine>::all(client.clone()).list(&all).await.map_err(ask("Machines"))?;
        let profiles = Api::<Profile>::all(client.clone()).list(&all).await.map_err(ask("Profiles"))?;
        let mut config_maps = ConfigMaps::new();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let named: BTreeSet<_> = profiles.iter().flat_map(|profile| profile.spec.config_maps()).collect();
        for name in named {
            let what = format!("the ConfigMap {name} in the namespace {namespace}");
            if let Some(map) = api.get_opt(name).await.map_err(ask(&what))? {
                config_maps.insert(name.to_owned(), map.data.unwrap_or_default());
            }
        }
        Ok(Self {
            intent: machine.status.as_ref().and_then(|status| status.intent.clone()),
            machine,
            machines: machines.into_iter().map(Arc::new).collect(),
            profiles: profiles.into_iter().map(Arc::new).collect(),
            config_maps,
            cluster: true,
            problems: Vec::new(),
        })
    }

    /// As if somebody had just opened the Machine's window.
    pub fn opened(self, now: Timestamp) -> Self {
        Self { intent: Some(open(&self.machine, now)), ..self }
    }
}

/// The window that the Machine's wanted intent opens.
fn open(machine: &Machine, now: Timestamp) -> IntentStatus {
    let length = SignedDuration::from_secs(machine.spec.boot_window_seconds.into());
    IntentStatus {
        id: machine.wanted_intent().to_owned(),
        state: IntentState::Open,
        opened_at: seconds(now),
        expires_at: seconds(now.saturating_add(length).unwrap_or(now)),
    }
}
