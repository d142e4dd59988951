//! What a cluster knows of a machine. Reads only.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use magnetite_api::{BootReport, Machine, names, report::SubjectKind};

use crate::{args::Cluster, error::Error, suggest::nearest};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Events of what has no namespace are in this one.
const EVENTS: &str = "default";

/// What a cluster knows of a machine.
#[derive(Debug)]
pub struct Known {
    /// The Machine.
    pub machine: Machine,
    /// What boot servers reported of it.
    pub reports: Vec<BootReport>,
    /// Its Events.
    pub events: Vec<Event>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

/// A client for the cluster that the arguments name.
///
/// # Errors
/// If the kubeconfig cannot be used.
pub async fn client(args: &Cluster) -> Result<Client, Error> {
    let Cluster { kubeconfig, context, namespace: _ } = args;
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let unusable = |error| Error::Config(Box::new(error));
    let config = match kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file).map_err(unusable)?;
            Config::from_custom_kubeconfig(read, &options).await
        }
        None => Config::from_kubeconfig(&options).await,
    };
    let mut config = config.map_err(unusable)?;
    (config.connect_timeout, config.read_timeout) = (Some(PATIENCE), Some(PATIENCE));
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// Reads what there is of a machine. Without leave to read reports or Events the rest is still an answer.
///
/// # Errors
/// If the Machine itself cannot be read.
pub async fn read(client: &Client, name: &str) -> Result<Known, Error> {
    let machine = machine(client, name).await?;
    let labelled = ListParams::default().labels(&format!("{}={name}", names::LABEL_MACHINE));
    let reports: Api<BootReport> = Api::all(client.clone());
    let regarding = format!("involvedObject.kind=Machine,involvedObject.name={name}");
    let events: Api<Event> = Api::namespaced(client.clone(), EVENTS);
    let mut missing = Vec::new();
    let reports = reports.list(&labelled).await.map(|list| list.items).unwrap_or_else(|error| {
        missing.push(refusal("boot reports", error).to_string());
        Vec::new()
    });
    let events =
        events.list(&ListParams::default().fields(&regarding)).await.map(|list| list.items).unwrap_or_else(|error| {
            missing.push(refusal("Events", error).to_string());
            Vec::new()
        });
    let uid = machine.uid();
    // What is about one of its name that was deleted is about another machine.
    let about = |report: &BootReport| {
        report.spec.subject.kind == SubjectKind::Machine && Some(&report.spec.subject.uid) == uid.as_ref()
    };
    Ok(Known {
        reports: reports.into_iter().filter(about).collect(),
        events: events.into_iter().filter(|event| event.involved_object.uid == uid).collect(),
        machine,
        missing,
    })
}

/// One Machine.
///
/// # Errors
/// If there is none, it may not be read, or its kind is not there.
pub async fn machine(client: &Client, name: &str) -> Result<Machine, Error> {
    let api: Api<Machine> = Api::all(client.clone());
    match api.get_opt(name).await {
        Ok(Some(machine)) => return Ok(machine),
        // It may be the kind that is not there.
        Ok(None) => {}
        Err(error) => return Err(refusal(&format!("the Machine {name}"), error)),
    }
    let near = match api.list(&ListParams::default()).await {
        Ok(list) => nearest(name, list.iter().map(|machine| machine.name_any())),
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(Error::NotInstalled("machines")),
        // Without leave to list there is nothing to suggest.
        Err(_) => Vec::new(),
    };
    Err(Error::NoMachine { name: name.to_owned(), near })
}

/// An error of the API server, in words.
pub fn refusal(what: &str, error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            Error::Forbidden(what.to_owned(), status.message.clone())
        }
        other => Error::Ask(what.to_owned(), Box::new(other)),
    }
}
