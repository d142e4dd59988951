//! TPMs in software, for tests: `swtpm` and, for one with a certificate, `swtpm_setup` (Debian: `swtpm`, `swtpm-tools`).
//!
//! Each is a process of its own with a fresh seed, so that two of them are two TPMs. It ends with the value that stands for it.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use magnetite_tpm::client::{Stream, Transport};

/// How long one may take to start, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A maker of TPMs: an authority that signs the certificates of their endorsement keys.
pub struct Maker {
    folder: tempfile::TempDir,
}

impl Default for Maker {
    fn default() -> Self {
        Self::new()
    }
}

impl Maker {
    /// One that nobody knows yet. Its keys are made with its first TPM.
    pub fn new() -> Self {
        let folder = folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let setup = [
            format!("create_certs_tool = {}", program("swtpm_localca").display()),
            format!("create_certs_tool_config = {}", at("localca.conf")),
            format!("create_certs_tool_options = {}", at("localca.options")),
        ];
        let authority = [
            format!("statedir = {}", at("")),
            format!("signingkey = {}", at("signkey.pem")),
            format!("issuercert = {}", at("issuercert.pem")),
            format!("certserial = {}", at("certserial")),
        ];
        let options = ["--platform-manufacturer Lab", "--platform-version 1", "--platform-model Box"];
        write(&folder.path().join("setup.conf"), &setup.join("\n"));
        write(&folder.path().join("localca.conf"), &authority.join("\n"));
        write(&folder.path().join("localca.options"), &options.join("\n"));
        Self { folder }
    }

    /// A TPM of this maker's, with its certificate in it.
    pub fn tpm(&self) -> Swtpm {
        let state = folder();
        self.manufacture(state.path());
        Swtpm::run(state.path().to_owned(), Some(state))
    }

    fn manufacture(&self, state: &Path) {
        let mut command = Command::new(program("swtpm_setup"));
        command.args(["--tpm2", "--create-ek-cert", "--overwrite", "--pcr-banks", "sha256", "--tpmstate"]).arg(state);
        let output = command.arg("--config").arg(self.folder.path().join("setup.conf")).output();
        let output = output.expect("swtpm_setup runs; it is in Debian's swtpm-tools");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// What a person would give as `--tpm-authorities`: the certificate that signs the TPMs'. There once a TPM was made.
    pub fn authorities(&self) -> String {
        fs::read_to_string(self.folder.path().join("issuercert.pem")).expect("made with the first TPM")
    }
}

/// A TPM.
pub struct Swtpm {
    state: PathBuf,
    process: Child,
    // Goes with the TPM, after it.
    _folder: Option<tempfile::TempDir>,
}

impl Default for Swtpm {
    fn default() -> Self {
        Self::new()
    }
}

impl Swtpm {
    /// One without a certificate: anybody can have such a one.
    pub fn new() -> Self {
        let folder = folder();
        Self::run(folder.path().to_owned(), Some(folder))
    }

    /// The one whose state is in this folder, which stays. A fresh one, if the folder is empty.
    pub fn at(state: &Path) -> Self {
        Self::run(state.to_owned(), None)
    }

    fn run(state: PathBuf, folder: Option<tempfile::TempDir>) -> Self {
        let process = start(&state);
        let tpm = Self { state, process, _folder: folder };
        tpm.wait();
        tpm
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < end, "swtpm does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its box lost power, and has it again.
    pub fn restart(&mut self) {
        self.stop();
        self.process = start(&self.state);
        self.wait();
    }

    fn stop(&mut self) {
        // setpriv became swtpm.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_file(self.socket()));
    }

    /// Where it listens. One at a time is served.
    pub fn socket(&self) -> PathBuf {
        self.state.join("socket")
    }

    /// A line to it.
    pub fn connect(&self) -> Stream<UnixStream> {
        Stream(UnixStream::connect(self.socket()).expect("it listens"))
    }

    /// Something was measured into a PCR: `PCR_Extend` of the SHA-256 bank.
    pub fn extend(&self, pcr: u8) {
        let mut command =
            vec![0x80, 2, 0, 0, 0, 65, 0, 0, 1, 0x82, 0, 0, 0, pcr, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0];
        command.extend([0, 0, 0, 1, 0, 0x0b]);
        command.extend([7; 32]);
        let answer = self.connect().exchange(&command).expect("an answer");
        assert_eq!(answer.get(6..10), Some([0; 4].as_slice()), "PCR_Extend");
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(state: &Path) -> Child {
    let at = |name: &str| state.join(name).display().to_string();
    // It must not outlive a test that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program("swtpm")).args(["socket", "--tpm2", "--tpmstate"]);
    command.arg(format!("dir={}", at(""))).arg("--server").arg(format!("type=unixio,path={}", at("socket")));
    command.args(["--flags", "not-need-init,startup-clear"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("swtpm starts; it is in Debian's package swtpm")
}

fn folder() -> tempfile::TempDir {
    // Short: the path of a Unix socket has at most 107 bytes.
    tempfile::Builder::new().prefix("tpm").tempdir_in("/tmp").expect("a folder")
}

fn write(path: &Path, text: &str) {
    fs::write(path, format!("{text}\n")).expect("written");
}

/// Debian has them in /usr/bin, which is not in everybody's PATH under sudo.
fn program(name: &str) -> PathBuf {
    Path::new("/usr/bin").join(name)
}
