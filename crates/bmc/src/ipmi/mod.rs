//! Asks a BMC by IPMI 2.0, with ipmitool: no crate that speaks RMCP+ is kept well enough to be trusted with a password.
//!
//! The password goes by the environment of that one process. The arguments, which everybody on the machine can read, hold the address
//! and the user's name.

pub mod output;

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use crate::{Act, Credentials, Power, error::Error};

/// One call of ipmitool. It asks for the BMC's ciphers first, and some never answer that.
const LIMIT: Duration = Duration::from_secs(20);
/// As much of its output as is read.
const MOST_BYTES: u64 = 64 << 10;

/// A BMC that speaks IPMI.
#[derive(Debug, Clone)]
pub struct Ipmi {
    program: PathBuf,
    host: String,
    port: u16,
    efi: bool,
    credentials: Credentials,
    limit: Duration,
}

impl Ipmi {
    /// Prepares to ask; asks nothing yet. `efi`: the box boots by UEFI.
    pub fn new(host: &str, port: u16, efi: bool, credentials: Credentials) -> Self {
        Self { program: "ipmitool".into(), host: host.to_owned(), port, efi, credentials, limit: LIMIT }
    }

    /// The same, with another program and another limit.
    #[cfg(test)]
    fn by(self, program: PathBuf, limit: Duration) -> Self {
        Self { program, limit, ..self }
    }

    /// Whether the box is on.
    ///
    /// # Errors
    /// The BMC does not say.
    pub async fn power(&self) -> Result<Power, Error> {
        let out = self.run("show whether the box is on", &["chassis", "power", "status"], false).await?;
        let text = || Error::Unintelligible { host: self.host.clone(), what: crate::said::said(&out), perhaps: false };
        output::power(&out).ok_or_else(text)
    }

    /// The next boot, and only that, is to be from the network. IPMI knows PXE alone.
    ///
    /// # Errors
    /// The BMC did not take that.
    pub async fn boot_network_once(&self) -> Result<(), Error> {
        let mut arguments = vec!["chassis", "bootdev", "pxe"];
        if self.efi {
            arguments.push("options=efiboot");
        }
        self.run("boot from the network once", &arguments, true).await.map(drop)
    }

    /// Does something with the box's power.
    ///
    /// # Errors
    /// The BMC did not take it, or nobody knows.
    pub async fn act(&self, act: Act) -> Result<(), Error> {
        let word = match act {
            Act::On => "on",
            Act::Shutdown => "soft",
            Act::Off => "off",
            Act::Reset => "reset",
        };
        self.run(act.as_str(), &["chassis", "power", word], true).await.map(drop)
    }

    /// `changes`: what is asked for would switch something.
    async fn run(&self, what: &str, arguments: &[&str], changes: bool) -> Result<String, Error> {
        let host = self.host.clone();
        // It sends a command again whose answer was lost: three resets were counted for one. So a reset is sent once; all else may be
        // done twice.
        let tries = if arguments.contains(&"reset") { ["-N", "5", "-R", "1"] } else { ["-N", "1", "-R", "4"] };
        let mut child = Command::new(&self.program)
            // -v: without it a wrong password reads like a BMC that is not there.
            .args(["-v", "-I", "lanplus"])
            .args(tries)
            .args(["-H", &self.host, "-p", &self.port.to_string(), "-U", &self.credentials.username, "-E"])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("IPMITOOL_PASSWORD", &self.credentials.password)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::NoTool { program: self.program.display().to_string(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let whole = async {
            let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), child.wait());
            (stdout, stderr, status)
        };
        let Ok((stdout, stderr, status)) = tokio::time::timeout(self.limit, whole).await else {
            return Err(Error::Silent { host, after: self.limit, sent: changes });
        };
        match status {
            Ok(status) if status.success() => Ok(stdout),
            Ok(status) => Err(output::failure(&host, what, status.code(), &stderr, changes)),
            Err(source) => Err(Error::NoTool { program: self.program.display().to_string(), source }),
        }
    }
}

/// What a pipe says, as far as it is read. The rest is swallowed, so that who writes it is not held up.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut bytes = Vec::new();
    // A pipe that breaks has said what it had to say.
    let _ = (&mut pipe).take(MOST_BYTES).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that does what the lines say; and who would ask it.
    fn by(script: &str) -> (tempfile::TempDir, Ipmi) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("tool");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let credentials = Credentials { username: "-admin".into(), password: "s3cret".into() };
        let ipmi = Ipmi::new("10.0.8.21", 623, true, credentials).by(program, Duration::from_secs(5));
        (folder, ipmi)
    }

    #[tokio::test]
    async fn the_password_is_in_the_environment_and_nowhere_else() {
        let (folder, ipmi) =
            by(r#"echo "$*" > "$(dirname "$0")/arguments"; env > "$(dirname "$0")/env"; echo "Chassis Power is off""#);
        assert_eq!(ipmi.power().await.unwrap(), Power::Off);
        let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
        assert!(arguments.contains("-H 10.0.8.21 -p 623 -U -admin -E chassis power status"), "{arguments}");
        assert!(!arguments.contains("s3cret"));
        assert!(std::fs::read_to_string(folder.path().join("env")).unwrap().contains("IPMITOOL_PASSWORD=s3cret"));
        assert!(!format!("{ipmi:?}").contains("s3cret"));
        ipmi.boot_network_once().await.unwrap();
        let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
        assert!(arguments.ends_with("chassis bootdev pxe options=efiboot\n"), "{arguments}");
        ipmi.act(Act::Reset).await.unwrap();
        let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
        assert!(arguments.contains("-R 1 "), "a reset may be sent twice: {arguments}");
    }

    #[tokio::test]
    async fn a_tool_that_hangs_or_talks_for_ever_ends() {
        let (_folder, ipmi) = by("exec sleep 600");
        let ipmi = Ipmi { limit: Duration::from_millis(300), ..ipmi };
        let error = ipmi.act(Act::Reset).await.unwrap_err();
        assert!(matches!(error, Error::Silent { sent: true, .. }), "{error:?}");
        let (_folder, ipmi) = by("head -c 10000000 /dev/zero; echo no >&2; exit 3");
        let error = ipmi.power().await.unwrap_err();
        assert!(
            matches!(&error, Error::Refused { code, said, .. } if code == "exit code 3" && said == "no"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn without_the_tool_one_is_told_so() {
        let (_folder, ipmi) = by("");
        let error = ipmi.by("/nowhere/ipmitool".into(), Duration::from_secs(1)).power().await.unwrap_err();
        assert!(matches!(error, Error::NoTool { .. }), "{error:?}");
    }
}
