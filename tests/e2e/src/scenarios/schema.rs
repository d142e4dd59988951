//! No machine boots here: the charts, the schema and the columns, against a real API server.

mod bad;
mod names;
mod rights;

use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use crate::magnetite::{self, Binaries, Magnetite, NAMESPACE};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::site::{Site, SiteOptions};
use crate::wait;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let site = Site::start(prepared, progress, &SiteOptions::new("schema"))?;
    site.apply(KUBEADM).context("apply kubeadm's bindings")?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    refused(&site, progress)?;
    examples(&site)?;
    conditions(&site, prepared)?;
    beside_us(&site, &mut magnetite, binaries, progress)?;
    rights(&site)?;
    rights::lists(&site)?;
    let calls = rights::calls_with_the_token(&site)?;
    progress.line(format!("of {calls} calls with the boot server's token those pass that it needs, and no others"));
    tenant(&site)?;
    explain(&site)?;
    names::of_others(&site, binaries)?;
    progress.line("a Machine with the name of another's Node, or of the API server, gets no certificate");
    magnetite.check()?;
    progress.line("examples accepted; conditions name field and machine; nobody has more rights than the chart grants");
    without_a_controller(&site, &mut magnetite, progress)
}

/// What kubeadm binds when it sets up a cluster.
const KUBEADM: &str = include_str!("../../manifests/kubeadm.yaml");

/// S6: who may have a node's certificate beside us is told on the Profile and by doctor, and no more once the bindings are gone.
fn beside_us(site: &Site, magnetite: &mut Magnetite, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let bypass = ["JoinBypassPossible", "AutoRenewBypass"];
    let bindings = ["kubeadm:node-autoapprove-bootstrap", "kubeadm:node-autoapprove-certificate-rotation"];
    let doctor = || -> Result<String> {
        let (_, out, err) = site.admin().plugin(&binaries.dir, "magnetite").arg("doctor").ask()?;
        Ok(out + &err)
    };
    for (kind, binding) in bypass.into_iter().zip(bindings) {
        says(site, "profile", "workers", kind, "True", binding)?;
        site.kubectl(&["get", "clusterrolebinding", binding])?;
    }
    let told = doctor()?;
    ensure!(bindings.iter().all(|binding| told.contains(binding)), "doctor does not say what to delete:\n{told}");
    for binding in bindings {
        site.kubectl(&["delete", "clusterrolebinding", binding])?;
    }
    // A controller asks again after five minutes. One that starts asks at once.
    magnetite.kill_controller()?;
    magnetite.start_controller(site)?;
    for kind in bypass {
        says(site, "profile", "workers", kind, "False", "but")?;
    }
    let told = doctor()?;
    ensure!(bindings.iter().all(|binding| !told.contains(binding)), "doctor still says so:\n{told}");
    progress.line("kubeadm's bindings: told on the Profile and by doctor; deleted: no more");
    Ok(())
}

/// Waits until a condition has a status, and words in its message.
fn says(site: &Site, kind: &str, name: &str, condition: &str, status: &str, words: &str) -> Result<()> {
    site.admin()
        .wait_for(&format!("{kind} {name} to say {words:?}"), &[kind, name], Duration::from_secs(60), |object| {
            let conditions = object["status"]["conditions"].as_array()?;
            let found = conditions.iter().find(|one| one["type"] == condition && one["status"] == status)?;
            found["message"].as_str()?.contains(words).then_some(())
        })
        .with_context(|| {
            format!("its status: {}", site.admin().json(&["get", kind, name]).unwrap_or_default()["status"])
        })
}

/// Each bad object is refused by the schema, in words that name what is wrong.
fn refused(site: &Site, progress: &Progress) -> Result<()> {
    let objects = bad::objects();
    for (what, object, words) in &objects {
        match site.apply(object) {
            Ok(_) => anyhow::bail!("{what} was accepted"),
            Err(error) => {
                let error = format!("{error:#}");
                ensure!(error.contains(words), "{what}: the API server's words do not say {words:?}:\n{error}");
            }
        }
    }
    progress.line(format!("{} bad objects refused, each with its field", objects.len()));
    Ok(())
}

/// With the controller gone for good: what is bad is refused as before, what is good is taken, and a Machine goes by the command of
/// docs/controller-gone.md.
fn without_a_controller(site: &Site, magnetite: &mut Magnetite, progress: &Progress) -> Result<()> {
    magnetite.kill_controller()?;
    refused(site, progress)?;
    site.apply("apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {name: late}\nspec: {serial: X9}")?;
    site.kubectl(&["delete", "machine", "late", "--timeout=10s"])?;
    site.kubectl(&["delete", "machine", "one", "--wait=false"])?;
    let one = site.admin().get(&["machine", "one"])?.context("its finalizer keeps it")?;
    ensure!(one["metadata"]["deletionTimestamp"].is_string(), "it is not being deleted: {one}");
    let page = std::fs::read_to_string(site.prepared().paths.workspace().join("docs/controller-gone.md"))?;
    let command = page.lines().find_map(|line| line.strip_prefix("kubectl patch machine r7-u01 "));
    let arguments = command.context("the page has the command")?.replace('\'', "");
    let arguments: Vec<_> = ["patch", "machine", "one"].into_iter().chain(arguments.splitn(3, ' ')).collect();
    site.kubectl(&arguments)?;
    wait::until("the Machine to be gone", Duration::from_secs(10), || {
        Ok(site.admin().get(&["machine", "one"])?.is_none().then_some(()))
    })?;
    progress
        .line("without a controller: bad objects are refused, and a Machine can be deleted by the documented command");
    Ok(())
}

/// The YAML of the README and of examples/ is accepted as it stands, but for the sums that a reader fills in.
fn examples(site: &Site) -> Result<()> {
    let folder = site.prepared().paths.workspace().join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).context("read examples/")? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "yaml") {
            let text = std::fs::read_to_string(&path)?;
            site.admin()
                .command()
                .args(["apply", "--dry-run=server", "-f", "-"])
                .input(text)
                .run()
                .with_context(|| format!("apply {}", path.display()))?;
            seen += 1;
        }
    }
    ensure!(seen > 0, "examples/ has no YAML");
    let pod = site.prepared().paths.workspace().join("deploy/static-pod/magnetite-bootserver.yaml");
    let path = pod.display().to_string();
    site.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", &path]).context("the static Pod")?;
    Ok(())
}

/// What CEL cannot see shows in conditions, on the Profile and on its Machines.
fn conditions(site: &Site, prepared: &Prepared) -> Result<()> {
    let profile = magnetite::profile(&prepared.guest)?;
    let broken = profile.replace("magnetite.root={{ files.rootfs }}", "magnetite.root={{ files.rotfs }}");
    site.apply(&broken)?;
    let machine = |name: &str, mac: &str| {
        format!(
            "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {{name: {name}, labels: {{role: worker}}}}\nspec: {{macs: ['{mac}']}}"
        )
    };
    site.apply(&machine("one", "52:54:00:aa:00:01"))?;
    let says = |kind: &str, name: &str, condition: &str, status: &str, words: &str| {
        says(site, kind, name, condition, status, words)
    };
    says("profile", "workers", "Rendered", "False", "commandLine[2]")?;
    says("machine", "one", "ProfileReady", "False", "commandLine[2]")?;
    // A wrong sum: the boot server sees it, the Profile says which field.
    let wrong = profile.replacen("sha256: \"", "sha256: \"0", 1);
    let sum_end = wrong.find("sha256: \"0").context("the Profile has a sum")? + "sha256: \"0".len() + 63;
    let wrong = format!("{}{}", &wrong[..sum_end], &wrong[sum_end + 1..]);
    site.apply(&wrong)?;
    says("profile", "workers", "ArtifactsReady", "False", "spec.boot.x86_64.kernel")?;
    says("machine", "one", "ProfileReady", "False", "spec.boot.x86_64.kernel")?;
    site.apply(&profile)?;
    says("profile", "workers", "Ready", "True", "")?;
    // Two that claim one MAC both say so.
    site.apply(&machine("two", "52:54:00:aa:00:01"))?;
    says("machine", "one", "IdentityUnique", "False", "two")?;
    says("machine", "two", "IdentityUnique", "False", "one")?;
    ensure!(crate::rogue::discover(site.network(), "52:54:00:aa:00:01")?.is_none(), "a box in doubt was answered");
    site.kubectl(&["delete", "machine", "two", "--timeout=30s"])?;
    says("machine", "one", "IdentityUnique", "True", "")?;
    // Once nothing is in doubt it is answered again.
    crate::wait::until("an offer for the one that is left", std::time::Duration::from_secs(20), || {
        crate::rogue::discover(site.network(), "52:54:00:aa:00:01")
    })?;
    ensure!(
        crate::rogue::discover(site.network(), "52:54:00:99:99:99")?.is_none(),
        "a box that nobody declared was answered"
    );
    Ok(())
}

/// What the service accounts may do is what the chart's RBAC says, and nothing more that matters.
fn rights(site: &Site) -> Result<()> {
    let may = |account: &str, verb: &str, resource: &str| -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
        // `can-i` says no by its exit code as well.
        let answer = site.admin().command().args(["auth", "can-i", verb, resource, "-A", &user]).run();
        Ok(answer.is_ok_and(|text| text.trim() == "yes"))
    };
    let boot = "magnetite-bootserver";
    for (verb, resource) in [
        ("create", "machineclaims.magnetite.dev"),
        ("watch", "machines.magnetite.dev"),
        ("patch", "bootreports.magnetite.dev"),
    ] {
        ensure!(may(boot, verb, resource)?, "the boot server may not {verb} {resource}");
    }
    let forbidden = [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "certificatesigningrequests.certificates.k8s.io"),
        ("update", "certificatesigningrequests.certificates.k8s.io/approval"),
        ("update", "machines.magnetite.dev/status"),
        ("patch", "machines.magnetite.dev/status"),
        ("update", "machines.magnetite.dev"),
        ("patch", "machineclaims.magnetite.dev/status"),
        ("delete", "nodes"),
        ("create", "pods"),
    ];
    for (verb, resource) in forbidden {
        ensure!(!may(boot, verb, resource)?, "the boot server may {verb} {resource}");
    }
    for (verb, resource) in [
        ("get", "secrets"),
        ("create", "pods"),
        ("create", "secrets"),
        ("escalate", "clusterroles"),
        ("impersonate", "users"),
    ] {
        ensure!(!may("magnetite-controller", verb, resource)?, "the controller may {verb} {resource}");
    }
    Ok(())
}

/// Who administrates a namespace has nothing to do with the machines: our kinds are in no role that such people are given.
fn tenant(site: &Site) -> Result<()> {
    site.kubectl(&["create", "namespace", "tenant"])?;
    site.kubectl(&["create", "rolebinding", "owner", "--clusterrole=admin", "--user=tenant", "-n", "tenant"])?;
    let may = |verb: &str, resource: &str| {
        let command = site.admin().command().args(["auth", "can-i", verb, resource, "-n", "tenant", "--as=tenant"]);
        command.run().is_ok_and(|text| text.trim() == "yes")
    };
    // The role is put together by a controller, a moment after the API server is there.
    wait::until("the administrator of a namespace to have a right", Duration::from_secs(30), || {
        Ok(may("create", "configmaps").then_some(()))
    })?;
    for kind in ["machines", "profiles", "machineclaims", "bootreports"] {
        for verb in ["get", "list", "create", "patch", "delete"] {
            let resource = format!("{kind}.magnetite.dev");
            ensure!(!may(verb, &resource), "the administrator of a namespace may {verb} {resource}");
        }
    }
    Ok(())
}

fn explain(site: &Site) -> Result<()> {
    let text = site.kubectl(&["explain", "machine.spec.bootWindowSeconds"])?;
    ensure!(
        text.contains("in seconds") && text.contains("3600"),
        "kubectl explain says neither unit nor default:\n{text}"
    );
    let table = site.kubectl(&["get", "machines", "-o", "wide"])?;
    let head = table.lines().next().unwrap_or_default();
    for column in ["PHASE", "PROFILE", "NODE", "REASON", "AGE", "MAC", "UUID", "ADDRESS", "FIRMWARE", "REVISION"] {
        ensure!(head.contains(column), "`kubectl get machines -o wide` has no {column}: {head}");
    }
    let all = site.kubectl(&["get", "magnetite"])?;
    ensure!(
        all.contains("machine.magnetite.dev/one") && all.contains("profile.magnetite.dev/workers"),
        "the category lists not all:\n{all}"
    );
    Ok(())
}
