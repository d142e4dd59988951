//! Condition types and reasons, and the one rule for changing a condition.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::time::Time;

/// Machine: no other Machine claims one of its MACs, its UUID or its serial.
pub const IDENTITY_UNIQUE: &str = "IdentityUnique";
/// Machine that is held: what the box says of itself names it, and no other.
pub const IDENTITY_UNDERSTOOD: &str = "IdentityUnderstood";
/// DiscoveryRule: its expressions can be read.
pub const VALID: &str = "Valid";
/// Machine: a Profile is found, renders, and its artifacts are at hand.
pub const PROFILE_READY: &str = "ProfileReady";
/// Machine: an intent is open, so that the box may boot and claim.
pub const WINDOW_OPEN: &str = "WindowOpen";
/// Machine: the box booted as far as its agent.
pub const BOOTED: &str = "Booted";
/// Machine: the newest boot found the box made of what the boot before found.
pub const HARDWARE_AS_BEFORE: &str = "HardwareAsBefore";
/// Machine: a key is bound to this Machine and intent.
pub const CLAIMED: &str = "Claimed";
/// Machine: no second key claimed it in the current intent, or a person said which of them is right.
pub const UNCONTESTED: &str = "Uncontested";
/// Machine: the kubelet's certificate was issued and its Node is registered.
pub const JOINED: &str = "Joined";
/// Machine: its BMC answers, and takes what it is told. Only where the spec names a BMC.
pub const BMC_REACHABLE: &str = "BmcReachable";
/// Event: a BMC fails. What is wrong is in its text, and in the condition.
pub const BMC_TROUBLE: &str = "BmcTrouble";
/// Machine and Profile: everything that was asked for is so.
pub const READY: &str = "Ready";
/// Machine: it runs the current revision of its Profile.
pub const UP_TO_DATE: &str = "UpToDate";
/// Machine: it is out of service, as its spec says, and its Node is empty.
pub const MAINTENANCE: &str = "Maintenance";
/// Profile: each machine that ever ran runs the current revision.
pub const UPDATED: &str = "Updated";
/// Profile: machines are being updated, or may be.
pub const PROGRESSING: &str = "Progressing";
/// Profile: every template renders.
pub const RENDERED: &str = "Rendered";
/// Profile: every file that it names is at hand and has the declared checksum.
pub const ARTIFACTS_READY: &str = "ArtifactsReady";

/// Profile: somebody may get a node's certificate beside Magnetite. True is bad.
pub const JOIN_BYPASS_POSSIBLE: &str = "JoinBypassPossible";
/// Profile: the cluster renews nodes' certificates by itself, also of a machine that left. True is bad.
pub const AUTO_RENEW_BYPASS: &str = "AutoRenewBypass";

/// Reasons: one word for a program, next to the sentence for a person.
pub mod reason {
    /// All is well.
    pub const AS_DECLARED: &str = "AsDeclared";
    /// Two Machines claim the same MAC, UUID or serial.
    pub const DUPLICATE_IDENTITY: &str = "DuplicateIdentity";
    /// The Machine is held: it waits for a person or a rule.
    pub const HELD: &str = "Held";
    /// Nobody knows yet what the box is made of.
    pub const NOT_INVENTORIED: &str = "NotInventoried";
    /// The firmware's UUID is one that many boards share.
    pub const UUID_IS_NOBODYS: &str = "UuidIsNobodys";
    /// Another Machine has the same UUID, and is another box.
    pub const UUID_SHARED: &str = "UuidShared";
    /// Firmware and kernel write the UUID in different byte orders, or another Machine has it the other way round.
    pub const UUID_BYTE_SWAPPED: &str = "UuidByteSwapped";
    /// The firmware says another UUID than before.
    pub const UUID_CHANGES: &str = "UuidChanges";
    /// All but the network card says that it is another Machine's box.
    pub const NIC_SWAPPED: &str = "NicSwapped";
    /// One of its network cards is another Machine's.
    pub const MAC_OF_ANOTHER: &str = "MacOfAnother";
    /// No rule applies.
    pub const NO_RULE: &str = "NoRule";
    /// Two rules of one priority apply, or one gives what cannot be.
    pub const RULE_UNCLEAR: &str = "RuleUnclear";
    /// A rule said what the box is to be.
    pub const APPROVED_BY_RULE: &str = "ApprovedByRule";
    /// An expression cannot be read.
    pub const BAD_EXPRESSION: &str = "BadExpression";
    /// `spec.profile` names a Profile that does not exist.
    pub const PROFILE_NOT_FOUND: &str = "ProfileNotFound";
    /// No Profile is named and none selects the Machine.
    pub const NO_PROFILE: &str = "NoProfile";
    /// More than one Profile selects the Machine.
    pub const AMBIGUOUS_PROFILE: &str = "AmbiguousProfile";
    /// A template does not render.
    pub const RENDER_FAILED: &str = "RenderFailed";
    /// A ConfigMap with the Ignition config or a template is missing, or lacks the key.
    pub const CONFIG_MAP_MISSING: &str = "ConfigMapMissing";
    /// A file that the Profile names is missing, or has another checksum.
    pub const ARTIFACT_FAILED: &str = "ArtifactFailed";
    /// No loader is at hand for what the firmware says that it is.
    pub const NO_LOADER: &str = "NoLoader";
    /// A file that the Profile names is still being fetched.
    pub const ARTIFACT_FETCHING: &str = "ArtifactFetching";
    /// No boot server has reported yet.
    pub const NOT_REPORTED: &str = "NotReported";
    /// The boot window is open.
    pub const INTENT_OPEN: &str = "IntentOpen";
    /// The window closed because the machine joined.
    pub const INTENT_FULFILLED: &str = "IntentFulfilled";
    /// The window closed because its time ran out.
    pub const WINDOW_EXPIRED: &str = "WindowExpired";
    /// The window is frozen: two keys claimed the same machine.
    pub const CLAIM_CONFLICT: &str = "ClaimConflict";
    /// A claim was refused for another reason than a second key.
    pub const CLAIM_REFUSED: &str = "ClaimRefused";
    /// A key claims the machine, and a person has to say that it is the right box's.
    pub const AWAITING_APPROVAL: &str = "AwaitingApproval";
    /// A person approved another key.
    pub const KEY_NOT_APPROVED: &str = "KeyNotApproved";
    /// The box has another TPM than it must, or none.
    pub const TPM_MISMATCH: &str = "TpmMismatch";
    /// True of a refusal for the sake of another key: which of the two is right is a person's to say.
    pub fn is_another_key(reason: &str) -> bool {
        [CLAIM_CONFLICT, KEY_NOT_APPROVED].contains(&reason)
    }
    /// The box is made of something else than in the boot before.
    pub const HARDWARE_CHANGED: &str = "HardwareChanged";
    /// The agent has not told yet what the box is made of.
    pub const NOT_TOLD: &str = "NotTold";
    /// No claim has come yet.
    pub const NOT_CLAIMED: &str = "NotClaimed";
    /// A key is bound.
    pub const KEY_BOUND: &str = "KeyBound";
    /// The box has not been seen since the window opened.
    pub const NOT_SEEN: &str = "NotSeen";
    /// The agent runs.
    pub const AGENT_STARTED: &str = "AgentStarted";
    /// A node of that name exists and does not belong to this Machine.
    pub const NODE_NAME_TAKEN: &str = "NodeNameTaken";
    /// The certificate was asked for and is not issued yet.
    pub const CERTIFICATE_PENDING: &str = "CertificatePending";
    /// The certificate was issued; the Node is not registered yet.
    pub const CERTIFICATE_ISSUED: &str = "CertificateIssued";
    /// The Node is registered.
    pub const NODE_REGISTERED: &str = "NodeRegistered";
    /// The Node is Ready.
    pub const NODE_READY: &str = "NodeReady";
    /// The Node is registered and not Ready.
    pub const NODE_NOT_READY: &str = "NodeNotReady";
    /// The Node of a joined machine is gone.
    pub const NODE_GONE: &str = "NodeGone";
    /// The agent reported a failure.
    pub const AGENT_FAILED: &str = "AgentFailed";
    /// The Profile joins no cluster, and the box booted.
    pub const BOOTED_WITHOUT_JOIN: &str = "BootedWithoutJoin";
    /// The disk says that this intent, or a later one, was installed already.
    pub const INTENT_ALREADY_DONE: &str = "IntentAlreadyDone";
    /// The machine is to be installed anew, and others come first.
    pub const REINSTALL_PENDING: &str = "ReinstallPending";
    /// The Machine is to be wiped, and others come first.
    pub const WIPE_PENDING: &str = "WipePending";
    /// The Machine is to be wiped, and its box has to be restarted for that.
    pub const WIPE_WAITING: &str = "WipeWaiting";
    /// The box's disks are being wiped.
    pub const WIPING: &str = "Wiping";
    /// A disk could not be wiped.
    pub const WIPE_FAILED: &str = "WipeFailed";
    /// The box's disks are wiped.
    pub const WIPED: &str = "Wiped";
    /// A Secret that the Profile names is missing, or lacks a key.
    pub const SECRET_MISSING: &str = "SecretMissing";
    /// The controller may not read a Secret that the Profile names.
    pub const SECRET_NOT_READABLE: &str = "SecretNotReadable";
    /// A role binding of the cluster does it, which is not ours.
    pub const FOREIGN_BINDING: &str = "ForeignBinding";
    /// The BMC does not know these credentials, or does not let them do this.
    pub const BMC_UNAUTHORIZED: &str = "BmcUnauthorized";
    /// Nobody answers at the BMC's address, or not in time.
    pub const BMC_UNREACHABLE: &str = "BmcUnreachable";
    /// The certificate of whoever answers there is not one that is trusted.
    pub const BMC_CERTIFICATE: &str = "BmcCertificate";
    /// The BMC answered, and would not do it.
    pub const BMC_REFUSED: &str = "BmcRefused";
    /// The BMC said what is not Redfish or IPMI.
    pub const BMC_UNINTELLIGIBLE: &str = "BmcUnintelligible";
    /// The system that `spec.bmc` means is not there, or it does not say which of several.
    pub const BMC_SYSTEM_NOT_FOUND: &str = "BmcSystemNotFound";
    /// The BMC took what it was told, and the box does not do it.
    pub const BMC_NO_EFFECT: &str = "BmcNoEffect";
    /// The Secret with the BMC's credentials is missing, lacks a key, may not be read, or is not meant for this BMC.
    pub const BMC_SECRET_MISSING: &str = "BmcSecretMissing";
    /// Another Machine names the same system of the same BMC.
    pub const BMC_SHARED: &str = "BmcShared";
    /// The controller has no ipmitool.
    pub const BMC_TOOL_MISSING: &str = "BmcToolMissing";
    /// Event: the BMC does not take it that the next boot is to come from the network.
    pub const NETWORK_BOOT_NOT_SET: &str = "NetworkBootNotSet";
    /// The BMC has not been asked yet.
    pub const BMC_NOT_ASKED: &str = "BmcNotAsked";
    /// The Machine is being deleted.
    pub const DELETING: &str = "Deleting";
    /// The machine runs an older revision of its Profile, and nobody updates it.
    pub const OLD_REVISION: &str = "OldRevision";
    /// The machine, or some of a Profile's, is being updated.
    pub const UPDATING: &str = "Updating";
    /// The update of the machine failed; of a Profile's: of too many, and it stopped.
    pub const UPDATE_FAILED: &str = "UpdateFailed";
    /// A person has to begin the update of each machine.
    pub const ON_DELETE: &str = "OnDelete";
    /// The rollout is paused by its Profile.
    pub const PAUSED: &str = "Paused";
    /// Every machine runs the revision.
    pub const COMPLETE: &str = "Complete";
    /// As many machines are down as may be.
    pub const TOO_MANY_UNAVAILABLE: &str = "TooManyUnavailable";
    /// As many machines are being updated in the whole cluster as the controller's ceiling allows.
    pub const CEILING: &str = "UpdateCeiling";
    /// The revision's kubelet is newer than the API server, which Kubernetes does not support.
    pub const VERSION_SKEW: &str = "VersionSkew";
    /// Pods are leaving the Node.
    pub const DRAINING: &str = "Draining";
    /// A PodDisruptionBudget keeps Pods on the Node for now, or they are nobody's and would be lost.
    pub const DRAIN_BLOCKED: &str = "DrainBlocked";
    /// Pods did not leave in time.
    pub const DRAIN_TIMEOUT: &str = "DrainTimeout";
    /// The Node takes no Pods and is empty.
    pub const DRAINED: &str = "Drained";
    /// The box runs a system in memory, out of service.
    pub const IN_MEMORY: &str = "InMemory";
    /// The box was told to restart.
    pub const RESTARTING: &str = "Restarting";
    /// The box did not restart in time.
    pub const NOT_RESTARTED: &str = "NotRestarted";
    /// The box restarted and did not become Ready in its window.
    pub const BOOT_FAILED: &str = "BootFailed";
    /// The box booted another revision than it should have.
    pub const WRONG_REVISION: &str = "WrongRevision";
    /// The box is Ready and has to stay so for a while.
    pub const SETTLING: &str = "Settling";
    /// The box was Ready and did not stay so.
    pub const NOT_SETTLED: &str = "NotSettled";
    /// Something else must happen first.
    pub const WAITING: &str = "Waiting";
}

/// The three values of a condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Finds a condition by its type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// True if the condition is there and its status is True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Builds a condition; `lastTransitionTime` is taken over from `before` unless the status flips.
pub fn condition(
    before: &[Condition],
    kind: &str,
    status: Status,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let since = find(before, kind)
        .filter(|old| old.status == status.as_str())
        .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    }
}
