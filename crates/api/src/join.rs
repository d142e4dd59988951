//! What travels between the agent and the boot server, as JSON over TLS pinned by key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    install::{ConfigPlace, DiskHints, ImageFormat, WipedDisk},
    report::{BootStepName, Inventory},
    time::Time,
    tpm::{TpmEvidence, TpmProof},
    types::{MacAddr, MachineUuid, Sha256},
};

/// A certificate that ends in fewer seconds than this is not worth starting with: the kubelet asks for the next one with it, which takes a
/// moment. So an agent takes it for none, and the controller gives another.
pub const LEAST_CERTIFICATE_SECONDS: i64 = 120;

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
    /// Path at the same boot server where the sealed files are to be had later, as they are then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
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
    /// UID of the Machine, which the files below are sealed for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_uid: String,
    /// The Profile's files with secrets. Only the holder of the claim key can open them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_files: Option<SealedFiles>,
}

/// Files with secrets, encrypted to one machine's claim key: HPKE (RFC 9180), DHKEM(P-256, HKDF-SHA256), AES-256-GCM.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct SealedFiles {
    /// Names what was sealed, and changes with it.
    pub revision: String,
    /// The encapsulated key, base64.
    pub encapsulated_key: String,
    /// The files, base64.
    pub ciphertext: String,
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
    /// The disks that were wiped, with the step `Wiped`. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wiped: Vec<WipedDisk>,
    /// By the claim key, as soon as the box has one. Once that key has claimed the machine, a report without it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ReportSignature>,
}

/// Who says what a report says.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportSignature {
    /// The claim key: SubjectPublicKeyInfo of an ECDSA P-256 key, DER in base64.
    pub claim_key: String,
    /// Grows from report to report of a key, so that an old one cannot be sent again after a new one.
    pub number: u64,
    /// The claim key's signature over [`ReportRequest::signed_text`]: ECDSA P-256 with SHA-256, ASN.1, base64.
    pub value: String,
}

impl ReportRequest {
    /// The bytes that the claim key signs: they bind all that the report says to the machine, the intent and the number. An agent that
    /// stays on its box while boot servers become newer writes the same JSON as they do only if what is added to a report, or to an
    /// inventory, is left out where it is absent (`skip_serializing_if`).
    pub fn signed_text(&self, machine: &str, intent: &str, number: u64) -> Vec<u8> {
        let unsigned = Self { signature: None, ..self.clone() };
        let json = serde_json::to_vec(&unsigned).expect("a report is JSON");
        let digest = crate::types::Sha256::of(&json);
        format!("magnetite-report-v1\n{machine}\n{intent}\n{number}\n{digest}\n").into_bytes()
    }
}

/// 200 answer to an agent that asks what to install. It comes over the pinned TLS, so that the image, which may come by any way, is believed by
/// its sum alone.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstallOrder {
    /// What the disk will say of itself: UID of the Machine, or its name where there is no cluster.
    pub machine: String,
    /// The intent.
    pub intent: String,
    /// When its window opened.
    pub opened_at: Time,
    /// URL of the image.
    pub image: String,
    /// Its sum.
    pub sha256: Sha256,
    /// What it is.
    pub format: ImageFormat,
    /// Which disk it is written to.
    pub disk: DiskHints,
    /// The config of the first boot, and where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<InstallConfig>,
}

/// 200 answer to an agent that asks whether it is to wipe its box. It comes over the pinned TLS: nobody on the way can ask for it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WipeOrder {
    /// Name of the Machine whose box is to be wiped.
    pub machine: String,
    /// The intent of that.
    pub intent: String,
}

/// POST body of an agent that tells what its box is made of, and asks what becomes of it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InventoryRequest {
    /// What the box is made of.
    pub inventory: Inventory,
}

/// 200 answer to it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InventoryAnswer {
    /// What the agent does now.
    pub next: Held,
    /// After how many seconds it asks again, where it waits.
    pub seconds: u32,
    /// Name of the Machine that the box is, or would be.
    pub machine: String,
    /// What is waited for or begins, for the person at the console.
    pub message: String,
}

/// What becomes of a box that is held.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It waits.
    Wait,
    /// It is to be something: it restarts, and boots as that.
    Restart,
    /// The same, and its BMC switches it on again: that it does shows that it is this box's BMC, before anything is asked of it.
    PowerOff,
}

/// The config of the first boot of an installed system.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstallConfig {
    /// Where it goes.
    pub place: ConfigPlace,
    /// The Ignition config itself, JSON.
    pub ignition: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_of_a_report_is_all_of_it_in_one_form() {
        let json = r#"{"step":"KubeletStarted","detail":"v1","failure":{"reason":"R","message":"m"}}"#;
        let mut report: ReportRequest = serde_json::from_str(json).unwrap();
        let digest = crate::types::Sha256::of(json.as_bytes());
        let text = String::from_utf8(report.signed_text("box", "created", 7)).unwrap();
        assert_eq!(text, format!("magnetite-report-v1\nbox\ncreated\n7\n{digest}\n"));
        report.signature = Some(ReportSignature { claim_key: "k".into(), number: 7, value: "v".into() });
        assert_eq!(report.signed_text("box", "created", 7), text.as_bytes(), "but for the signature itself");
    }
}
