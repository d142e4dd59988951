//! The box's half: the few commands (Part 3), over whatever carries bytes to a TPM and back.

use std::io::{self, Read, Write};

use crate::{
    attest::{self, AttestError, PcrValues, Quote, digest_of},
    codes::{
        ACTIVATE_CREDENTIAL, CREATE_PRIMARY, EK_CERTIFICATE, ENDORSEMENT, FLUSH_CONTEXT, HANDLE_NULL, NO_SESSIONS,
        NULL, NV_READ, NV_READ_PUBLIC, OWNER, PASSWORD, PCR_READ, POLICY_SECRET, QUOTE, SESSIONS, SHA256,
        START_AUTH_SESSION,
    },
    public::{AttestationKey, EndorsementKey, KeyError},
    reader::{ReadError, Reader, put_sized},
};

/// The longest answer that is read; no TPM of a PC says more at once.
pub const LONGEST_ANSWER: usize = 4096;
/// Bytes of NV memory that are asked for at once; every TPM gives as many.
const NV_PIECE: u16 = 512;
/// The longest certificate that is read.
const LONGEST_CERTIFICATE: u16 = 6000;
/// How often a quote is made again because a PCR changed meanwhile.
const TRIES: usize = 3;
/// `TPM_SE_POLICY`.
const POLICY: u8 = 1;
/// `continueSession`.
const CONTINUE: u8 = 1;

/// Carries a command to a TPM and its answer back. Linux's resource manager, `/dev/tpmrm0`, is one: it waits where the TPM asks to
/// be asked again, and flushes what its user leaves.
pub trait Transport {
    /// Says this, and waits for the whole answer. At most [`LONGEST_ANSWER`] bytes.
    ///
    /// # Errors
    /// The TPM is away.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// A [`Transport`] over a device, or over a socket as swtpm has one.
#[derive(Debug)]
pub struct Stream<S>(pub S);

impl<S: Read + Write> Transport for Stream<S> {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        // In one call: the device takes each for a command of its own.
        self.0.write_all(command)?;
        let mut answer = Vec::new();
        let mut piece = [0; LONGEST_ANSWER];
        loop {
            let count = self.0.read(&mut piece)?;
            answer.extend(piece.iter().take(count));
            // Tag, and the size of all of it.
            let size = answer.get(2..6).and_then(|size| size.try_into().ok()).map(u32::from_be_bytes);
            let size = size.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
            match size {
                Some(size) if size > LONGEST_ANSWER => return Err(io::ErrorKind::InvalidData.into()),
                Some(size) if answer.len() >= size => return Ok(answer),
                Some(_) | None if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(_) | None => {}
            }
        }
    }
}

/// Why the TPM did not do it.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The TPM could not be asked.
    #[error("{command} could not be sent to the TPM")]
    Io {
        /// Which command.
        command: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TPM said no.
    #[error("the TPM refused {command} with code {code:#x}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// `TPM_RC` (Part 2, 6.6).
        code: u32,
    },
    /// The answer is not what the command's should be.
    #[error("the TPM's answer to {command} makes no sense")]
    Answer {
        /// Which command.
        command: &'static str,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The TPM made a key of another kind.
    #[error("the TPM made an {0} that is not what was asked for")]
    Key(&'static str, #[source] KeyError),
    /// The TPM cannot quote what is asked for.
    #[error("the TPM's PCRs could not be quoted")]
    Quote(#[source] AttestError),
    /// They change while they are quoted.
    #[error("the PCRs 0 to 7 do not stand still")]
    Unsteady,
}

/// The keys of one claim, in the TPM. They are flushed when this is dropped.
pub struct Keys<T: Transport> {
    tpm: T,
    endorsement_handle: Option<u32>,
    attestation_handle: Option<u32>,
    endorsement: Vec<u8>,
    attestation: Vec<u8>,
}

/// A quote, as the verifier wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The PCRs that were quoted.
    pub pcrs: PcrValues,
}

/// How a command is authorised.
pub(crate) enum Auth {
    /// The empty password, which is what these keys and a TPM that nobody took into possession have.
    Empty,
    /// A policy session.
    Session(u32),
}

/// A command of Part 3, before it is written.
pub(crate) struct Command<'a> {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
    pub(crate) handles: &'a [u32],
    pub(crate) auths: &'a [Auth],
    pub(crate) parameters: &'a [u8],
}

impl Command<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut auths = Vec::new();
        for auth in self.auths {
            let handle = match auth {
                Auth::Empty => PASSWORD,
                Auth::Session(handle) => *handle,
            };
            auths.extend(handle.to_be_bytes());
            // No nonce, attributes, no HMAC or password.
            auths.extend([0, 0, CONTINUE, 0, 0]);
        }
        let mut body: Vec<u8> = self.handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        if !auths.is_empty() {
            body.extend(length(auths.len()).to_be_bytes());
            body.extend(auths);
        }
        body.extend(self.parameters);
        let tag = if self.auths.is_empty() { NO_SESSIONS } else { SESSIONS };
        let mut out = tag.to_be_bytes().to_vec();
        out.extend(length(body.len().saturating_add(10)).to_be_bytes());
        out.extend(self.code.to_be_bytes());
        out.extend(body);
        out
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What an answer says: a handle, if the command returns one, and its parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The handle, where one was wanted.
    pub handle: Option<u32>,
    /// What follows.
    pub parameters: &'a [u8],
}

/// Reads an answer (Part 1, 18.4). `Ok(Err(code))` is a refusal.
///
/// # Errors
/// It is no answer.
pub fn answer(bytes: &[u8], with_handle: bool, with_sessions: bool) -> Result<Result<Answer<'_>, u32>, ReadError> {
    let mut reader = Reader::new(bytes);
    let tag = reader.u16("tag")?;
    let size = reader.u32("responseSize")?;
    let code = reader.u32("responseCode")?;
    if code != 0 {
        return Ok(Err(code));
    }
    let handle = if with_handle { Some(reader.u32("handle")?) } else { None };
    // A TPM answers in kind; a size that is not that of the answer is one that was cut or runs on.
    if usize::try_from(size) != Ok(bytes.len()) {
        return Err(ReadError::Contradiction("responseSize"));
    }
    if tag != if with_sessions { SESSIONS } else { NO_SESSIONS } {
        return Err(ReadError::Contradiction("tag"));
    }
    let parameters = if with_sessions {
        let size = reader.u32("parameterSize")?;
        reader.slice("parameters", usize::try_from(size).unwrap_or(usize::MAX))?
    } else {
        reader.rest()
    };
    Ok(Ok(Answer { handle, parameters }))
}

/// A handle and the parameters of an answer.
type Done = (Option<u32>, Vec<u8>);

pub(crate) fn run(tpm: &mut impl Transport, command: &Command<'_>, with_handle: bool) -> Result<Done, TpmError> {
    let name = command.name;
    let bytes = tpm.exchange(&command.encode()).map_err(|source| TpmError::Io { command: name, source })?;
    match answer(&bytes, with_handle, !command.auths.is_empty()) {
        Ok(Ok(answer)) => Ok((answer.handle, answer.parameters.to_vec())),
        Ok(Err(code)) => Err(TpmError::Refused { command: name, code }),
        Err(source) => Err(TpmError::Answer { command: name, source }),
    }
}

pub(crate) fn flush(tpm: &mut impl Transport, handle: u32) {
    let command = Command {
        name: "FlushContext",
        code: FLUSH_CONTEXT,
        handles: &[],
        auths: &[],
        // It is a parameter there, not a handle.
        parameters: &handle.to_be_bytes(),
    };
    // Nothing can be done about one that fails, and the resource manager flushes what is left.
    drop(run(tpm, &command, false));
}

pub(crate) fn create_primary(
    tpm: &mut impl Transport,
    hierarchy: u32,
    template: &[u8],
) -> Result<(u32, Vec<u8>), TpmError> {
    let name = "CreatePrimary";
    // Neither password nor data of ours in it.
    let mut parameters = vec![0, 4, 0, 0, 0, 0];
    parameters.extend(template);
    // No outsideInfo, no creationPCR.
    parameters.extend([0, 0, 0, 0, 0, 0]);
    let command =
        Command { name, code: CREATE_PRIMARY, handles: &[hierarchy], auths: &[Auth::Empty], parameters: &parameters };
    let (handle, parameters) = run(tpm, &command, true)?;
    let handle = handle.unwrap_or(HANDLE_NULL);
    let mut reader = Reader::new(&parameters);
    match reader.sized("outPublic") {
        Ok(area) => {
            let mut public = Vec::new();
            put_sized(&mut public, area);
            Ok((handle, public))
        }
        Err(source) => {
            flush(tpm, handle);
            Err(TpmError::Answer { command: name, source })
        }
    }
}

impl<T: Transport> Keys<T> {
    /// Makes both keys. The EK takes seconds, for it is made anew from the TPM's seed each time; it is the same each time.
    ///
    /// # Errors
    /// The TPM cannot, or will not: its endorsement hierarchy has a password, or it knows no such key.
    pub fn create(tpm: T, seed: &[u8; 32]) -> Result<Self, TpmError> {
        let mut keys = Self {
            tpm,
            endorsement_handle: None,
            attestation_handle: None,
            endorsement: Vec::new(),
            attestation: Vec::new(),
        };
        let (handle, public) = create_primary(&mut keys.tpm, ENDORSEMENT, &EndorsementKey::template())?;
        (keys.endorsement_handle, keys.endorsement) = (Some(handle), public);
        EndorsementKey::decode(&keys.endorsement).map_err(|error| TpmError::Key("endorsement key", error))?;
        let (handle, public) = create_primary(&mut keys.tpm, ENDORSEMENT, &AttestationKey::template(seed))?;
        (keys.attestation_handle, keys.attestation) = (Some(handle), public);
        AttestationKey::decode(&keys.attestation).map_err(|error| TpmError::Key("attestation key", error))?;
        Ok(keys)
    }

    /// The EK, `TPM2B_PUBLIC`.
    pub fn endorsement_key(&self) -> &[u8] {
        &self.endorsement
    }

    /// What people know the TPM by.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        EndorsementKey::decode(&self.endorsement).ok().map(|key| key.fingerprint())
    }

    /// The AK, `TPM2B_PUBLIC`.
    pub fn attestation_key(&self) -> &[u8] {
        &self.attestation
    }

    /// The EK's certificate, DER, if the maker left one.
    ///
    /// # Errors
    /// The TPM is away, or answers nonsense. A TPM that has none, or gives it to its owner alone, is no error.
    pub fn endorsement_certificate(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        for right in [EK_CERTIFICATE, OWNER] {
            match nv_read(&mut self.tpm, EK_CERTIFICATE, right) {
                Ok(bytes) => return Ok(der(&bytes)),
                Err(TpmError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads the secret of a challenge. Only the TPM that holds both keys can.
    ///
    /// # Errors
    /// The challenge is for other keys.
    pub fn activate(&mut self, credential: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        let session = start_policy(&mut self.tpm)?;
        let result = self.activate_in(session, credential, encrypted_secret);
        flush(&mut self.tpm, session);
        result
    }

    fn activate_in(&mut self, session: u32, credential: &[u8], encrypted: &[u8]) -> Result<Vec<u8>, TpmError> {
        let name = "ActivateCredential";
        // PolicySecret: no nonce, no cpHash, no policyRef, no expiration.
        let command = Command {
            name: "PolicySecret",
            code: POLICY_SECRET,
            handles: &[ENDORSEMENT, session],
            auths: &[Auth::Empty],
            parameters: &[0; 10],
        };
        run(&mut self.tpm, &command, false)?;
        let mut parameters = Vec::new();
        put_sized(&mut parameters, credential);
        put_sized(&mut parameters, encrypted);
        let command = Command {
            name,
            code: ACTIVATE_CREDENTIAL,
            handles: &[self.attestation_handle.unwrap_or(HANDLE_NULL), self.endorsement_handle.unwrap_or(HANDLE_NULL)],
            auths: &[Auth::Empty, Auth::Session(session)],
            parameters: &parameters,
        };
        let (_, parameters) = run(&mut self.tpm, &command, false)?;
        let secret = Reader::new(&parameters).sized("certInfo");
        secret.map(<[u8]>::to_vec).map_err(|source| TpmError::Answer { command: name, source })
    }

    /// Lets the AK sign the PCRs and this.
    ///
    /// # Errors
    /// The TPM has no SHA-256 PCRs, or they change all the time.
    pub fn quote(&mut self, extra_data: &[u8]) -> Result<Signed, TpmError> {
        for _ in 0..TRIES {
            let pcrs = read_pcrs(&mut self.tpm)?;
            let (quote, signature) = self.quote_once(extra_data)?;
            if Quote::decode(&quote).map_err(TpmError::Quote)?.pcr_digest == digest_of(&pcrs) {
                return Ok(Signed { quote, signature, pcrs });
            }
        }
        Err(TpmError::Unsteady)
    }

    fn quote_once(&mut self, extra_data: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let name = "Quote";
        let mut parameters = Vec::new();
        put_sized(&mut parameters, extra_data);
        parameters.extend(NULL.to_be_bytes());
        parameters.extend(attest::selection());
        let command = Command {
            name,
            code: QUOTE,
            handles: &[self.attestation_handle.unwrap_or(HANDLE_NULL)],
            auths: &[Auth::Empty],
            parameters: &parameters,
        };
        let (_, parameters) = run(&mut self.tpm, &command, false)?;
        let mut reader = Reader::new(&parameters);
        let quoted = reader.sized("quoted").map_err(|source| TpmError::Answer { command: name, source })?;
        Ok((quoted.to_vec(), reader.rest().to_vec()))
    }
}

impl<T: Transport> Drop for Keys<T> {
    fn drop(&mut self) {
        for handle in [self.attestation_handle, self.endorsement_handle].into_iter().flatten() {
            flush(&mut self.tpm, handle);
        }
    }
}

fn start_policy(tpm: &mut impl Transport) -> Result<u32, TpmError> {
    let mut parameters = Vec::new();
    // The session signs nothing, so its nonce need not be one.
    put_sized(&mut parameters, &[0; 16]);
    put_sized(&mut parameters, &[]);
    parameters.push(POLICY);
    parameters.extend(NULL.to_be_bytes());
    parameters.extend(SHA256.to_be_bytes());
    let command = Command {
        name: "StartAuthSession",
        code: START_AUTH_SESSION,
        handles: &[HANDLE_NULL, HANDLE_NULL],
        auths: &[],
        parameters: &parameters,
    };
    let (handle, _) = run(tpm, &command, true)?;
    Ok(handle.unwrap_or(HANDLE_NULL))
}

fn read_pcrs(tpm: &mut impl Transport) -> Result<PcrValues, TpmError> {
    let parameters = attest::selection();
    let command = Command { name: "PCR_Read", code: PCR_READ, handles: &[], auths: &[], parameters: &parameters };
    let (_, parameters) = run(tpm, &command, false)?;
    attest::pcr_values(&parameters).map_err(TpmError::Quote)
}

fn nv_read(tpm: &mut impl Transport, index: u32, right: u32) -> Result<Vec<u8>, TpmError> {
    let name = "NV_ReadPublic";
    let command = Command { name, code: NV_READ_PUBLIC, handles: &[index], auths: &[], parameters: &[] };
    let (_, parameters) = run(tpm, &command, false)?;
    let size = nv_size(&parameters).map_err(|source| TpmError::Answer { command: name, source })?;
    let (size, mut out) = (size.min(LONGEST_CERTIFICATE), Vec::new());
    while let Some(left) = usize::from(size).checked_sub(out.len()).filter(|left| *left > 0) {
        let piece = u16::try_from(left).unwrap_or(NV_PIECE).min(NV_PIECE);
        let offset = u16::try_from(out.len()).unwrap_or(u16::MAX);
        let parameters = [piece.to_be_bytes(), offset.to_be_bytes()].concat();
        let name = "NV_Read";
        let command =
            Command { name, code: NV_READ, handles: &[right, index], auths: &[Auth::Empty], parameters: &parameters };
        let (_, parameters) = run(tpm, &command, false)?;
        let bytes = Reader::new(&parameters).sized("data");
        let bytes = bytes.map_err(|source| TpmError::Answer { command: name, source })?;
        if bytes.len() != usize::from(piece) {
            let source = ReadError::Short { field: "data", at: 0, want: piece.into(), had: bytes.len() };
            return Err(TpmError::Answer { command: name, source });
        }
        out.extend(bytes);
    }
    Ok(out)
}

/// `dataSize` of a `TPM2B_NV_PUBLIC`.
fn nv_size(bytes: &[u8]) -> Result<u16, ReadError> {
    let public = Reader::new(bytes).sized("nvPublic")?;
    let mut public = Reader::new(public);
    public.u32("nvIndex")?;
    public.u16("nameAlg")?;
    public.u32("attributes")?;
    public.sized("authPolicy")?;
    public.u16("dataSize")
}

/// The certificate at the front of NV memory, which may be longer than it; none if there is none.
fn der(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, _) = bytes.split_first_chunk::<4>()?;
    let [0x30, 0x82, high, low] = *head else { return None };
    let length = usize::from(u16::from_be_bytes([high, low])).checked_add(4)?;
    bytes.get(..length).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_and_in_kind_or_none() {
        let flushed = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];
        assert_eq!(answer(&flushed, false, false), Ok(Ok(Answer { handle: None, parameters: &[] })));
        assert!(answer(&flushed, false, true).is_err(), "sessions were used");
        assert!(answer(&[&flushed[..], &[0]].concat(), false, false).is_err());
        let refused = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x2f];
        assert_eq!(answer(&refused, true, true), Ok(Err(0x12f)));
    }

    #[test]
    fn a_certificate_ends_where_it_says() {
        assert_eq!(der(&[0x30, 0x82, 0, 1, 7, 0xff, 0xff]), Some(vec![0x30, 0x82, 0, 1, 7]));
        assert_eq!(der(&[0x30, 0x82, 0, 9, 7]), None);
        assert_eq!(der(&[0xff; 64]), None);
    }
}
