//! The box: a folder as its root, a fake systemctl, and the agent's real binary.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use magnetite_swtpm::Swtpm;

use crate::site::{CAPABILITY, Site};

/// Looks like a bearer token.
pub const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJub2RlIn0.c2lnbmF0dXJlMTIz";

/// A box with its files.
pub struct NodeBox {
    folder: tempfile::TempDir,
}

impl NodeBox {
    /// A server that booted for the first time, with a kubelet in its image.
    pub fn fresh() -> Self {
        let new = Self { folder: tempfile::tempdir().expect("a folder") };
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let copied = Command::new("cp").arg("-a").arg(here.join("boxes/server")).arg(new.at("")).status();
        assert!(copied.expect("cp runs").success());
        fs::create_dir(new.systemd("")).expect("a folder");
        fs::copy(here.join("flow/systemctl.sh"), new.systemd("systemctl")).expect("copied");
        fs::write(new.folder.path().join("token"), TOKEN).expect("written");
        new.with_program("/usr/local/bin/kubelet")
    }

    fn with_program(self, path: &str) -> Self {
        fs::create_dir_all(self.at(path).parent().expect("a folder")).expect("made");
        fs::write(self.at(path), "#!/bin/sh\n").expect("written");
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).expect("set");
        self
    }

    /// Puts a TPM in.
    pub fn plug(&self, tpm: &Swtpm) {
        fs::create_dir_all(self.at("/dev")).expect("made");
        symlink(tpm.socket(), self.at("/dev/tpmrm0")).expect("linked");
    }

    /// A file on the box.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path.trim_start_matches('/'))
    }

    /// A file of the fake systemctl: `known`, `active`, `broken`, `kill-at`, `calls`.
    pub fn systemd(&self, file: &str) -> PathBuf {
        self.folder.path().join("systemd").join(file)
    }

    /// The text of a file on the box.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The mode of a file on the box.
    pub fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}")).mode() & 0o777
    }

    /// What systemctl was asked.
    pub fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.systemd("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The power goes and comes back; all but the disk with the two state folders is as in the image again.
    pub fn reboot(&self) {
        fs::remove_dir_all(self.at("/etc")).expect("removed");
        fs::remove_file(self.at("/var/lib/kubelet/config.yaml")).expect("removed");
        fs::remove_file(self.systemd("active")).expect("removed");
        fs::remove_file(self.systemd("calls")).expect("removed");
    }

    /// Runs the agent to its end, quickly.
    pub async fn run(&self, site: &Site, more: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_magnetite-agent"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).kill_on_drop(true);
        command.env("MAGNETITE_SERVER", format!("https://{}/a/1/{CAPABILITY}", site.server));
        command.env("MAGNETITE_PIN", &site.pin).env("MAGNETITE_MACHINE", "m-1").env("MAGNETITE_NODE_NAME", "box-1");
        command.env("MAGNETITE_INTENT", "created").env("MAGNETITE_JOIN", "certificate");
        command.env("MAGNETITE_LOG", "debug").env("MAGNETITE_RESTART_POLL", "0");
        command.arg("--root").arg(self.at("")).arg("--systemctl").arg(self.systemd("systemctl"));
        command.args(["--refused-pause=0", "--retry-ceiling=0", "--attempts=2"]).args(more);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        output.expect("the agent ends").expect("the agent runs")
    }
}

/// The agent's log and how it ended, for an assertion's message.
pub fn told(output: &Output) -> String {
    format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))
}
