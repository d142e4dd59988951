//! What travels between the agent and the boot server, as JSON over TLS pinned by key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    report::{BootStepName, Inventory},
    time::Time,
    tpm::{TpmEvidence, TpmProof},
    types::{MacAddr, MachineUuid},
};

/// What a box says of its own identity. Bounded; not proven.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct IdentityFacts {
    /// Ethernet addresses of its physical network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub macs: Vec<MacAddr>,
    /// SMBIOS system UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineUuid>,
    /// SMBIOS system serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
}

/// POST body of a claim.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRequest {
    /// Name of the Machine, as the agent's environment file says.
    pub machine: String,
    /// The intent, as the agent's environment file says.
    pub intent: String,
    /// The claim key: SubjectPublicKeyInfo of an ECDSA P-256 key, DER in base64.
    pub claim_key: String,
    /// The kubelet's certificate request: PKCS#10 in PEM.
    pub certificate_request: String,
    /// The claim key's signature over [`signed_text`]: ECDSA P-256 with SHA-256, ASN.1, base64.
    pub signature: String,
    /// What the box says it is.
    pub facts: IdentityFacts,
    /// What it shows of its TPM, if the environment file asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmEvidence>,
    /// Its answer to a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<TpmProof>,
}

/// The bytes that the claim key signs: they bind the request to the machine and the intent.
pub fn signed_text(machine: &str, intent: &str, certificate_request: &str) -> Vec<u8> {
    let digest = crate::types::Sha256::of(certificate_request.as_bytes());
    format!("magnetite-claim-v1\n{machine}\n{intent}\n{digest}\n").into_bytes()
}

/// 200 answer to a claim.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResponse {
    /// What the box needs to join.
    pub join: JoinBundle,
    /// The boot server's clock, so that a box whose clock says 1970 can set its own.
    pub server_time: Time,
}

/// What a box needs to join. Certificates and configuration only: nothing in it is secret.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct JoinBundle {
    /// Name of the Node.
    pub node_name: String,
    /// URL of the API server.
    pub api_server: String,
    /// The cluster's certificate authority, PEM.
    pub certificate_authority: String,
    /// The kubelet's client certificate chain, PEM.
    pub certificate: String,
    /// The kubelet's KubeletConfiguration, as JSON (which is YAML).
    pub kubelet_configuration: String,
    /// Further arguments for the kubelet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubelet_args: Vec<String>,
}

/// POST body of a progress report.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportRequest {
    /// The step that was reached, or at which it failed.
    pub step: BootStepName,
    /// More about it, for a person. At most 200 characters are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why the step failed. Absent: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ReportedFailure>,
    /// What the box is made of; sent with the first report of a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// Why a step failed on the box.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportedFailure {
    /// One word, such as `KubeletNotStarted`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Body of every answer that is not 2xx.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// One word, from [`crate::conditions::reason`] where there is one.
    pub reason: String,
    /// A sentence, with what to do.
    pub message: String,
}
