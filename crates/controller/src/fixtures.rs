//! Machines, boxes and certificate requests that read as sentences, for the tests of this crate.
//!
//! Requests are built from DER by hand, because most of them are ones that no library would make.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use magnetite_api::{
    Machine, MachineClaim, MachineClaimSpec, MachineSpec, MachineStatus, Profile, ProfileSpec,
    conditions::{self, Status, reason},
    join::{IdentityFacts, signed_text},
    machine::{IdentityLevel, IdentityStatus, IntentState, IntentStatus},
    names::FINALIZER,
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};

use crate::node::{NodeSeen, Readiness};

/// The moment at which every test begins.
pub fn t0() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

/// Some seconds after that.
pub fn t(seconds: i64) -> Timestamp {
    t0() + SignedDuration::from_secs(seconds)
}

/// A Machine `box-1` with an open window, a good Profile and one MAC.
pub fn machine() -> Machine {
    let spec = MachineSpec {
        macs: vec!["52:54:00:30:00:10".parse().unwrap()],
        profile: Some("p".into()),
        boot_window_seconds: 3600,
        ..MachineSpec::default()
    };
    let mut machine = Machine::new("box-1", spec);
    machine.metadata.uid = Some("uid-1".into());
    machine.metadata.generation = Some(1);
    machine.metadata.resource_version = Some("7".into());
    machine.metadata.finalizers = Some(vec![FINALIZER.into()]);
    machine.status = Some(MachineStatus {
        profile: Some("p".into()),
        intent: Some(intent("created", IntentState::Open)),
        conditions: vec![holds(conditions::IDENTITY_UNIQUE), holds(conditions::PROFILE_READY)],
        ..MachineStatus::default()
    });
    machine
}

pub fn holds(kind: &str) -> Condition {
    conditions::condition(&[], kind, Status::True, reason::AS_DECLARED, "", Some(1), &Time(t0()))
}

pub fn intent(id: &str, state: IntentState) -> IntentStatus {
    IntentStatus { id: id.into(), state, opened_at: Time(t0()), expires_at: Time(t(3600)) }
}

/// The identity of the box of [`Keys`], bound at `bound` seconds and issued at `issued`.
pub fn identity(keys: &Keys, bound: i64, issued: Option<i64>) -> IdentityStatus {
    IdentityStatus {
        level: IdentityLevel::Mac,
        intent: "created".into(),
        claim_key: magnetite_api::Sha256::of(&keys.claim.subject_public_key_info()).to_string(),
        kubelet_key: magnetite_api::Sha256::of(&keys.kubelet.subject_public_key_info()).to_string(),
        claim: "box-1-0000000000".into(),
        bound_at: Time(t(bound)),
        certificate_request: issued.map(|_| "magnetite-box-1".into()),
        issued_at: issued.map(|at| Time(t(at))),
        certificates: Vec::new(),
        rebound: false,
    }
}

pub fn profile() -> Profile {
    let mut profile = Profile::new("p", ProfileSpec::default());
    profile.metadata.uid = Some("uid-p".into());
    profile
}

pub fn node(name: &str, owner: Option<&str>) -> NodeSeen {
    NodeSeen {
        name: name.into(),
        uid: "uid-n".into(),
        created_at: Some(t0()),
        owner: owner.map(Into::into),
        control_plane: false,
        readiness: Readiness::Ready,
        message: String::new(),
        heartbeat: Some(t0()),
        labels: [].into(),
        annotations: [].into(),
        managed: crate::node::Managed::default(),
        unschedulable: false,
        cordoned: false,
        restart: None,
        boot_id: "boot-1".into(),
        kubelet: "v1.34.2".into(),
    }
}

/// The two keys of a box.
pub struct Keys {
    pub claim: KeyPair,
    pub kubelet: KeyPair,
    /// An honest request, always the same: ECDSA signs in another way each time.
    pub kubelet_request: String,
}

impl Keys {
    pub fn new() -> Self {
        let (claim, kubelet) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let kubelet_request = Csr::new(&kubelet).pem();
        Self { claim, kubelet, kubelet_request }
    }

    /// A claim for a request, signed.
    pub fn claim(&self, request: &str) -> MachineClaim {
        self.claim_in("created", request)
    }

    pub fn claim_in(&self, intent: &str, request: &str) -> MachineClaim {
        let spec = MachineClaimSpec {
            machine: "box-1".into(),
            machine_uid: "uid-1".into(),
            intent: intent.into(),
            claim_key: STANDARD.encode(self.claim.subject_public_key_info()),
            certificate_request: request.into(),
            signature: STANDARD.encode(self.claim.sign(&signed_text("box-1", intent, request)).unwrap()),
            facts: IdentityFacts { macs: vec!["52:54:00:30:00:10".parse().unwrap()], ..IdentityFacts::default() },
            tpm: None,
            proof: None,
            address: "172.30.0.16".into(),
            server: "server-1".into(),
        };
        let mut claim = MachineClaim::new("box-1-0000000000", spec);
        claim.metadata.uid = Some("claim-1".into());
        claim.metadata.resource_version = Some("3".into());
        claim
    }

    /// A certificate of the kubelet's key that ends at this second of the tests' time.
    pub fn certificate(&self, end: i64) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.not_after =
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(t(end).as_second().unsigned_abs());
        params.self_signed(&self.kubelet).unwrap().pem()
    }

    /// What an honest kubelet of `box-1` asks for.
    pub fn honest(&self) -> Csr {
        Csr::new(&self.kubelet)
    }
}

/// A certificate request to be.
pub struct Csr {
    /// Parts of the subject, each a list of attributes: (last octet of the OID below 2.5.4, tag, text).
    pub subject: Vec<Vec<(u8, u8, Vec<u8>)>>,
    /// Attributes, DER.
    pub attributes: Vec<Vec<u8>>,
    spki: Vec<u8>,
    key: KeyPair,
    algorithm: Vec<u8>,
}

const O: u8 = 10;
const CN: u8 = 3;
const UTF8: u8 = 0x0c;

pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=127 => out.push(short as u8),
        long @ 128..=255 => out.extend([0x81, long as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

impl Csr {
    pub fn new(key: &KeyPair) -> Self {
        let copy = KeyPair::try_from(key.serialized_der()).unwrap();
        let oid: &[u8] = match key.algorithm() {
            a if *a == rcgen::PKCS_ECDSA_P384_SHA384 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            a if *a == rcgen::PKCS_ED25519 => &[0x2b, 0x65, 0x70],
            _ => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
        };
        Self {
            subject: vec![vec![(O, UTF8, b"system:nodes".to_vec())], vec![(CN, UTF8, b"system:node:box-1".to_vec())]],
            attributes: vec![],
            spki: key.subject_public_key_info(),
            key: copy,
            algorithm: der(0x30, &der(6, oid)),
        }
    }

    pub fn cn(self, text: &str) -> Self {
        self.subject_of(&[(O, "system:nodes"), (CN, text)])
    }

    pub fn subject_of(mut self, parts: &[(u8, &str)]) -> Self {
        self.subject = parts.iter().map(|(kind, text)| vec![(*kind, UTF8, text.as_bytes().to_vec())]).collect();
        self
    }

    /// Subject alternative names: (context tag, content).
    pub fn sans(self, names: &[(u8, &[u8])]) -> Self {
        let names: Vec<u8> = names.iter().flat_map(|(tag, content)| der(0x80 | tag, content)).collect();
        self.extension(&[0x55, 0x1d, 17], &der(0x30, &names))
    }

    pub fn dns(self, name: &str) -> Self {
        self.sans(&[(2, name.as_bytes())])
    }

    pub fn extension(mut self, oid: &[u8], value: &[u8]) -> Self {
        let extension = der(0x30, &[der(6, oid), der(4, value)].concat());
        let request = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
        let set = der(0x31, &der(0x30, &extension));
        self.attributes.push(der(0x30, &[der(6, &request), set].concat()));
        self
    }

    pub fn der(&self) -> Vec<u8> {
        let attribute =
            |(kind, tag, text): &(u8, u8, Vec<u8>)| der(0x30, &[der(6, &[0x55, 4, *kind]), der(*tag, text)].concat());
        let part = |part: &Vec<(u8, u8, Vec<u8>)>| der(0x31, &part.iter().flat_map(attribute).collect::<Vec<_>>());
        let subject = der(0x30, &self.subject.iter().flat_map(part).collect::<Vec<_>>());
        let attributes = der(0xa0, &self.attributes.concat());
        let info = der(0x30, &[der(2, &[0]), subject, self.spki.clone(), attributes].concat());
        let signature = self.key.sign(&info).unwrap();
        der(0x30, &[info, self.algorithm.clone(), der(3, &[vec![0], signature].concat())].concat())
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE REQUEST", &self.der())
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
