//! What the service accounts may do: every rule that the API server knows of, and what becomes of calls that are made with the boot server's
//! own token.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::ensure;
use crate::magnetite::NAMESPACE;
use crate::proc::Cmd;
use crate::site::Site;

/// What every account may ask, whoever it is: about itself, and which kinds there are. It differs from version to version.
const EVERYBODYS: [&str; 4] = ["selfsubject", "[/", "Resources", "clustertrustbundles"];

/// The list of `kubectl auth can-i --list`, for each account and in two namespaces, is the committed one.
pub(super) fn lists(site: &Site) -> Result<()> {
    for account in ["magnetite-bootserver", "magnetite-controller"] {
        let kubectl = site.control_plane().service_account(NAMESPACE, account)?;
        let mut text = String::new();
        for namespace in [NAMESPACE, "default"] {
            writeln!(text, "in {namespace}:")?;
            for line in normal(&kubectl.run(&["auth", "can-i", "--list", "-n", namespace])?) {
                writeln!(text, "{line}")?;
            }
        }
        let golden = site.prepared().paths.workspace().join(format!("tests/golden/rights/{account}.txt"));
        let seen = site.run().join(&format!("{account}.txt"));
        std::fs::write(&seen, &text)?;
        let expected = std::fs::read_to_string(&golden).with_context(|| format!("read {}", golden.display()))?;
        ensure!(
            text == expected,
            "{account} has other rights than {} says; if they are meant, copy {} there:\n{text}",
            golden.display(),
            seen.display()
        );
    }
    Ok(())
}

/// The lines that are ours: resources, names, verbs; sorted, with one blank between.
fn normal(list: &str) -> BTreeSet<String> {
    let lines = list.lines().filter(|line| !EVERYBODYS.iter().any(|word| line.trim_start().starts_with(word)));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    lines
        .map(words)
        .filter(|line| !line.is_empty() && !line.starts_with("[]"))
        .filter(|line| !line.contains("[/"))
        .collect()
}

/// Collections: some in a namespace, some in none.
const COLLECTIONS: [&str; 25] = [
    MACHINES,
    PROFILES,
    CLAIMS,
    REPORTS,
    CONFIGS,
    "/api/v1/namespaces/default/configmaps",
    "/api/v1/namespaces/kube-system/configmaps",
    "/api/v1/namespaces/magnetite/secrets",
    "/api/v1/namespaces/kube-system/secrets",
    "/api/v1/secrets",
    "/api/v1/namespaces/magnetite/pods",
    "/api/v1/namespaces/kube-system/pods",
    "/api/v1/namespaces/magnetite/serviceaccounts",
    "/api/v1/namespaces/magnetite/services",
    "/api/v1/nodes",
    "/api/v1/namespaces",
    "/api/v1/persistentvolumes",
    "/apis/apps/v1/namespaces/magnetite/daemonsets",
    "/apis/certificates.k8s.io/v1/certificatesigningrequests",
    "/apis/coordination.k8s.io/v1/namespaces/magnetite/leases",
    "/apis/events.k8s.io/v1/namespaces/default/events",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
];
const MACHINES: &str = "/apis/magnetite.dev/v1alpha1/machines";
const PROFILES: &str = "/apis/magnetite.dev/v1alpha1/profiles";
const CLAIMS: &str = "/apis/magnetite.dev/v1alpha1/machineclaims";
const REPORTS: &str = "/apis/magnetite.dev/v1alpha1/bootreports";
const CONFIGS: &str = "/api/v1/namespaces/magnetite/configmaps";

/// Parts of one object, which can be read and written.
const PARTS: [&str; 5] = [
    "/apis/magnetite.dev/v1alpha1/machines/none/status",
    "/apis/magnetite.dev/v1alpha1/profiles/none/status",
    "/apis/magnetite.dev/v1alpha1/machineclaims/none/status",
    "/apis/certificates.k8s.io/v1/certificatesigningrequests/none/approval",
    "/api/v1/namespaces/magnetite/serviceaccounts/magnetite-controller/token",
];

/// What passes: the verb, and the collection.
const ALLOWED: [(&str, &str); 16] = [
    ("get", MACHINES),
    ("list", MACHINES),
    ("watch", MACHINES),
    ("get", PROFILES),
    ("list", PROFILES),
    ("watch", PROFILES),
    ("get", CLAIMS),
    ("list", CLAIMS),
    ("watch", CLAIMS),
    ("create", CLAIMS),
    ("get", REPORTS),
    ("create", REPORTS),
    ("patch", REPORTS),
    ("get", CONFIGS),
    ("list", CONFIGS),
    ("watch", CONFIGS),
];

/// One call: its verb as rights name it, the collection or part, the method, and the URL's end.
struct Call {
    verb: &'static str,
    path: &'static str,
    method: &'static str,
    rest: &'static str,
}

fn calls() -> Vec<Call> {
    // Whatever a right lets through changes nothing.
    const DRY: &str = "?dryRun=All";
    let verbs = [
        ("get", "GET", "/none"),
        ("list", "GET", "?limit=1"),
        ("watch", "GET", "?watch=true&timeoutSeconds=1"),
        ("create", "POST", DRY),
        ("update", "PUT", "/none?dryRun=All"),
        ("patch", "PATCH", "/none?dryRun=All"),
        ("delete", "DELETE", "/none?dryRun=All"),
        ("deletecollection", "DELETE", DRY),
    ];
    let mut calls = Vec::new();
    for path in COLLECTIONS {
        calls.extend(verbs.map(|(verb, method, rest)| Call { verb, path, method, rest }));
    }
    for path in PARTS {
        calls.extend([("update", "PUT"), ("patch", "PATCH"), ("create", "POST")].map(|(verb, method)| Call {
            verb,
            path,
            method,
            rest: DRY,
        }));
    }
    calls
}

/// Over 200 calls with the boot server's token: those of [`ALLOWED`] pass, and all others are answered 403. Returns how many there were.
pub(super) fn calls_with_the_token(site: &Site) -> Result<usize> {
    let account = site.control_plane().service_account(NAMESPACE, "magnetite-bootserver")?;
    let config: Value = serde_json::from_str(&std::fs::read_to_string(account.kubeconfig())?)?;
    let token = config["users"][0]["user"]["token"].as_str().context("the account has a token")?;
    let authority = site.run().join("authority.pem");
    std::fs::write(&authority, site.control_plane().authority().pem())?;
    let calls = calls();
    let mut script = String::new();
    for Call { method, path, rest, .. } in &calls {
        let kind = if *method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        writeln!(script, "url = \"{}{path}{rest}\"", crate::control_plane::ENDPOINT)?;
        writeln!(
            script,
            "request = {method}\nheader = \"Authorization: Bearer {token}\"\nheader = \"Content-Type: {kind}\""
        )?;
        if *method != "GET" {
            writeln!(script, "data = \"{{}}\"")?;
        }
        writeln!(script, "cacert = {}\nsilent\nmax-time = 20\noutput = /dev/null", authority.display())?;
        writeln!(script, "write-out = \"%{{http_code}}\\n\"\nnext")?;
    }
    let file = site.run().join("calls.curl");
    std::fs::write(&file, script.trim_end().trim_end_matches("next"))?;
    let answers =
        Cmd::new("curl").netns(site.network().server()).args(["--config", &file.display().to_string()]).run()?;
    let answers: Vec<_> = answers.lines().collect();
    ensure!(answers.len() == calls.len(), "{} calls were answered by {} lines", calls.len(), answers.len());
    for (Call { verb, path, method, rest }, answer) in calls.iter().zip(answers) {
        let passed = answer != "403";
        ensure!(
            passed == ALLOWED.contains(&(*verb, *path)) && answer != "401" && answer != "000",
            "the boot server's token: {method} {path}{rest} was answered {answer}"
        );
    }
    Ok(calls.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_without_what_everybody_may() {
        let list = "Resources    Non-Resource URLs   Resource Names   Verbs\n\
            selfsubjectreviews.authentication.k8s.io  []  []  [create]\n\
            machines.magnetite.dev      []     []    [get list watch]\n                 [/healthz]   []   [get]\n";
        assert_eq!(normal(list).into_iter().collect::<Vec<_>>(), ["machines.magnetite.dev [] [] [get list watch]"]);
    }

    #[test]
    fn what_passes_is_asked() {
        let calls = calls();
        assert!(calls.len() >= 200, "{}", calls.len());
        for (verb, path) in ALLOWED {
            assert_eq!(calls.iter().filter(|call| (call.verb, call.path) == (verb, path)).count(), 1, "{verb} {path}");
        }
    }
}
