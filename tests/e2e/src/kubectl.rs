//! The cluster, as one user sees it: the real `kubectl`, with that user's kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::proc::Cmd;
use crate::wait;

/// `kubectl` with a kubeconfig, in the namespace from which the API server is reached.
#[derive(Debug, Clone)]
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    netns: String,
}

/// How a user proves who it is.
pub(crate) enum Login<'a> {
    Certificate { certificate: &'a Path, key: &'a Path },
    Token(&'a str),
}

impl Kubectl {
    /// Drives `binary` with `kubeconfig` in the network namespace `netns`.
    #[must_use]
    pub fn new(binary: &Path, kubeconfig: &Path, netns: &str) -> Self {
        Self { binary: binary.to_owned(), kubeconfig: kubeconfig.to_owned(), netns: netns.to_owned() }
    }

    /// The kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A command line to be completed, for output that is watched rather than returned.
    #[must_use]
    pub fn command(&self) -> Cmd {
        Cmd::new(&self.binary).arg("--kubeconfig").arg(self.kubeconfig.display().to_string()).netns(&self.netns)
    }

    /// A command line that begins with a plugin's name, found in a folder: kubectl takes no flags before that.
    #[must_use]
    pub fn plugin(&self, folder: &Path, name: &str) -> Cmd {
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        let kubeconfig = self.kubeconfig.display().to_string();
        Cmd::new(&self.binary).netns(&self.netns).env("PATH", path).env("KUBECONFIG", kubeconfig).arg(name)
    }

    /// Runs kubectl and returns what it prints.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.command().args(args.iter().copied()).run()
    }

    /// Runs kubectl with `-o json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let out = self.command().args(args.iter().copied()).args(["-o", "json"]).run()?;
        serde_json::from_str(&out).context("read what kubectl prints")
    }

    /// One object, or nothing if there is none of this name.
    pub fn get(&self, args: &[&str]) -> Result<Option<Value>> {
        let out =
            self.command().arg("get").args(args.iter().copied()).args(["--ignore-not-found", "-o", "json"]).run()?;
        if out.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&out).map(Some).context("read what kubectl prints")
    }

    /// Applies YAML or JSON, server-side.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.command().args(["apply", "--server-side", "--force-conflicts", "-f", "-"]).input(manifest).run()
    }

    /// Waits until an object exists and `look` finds in it what is wanted. `args` are as for `get`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        args: &[&str],
        timeout: Duration,
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        wait::until(what, timeout, || Ok(self.get(args)?.as_ref().and_then(&mut look)))
    }

    /// Waits until a condition of an object has a status.
    pub fn wait_condition(&self, args: &[&str], kind: &str, status: &str, timeout: Duration) -> Result<()> {
        let what = format!("{} to have {kind}={status}", args.join(" "));
        let result =
            self.wait_for(&what, args, timeout, |object| (condition(object, kind)?.as_str() == status).then_some(()));
        // Why it is not so is in the object.
        result.with_context(|| match self.get(args) {
            Ok(Some(object)) => format!("its conditions are {}", object["status"]["conditions"]),
            Ok(None) => "it does not exist".to_owned(),
            Err(error) => format!("and it cannot be read: {error:#}"),
        })
    }
}

/// The status ("True", "False", "Unknown") of a condition.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let one = conditions.iter().find(|condition| condition["type"] == kind)?;
    one["status"].as_str().map(str::to_owned)
}

/// Writes a kubeconfig with everything in it.
pub(crate) fn write_kubeconfig(
    path: &Path,
    server: &str,
    authority: &str,
    user: &str,
    login: &Login<'_>,
) -> Result<()> {
    let file = |path: &Path| -> Result<String> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok(STANDARD.encode(bytes))
    };
    let credentials = match login {
        Login::Certificate { certificate, key } => json!({
            "client-certificate-data": file(certificate)?,
            "client-key-data": file(key)?,
        }),
        Login::Token(token) => json!({ "token": token }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{ "name": user, "user": credentials }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": user } }],
        "current-context": "lab",
    });
    std::fs::write(path, serde_json::to_string_pretty(&config)?).with_context(|| format!("write {}", path.display()))
}
