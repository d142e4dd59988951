//! The box's TPM: found, asked for its keys, and made to answer the challenge. It works on a thread of its own, for it is slow.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use magnetite_api::{
    Sha256,
    join::ClaimRequest,
    tpm::{ClaimChallenge, TpmEvidence, TpmProof, decode, encode},
};
use magnetite_daemon::log::chain;
use magnetite_tpm::{
    binding::{Claimed, extra_data},
    client::{Keys, Signed, Stream, TpmError},
    root::Root,
    sha256,
};
use p256::SecretKey;
use tokio::{
    task::{JoinError, spawn_blocking},
    time::{Instant, sleep, timeout},
};

use crate::files::Paths;

/// Linux's resource manager: it lends the TPM to several, and flushes what each leaves.
const DEVICE: &str = "/dev/tpmrm0";
/// Firmware's word that the box has a TPM 2.0 (TCG ACPI Specification).
const FIRMWARE_TABLE: &str = "/sys/firmware/acpi/tables/TPM2";
/// How long a driver is waited for that is loaded beside us, and how long the TPM may take for the box's own keys: a box that takes others
/// instead is another box.
const DRIVER: Duration = Duration::from_secs(15);
const DERIVING: Duration = Duration::from_secs(60);
/// How often it is asked for them if it does not answer, and how long after each.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(3);

/// Why the TPM proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum BoxTpmError {
    /// There is none.
    #[error("the box has no {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("{} cannot be opened", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("the TPM does not do it")]
    Tpm(#[from] TpmError),
    /// The boot server's challenge is none.
    #[error("the boot server's challenge cannot be read")]
    Challenge,
    /// The thread ended.
    #[error("the work with the TPM ended early")]
    Ended(#[from] JoinError),
    /// It says nothing.
    #[error("the TPM gave no answer in {} s", DERIVING.as_secs())]
    Silent,
}

/// The device, or, in a lab, the socket of a TPM in software.
enum Device {
    File(File),
    Socket(UnixStream),
}

impl Device {
    fn open(path: &Path) -> Result<Self, BoxTpmError> {
        let wrong = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => BoxTpmError::Missing { path: path.to_owned() },
            _ => BoxTpmError::Open { path: path.to_owned(), source },
        };
        if fs::metadata(path).map_err(wrong)?.file_type().is_socket() {
            return UnixStream::connect(path).map(Self::Socket).map_err(wrong);
        }
        OpenOptions::new().read(true).write(true).open(path).map(Self::File).map_err(wrong)
    }
}

impl Read for Device {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Socket(socket) => socket.read(buffer),
        }
    }
}

impl Write for Device {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Socket(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The box's own two keys, as its TPM has them: the same after every restart, whatever became of its disk.
///
/// Others in another intent. Who was root on the box may have taken them along, and to provision it anew is to be rid of him.
pub struct Derived {
    /// The claim key.
    pub claim: SecretKey,
    /// The kubelet's.
    pub kubelet: SecretKey,
    /// How often the box was switched on or reset.
    pub resets: u32,
}

/// Who a box is by its keys. None of the three has a line break in it.
pub struct Whose<'a> {
    /// Name of the Machine.
    pub machine: &'a str,
    /// Its UID: one that was deleted and made again is another.
    pub machine_uid: &'a str,
    /// The intent.
    pub intent: &'a str,
}

/// The keys of this box, if it has a TPM that makes them. It is asked more than once: one that is silent in one boot and answers in the
/// next makes two boxes of one.
pub async fn derive(paths: &Paths, whose: &Whose<'_>) -> Option<Derived> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match ask(paths, whose).await {
            Ok(derived) => return Some(derived),
            Err(BoxTpmError::Missing { .. }) if !is_promised(paths) => return None,
            // A driver that did not come in all that time does not come.
            Err(error) if attempts == ATTEMPTS || matches!(error, BoxTpmError::Missing { .. }) => {
                let error = chain(&error);
                tracing::warn!(error, "the TPM has no keys for this box; without a disk it has others after a restart");
                return None;
            }
            Err(error) => tracing::warn!(error = chain(&error), "the TPM does not answer, will try again"),
        }
        sleep(PAUSE).await;
    }
}

/// True if firmware says that the box has a TPM 2.0.
fn is_promised(paths: &Paths) -> bool {
    paths.at(FIRMWARE_TABLE).exists()
}

/// Asks the TPM once.
async fn ask(paths: &Paths, whose: &Whose<'_>) -> Result<Derived, BoxTpmError> {
    let path = paths.at(DEVICE);
    let end = Instant::now() + DRIVER;
    while is_promised(paths) && !path.exists() && Instant::now() < end {
        sleep(Duration::from_millis(500)).await;
    }
    let Whose { machine, machine_uid, intent } = whose;
    let whose = format!("{machine}\n{machine_uid}\n{intent}");
    let derived = spawn_blocking(move || {
        let mut root = Root::create(Stream(Device::open(&path)?))?;
        let claim = scalar(&mut root, "claim", &whose)?;
        Ok(Derived { claim, kubelet: scalar(&mut root, "kubelet", &whose)?, resets: root.resets()? })
    });
    timeout(DERIVING, derived).await.map_err(|_| BoxTpmError::Silent)??
}

/// A private key on P-256. Of 2^32 numbers one is none: then the next is taken.
fn scalar(root: &mut Root<Stream<Device>>, purpose: &str, whose: &str) -> Result<SecretKey, BoxTpmError> {
    let mut number = 0_u32;
    loop {
        let bytes = root.derive(format!("magnetite-{purpose}-key-v1\n{whose}\n{number}").as_bytes())?;
        match SecretKey::from_slice(&bytes) {
            Ok(key) => return Ok(key),
            Err(_) => number += 1,
        }
    }
}

/// The TPM with both keys in it.
pub struct BoxTpm {
    keys: Keys<Stream<Device>>,
    evidence: TpmEvidence,
}

/// Makes both keys. The AK hangs on the claim key, so that an agent that was killed comes again with the same.
pub async fn prepare(paths: &Paths, claim_key: Vec<u8>) -> Result<BoxTpm, BoxTpmError> {
    let path = paths.at(DEVICE);
    tracing::info!(device = DEVICE, "asking the TPM for its keys, which takes some seconds");
    let began = Instant::now();
    let tpm = spawn_blocking(move || {
        let device = Device::open(&path)?;
        let mut keys = Keys::create(Stream(device), &sha256(&[b"magnetite-ak-v1".as_slice(), &claim_key].concat()))?;
        let certificate = keys.endorsement_certificate()?;
        let evidence = TpmEvidence {
            endorsement_key: encode(keys.endorsement_key()),
            endorsement_certificate: certificate.map(|der| encode(&der)),
            attestation_key: encode(keys.attestation_key()),
        };
        Ok::<_, BoxTpmError>(BoxTpm { keys, evidence })
    });
    let tpm = tpm.await??;
    let fingerprint = tpm.keys.fingerprint().map(|digest| Sha256(digest).to_string());
    tracing::info!(
        endorsement_key = fingerprint,
        certificate = tpm.evidence.endorsement_certificate.is_some(),
        elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "the TPM has its keys"
    );
    Ok(tpm)
}

impl BoxTpm {
    /// What the claim shows of it.
    pub fn evidence(&self) -> &TpmEvidence {
        &self.evidence
    }

    /// Answers the challenge, over what the claim says. The TPM is free again after that.
    pub async fn answer(self, challenge: ClaimChallenge, request: &ClaimRequest) -> Result<TpmProof, BoxTpmError> {
        let ClaimChallenge { claim, challenge } = challenge;
        let Some(credential) = decode(&challenge.credential) else { return Err(BoxTpmError::Challenge) };
        let Some(encrypted) = decode(&challenge.encrypted_secret) else { return Err(BoxTpmError::Challenge) };
        let claim_key = decode(&request.claim_key).unwrap_or_default();
        let request = request.clone();
        let mut keys = self.keys;
        let answer = spawn_blocking(move || {
            let secret = keys.activate(&credential, &encrypted)?;
            let claimed = Claimed {
                claim_key: &claim_key,
                certificate_request: request.certificate_request.as_bytes(),
                machine: &request.machine,
                intent: &request.intent,
            };
            let Signed { quote, signature, pcrs } = keys.quote(&extra_data(&secret, &claimed))?;
            Ok::<_, BoxTpmError>(TpmProof {
                claim,
                secret: encode(&secret),
                quote: encode(&quote),
                signature: encode(&signature),
                pcrs: pcrs.map(Sha256).to_vec(),
            })
        });
        answer.await?
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::create_dir_all,
        os::unix::{fs::symlink, net::UnixListener},
        thread,
    };

    use magnetite_swtpm::Swtpm;

    use super::*;

    const BOX: Whose<'_> = Whose { machine: "box-1", machine_uid: "u1", intent: "created" };

    /// A box whose firmware says that it has a TPM.
    fn promised() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().expect("a folder");
        create_dir_all(folder.path().join("dev")).expect("a folder");
        let table = folder.path().join(&FIRMWARE_TABLE[1..]);
        create_dir_all(table.parent().expect("below a folder")).expect("a folder");
        fs::write(table, "TPM2").expect("written");
        let paths = Paths::new(folder.path(), Path::new("/state"));
        (folder, paths)
    }

    /// Hangs up on so many that come, and does something before it does.
    fn hang_up(listener: UnixListener, times: usize, mut before: impl FnMut() + Send + 'static) {
        thread::spawn(move || {
            for caller in listener.incoming().take(times) {
                before();
                drop(caller);
            }
        });
    }

    /// Time goes by itself while nothing else does.
    #[tokio::test(start_paused = true)]
    async fn a_tpm_that_answers_at_the_third_try_makes_the_same_keys() {
        let tpm = Swtpm::new();
        let (folder, paths) = promised();
        let (device, busy) = (folder.path().join("dev/tpmrm0"), folder.path().join("busy"));
        let listener = UnixListener::bind(&busy).expect("a socket");
        symlink(&busy, &device).expect("a link");
        let (mut callers, socket, link) = (0, tpm.socket(), device.clone());
        hang_up(listener, 2, move || {
            callers += 1;
            if callers == 2 {
                fs::remove_file(&link).expect("there");
                symlink(&socket, &link).expect("a link");
            }
        });
        let late = derive(&paths, &BOX).await.expect("keys, at the third try");
        let soon = derive(&paths, &BOX).await.expect("keys, at the first");
        assert!(late.claim == soon.claim && late.kubelet == soon.kubelet);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_answers_is_not_asked_for_ever() {
        let (folder, paths) = promised();
        let listener = UnixListener::bind(folder.path().join("dev/tpmrm0")).expect("a socket");
        hang_up(listener, usize::MAX, || ());
        let began = Instant::now();
        assert!(derive(&paths, &BOX).await.is_none());
        assert!(began.elapsed() >= PAUSE * (ATTEMPTS - 1), "it was asked {ATTEMPTS} times");
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_comes_late_is_waited_for() {
        let tpm = Swtpm::new();
        let (folder, paths) = promised();
        let (socket, device) = (tpm.socket(), folder.path().join("dev/tpmrm0"));
        tokio::spawn(async move {
            sleep(DRIVER - Duration::from_secs(2)).await;
            symlink(socket, device).expect("a link");
        });
        assert!(derive(&paths, &BOX).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_does_not_come_is_not_waited_for_twice() {
        let (_folder, paths) = promised();
        let began = Instant::now();
        assert!(derive(&paths, &BOX).await.is_none());
        assert!(began.elapsed() < DRIVER * 2);
    }
}
