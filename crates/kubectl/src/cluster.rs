//! What a cluster knows of a machine, and how a Machine is changed, made and deleted.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::Event};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    config::{KubeConfigOptions, Kubeconfig},
};
use magnetite_api::{BootReport, Machine, MachineClaim, Profile, names, report::SubjectKind};
use serde_json::{Value, json};

use crate::{args::Cluster, error::Error, suggest::nearest};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a Machine that was deleted may take to go.
const GONE: Duration = Duration::from_secs(30);
/// Between two looks whether it is gone.
const LOOK: Duration = Duration::from_millis(500);
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
    match api.get(name).await {
        Ok(machine) => return Ok(machine),
        // That one, or the kind: the list tells.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
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

/// All Machines.
///
/// # Errors
/// If they may not be read.
pub async fn machines(client: &Client) -> Result<Vec<Machine>, Error> {
    let api: Api<Machine> = Api::all(client.clone());
    api.list(&ListParams::default()).await.map(|list| list.items).map_err(|error| refusal("Machines", error))
}

/// One Profile.
///
/// # Errors
/// If there is none, or it may not be read.
pub async fn profile(client: &Client, name: &str) -> Result<Profile, Error> {
    let api: Api<Profile> = Api::all(client.clone());
    match api.get(name).await {
        Ok(profile) => Ok(profile),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::NoProfile(name.to_owned())),
        Err(error) => Err(refusal(&format!("the Profile {name}"), error)),
    }
}

/// Changes a Profile.
///
/// # Errors
/// If there is none, or it may not be changed.
pub async fn change_profile(client: &Client, name: &str, patch: &Value) -> Result<(), Error> {
    let api: Api<Profile> = Api::all(client.clone());
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::NoProfile(name.to_owned())),
        Err(kube::Error::Api(status)) => Err(Error::ChangeProfile(name.to_owned(), status.message.clone())),
        Err(error) => Err(refusal(&format!("the Profile {name}"), error)),
    }
}

/// What a Profile was, as the controller keeps it.
///
/// # Errors
/// If it may not be read.
pub async fn revisions(client: &Client, namespace: &str, profile: &str) -> Result<Vec<ControllerRevision>, Error> {
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
    let of = ListParams::default().labels(&format!("{}={profile}", names::LABEL_PROFILE));
    let what = format!("the ControllerRevisions of the namespace {namespace}");
    Ok(api.list(&of).await.map_err(|error| refusal(&what, error))?.items)
}

/// Writes a Profile, if nobody else changed it since it was read.
///
/// # Errors
/// If somebody did, or it may not be changed.
pub async fn replace_profile(client: &Client, profile: &Profile) -> Result<(), Error> {
    let (name, api): (_, Api<Profile>) = (profile.name_any(), Api::all(client.clone()));
    match api.replace(&name, &PostParams::default(), profile).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(Error::ChangeProfile(name, status.message.clone())),
        Err(error) => Err(refusal(&format!("the Profile {name}"), error)),
    }
}

/// All claims of one Machine.
///
/// # Errors
/// If they may not be read.
pub async fn claims(client: &Client, machine: &str) -> Result<Vec<MachineClaim>, Error> {
    let api: Api<MachineClaim> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{}={machine}", names::LABEL_MACHINE));
    let list = api.list(&labelled).await.map_err(|error| refusal("claims", error))?;
    // The label is a boot server's word; the spec is what is decided on.
    Ok(list.items.into_iter().filter(|claim| claim.spec.machine == machine).collect())
}

/// Changes a Machine, if nobody else did since it was read.
///
/// # Errors
/// If somebody did, or it may not be changed.
pub async fn change(client: &Client, machine: &Machine, patch: &Value) -> Result<(), Error> {
    written(client, machine, patch, json!({ "resourceVersion": machine.resource_version() })).await
}

/// Changes a Machine, whoever else does, if it is still the one that was read.
///
/// # Errors
/// If it is not, or it may not be changed.
pub async fn set(client: &Client, machine: &Machine, patch: &Value) -> Result<(), Error> {
    written(client, machine, patch, json!({ "uid": machine.uid() })).await
}

async fn written(client: &Client, machine: &Machine, patch: &Value, metadata: Value) -> Result<(), Error> {
    let name = machine.name_any();
    let mut patch = patch.clone();
    for (key, value) in metadata.as_object().into_iter().flatten() {
        patch["metadata"][key] = value.clone();
    }
    let api: Api<Machine> = Api::all(client.clone());
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(Error::Change(name, "it changed meanwhile; look again, and repeat the command".to_owned()))
        }
        Err(kube::Error::Api(status)) => Err(Error::Change(name, status.message.clone())),
        Err(error) => Err(refusal(&format!("the Machine {name}"), error)),
    }
}

/// Deletes a Machine, and no other that was made in its name meanwhile.
///
/// # Errors
/// If it may not be deleted.
pub async fn delete(client: &Client, machine: &Machine) -> Result<(), Error> {
    let name = machine.name_any();
    let preconditions = Preconditions { uid: machine.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api: Api<Machine> = Api::all(client.clone());
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(Error::Change(name, status.message.clone())),
        Err(error) => Err(refusal(&format!("the Machine {name}"), error)),
    }
}

/// Waits until a Machine that was deleted is gone, which its controller sees to.
///
/// # Errors
/// If it does not go.
pub async fn gone(client: &Client, machine: &Machine) -> Result<(), Error> {
    let (name, api): (_, Api<Machine>) = (machine.name_any(), Api::all(client.clone()));
    let deadline = tokio::time::Instant::now() + GONE;
    loop {
        let there = api.get_opt(&name).await.map_err(|error| refusal(&format!("the Machine {name}"), error))?;
        if there.and_then(|there| there.uid()) != machine.uid() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::Change(name, "it was deleted and does not go; does the controller run?".to_owned()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes a Machine.
///
/// # Errors
/// If it may not be made, or there is one of that name.
pub async fn create(client: &Client, machine: &Machine) -> Result<(), Error> {
    let api: Api<Machine> = Api::all(client.clone());
    match api.create(&PostParams::default(), machine).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(Error::Change(machine.name_any(), status.message.clone())),
        Err(error) => Err(refusal(&format!("the Machine {}", machine.name_any()), error)),
    }
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

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    /// A client of an API server that answers each path as a real one was seen to: a status and a body.
    fn client(answer: impl Fn(&str) -> (u16, String) + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (status, body) = answer(request.uri().path());
            let response = http::Response::builder().status(status).body(Body::from(body.into_bytes()));
            std::future::ready(response.map_err(std::io::Error::other))
        });
        Client::new(service, "default")
    }

    fn status(code: u16, reason: &str, message: &str) -> (u16, String) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code });
        (code, status.to_string())
    }

    fn list(kind: &str, version: &str, items: &[Value]) -> (u16, String) {
        let metadata = json!({ "resourceVersion": "1" });
        (200, json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": items }).to_string())
    }

    fn machine(name: &str) -> Value {
        json!({ "apiVersion": "magnetite.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name, "uid": "uid-1"}, "spec": {"serial": "X1"} })
    }

    const MACHINES: &str = "/apis/magnetite.dev/v1alpha1/machines";

    #[tokio::test]
    async fn a_kind_that_is_not_there_is_told_from_a_machine_that_is_not() {
        let nothing = client(|_| (404, "404 page not found\n".to_owned()));
        let error = read(&nothing, "r7-u02").await.unwrap_err();
        assert!(matches!(error, Error::NotInstalled("machines")), "{error:?}");
        let others = client(|path| match path {
            MACHINES => list("MachineList", "magnetite.dev/v1alpha1", &[machine("r7-u01"), machine("gpu-1")]),
            _ => status(404, "NotFound", "machines.magnetite.dev \"r7-u02\" not found"),
        });
        let error = read(&others, "r7-u02").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no Machine \"r7-u02\"; did you mean r7-u01?");
    }

    #[tokio::test]
    async fn what_may_not_be_read_is_missing_and_the_rest_is_there() {
        let some = client(|path| match path.strip_prefix(MACHINES) {
            Some("/r7-u01") => (200, machine("r7-u01").to_string()),
            _ => status(403, "Forbidden", "nobody cannot list that"),
        });
        let known = read(&some, "r7-u01").await.unwrap();
        assert_eq!(known.machine.name_any(), "r7-u01");
        assert_eq!(known.missing.len(), 2, "{:?}", known.missing);
        assert_eq!(known.missing[0], "you may not read boot reports: nobody cannot list that");
        let none = client(|_| status(403, "Forbidden", "nobody"));
        assert!(matches!(read(&none, "r7-u01").await, Err(Error::Forbidden(..))));
    }

    #[tokio::test]
    async fn what_is_about_another_of_the_same_name_is_left_out() {
        let report = |name: &str, uid: &str| {
            let subject = json!({"kind": "Machine", "name": "r7-u01", "uid": uid});
            json!({ "apiVersion": "magnetite.dev/v1alpha1", "kind": "BootReport", "metadata": {"name": name}, "spec": {"subject": subject, "server": "rack-7"} })
        };
        let event = |name: &str, uid: &str| json!({ "metadata": {"name": name}, "involvedObject": {"kind": "Machine", "name": "r7-u01", "uid": uid} });
        let both = client(move |path| match path {
            "/api/v1/namespaces/default/events" => list("EventList", "v1", &[event("a", "uid-1"), event("b", "uid-0")]),
            "/apis/magnetite.dev/v1alpha1/bootreports" => {
                let reports = [report("a", "uid-0"), report("b", "uid-1")];
                list("BootReportList", "magnetite.dev/v1alpha1", &reports)
            }
            _ => (200, machine("r7-u01").to_string()),
        });
        let known = read(&both, "r7-u01").await.unwrap();
        assert_eq!(known.reports.iter().map(|report| report.name_any()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(known.events.iter().map(|event| event.name_any()).collect::<Vec<_>>(), ["a"]);
        assert!(known.missing.is_empty());
    }
}
