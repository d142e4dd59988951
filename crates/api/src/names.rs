//! Names that more than one process must spell alike: labels, annotations, finalizers, field managers.

/// API group of every kind.
pub const GROUP: &str = "magnetite.dev";
/// API version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Finalizer of a Machine: its window is closed and its renewals are denied before it goes.
pub const FINALIZER: &str = "magnetite.dev/machine";

/// Label with the Machine's name, on claims, boot reports, CertificateSigningRequests and Nodes.
pub const LABEL_MACHINE: &str = "magnetite.dev/machine";
/// Label of a Node: UID of the Machine that it belongs to. Only the controller sets it.
pub const LABEL_MACHINE_UID: &str = "magnetite.dev/machine-uid";
/// Label of a Node and a boot report: name of the Profile.
pub const LABEL_PROFILE: &str = "magnetite.dev/profile";
/// Label of a ControllerRevision: the revision of the Profile that it keeps.
pub const LABEL_REVISION: &str = "magnetite.dev/revision";
/// Labels of a Node that tell facts of its box begin with this.
pub const FACTS_PREFIX: &str = "facts.magnetite.dev/";
/// Label of a Node: the rack that its box stands in.
pub const LABEL_RACK: &str = "topology.magnetite.dev/rack";
/// Annotation of a CertificateSigningRequest: the claim that it was made for.
pub const ANNOTATION_CLAIM: &str = "magnetite.dev/claim";

/// Annotation of a Machine: who found it, and who said what it is to be, such as `rule/gpu`.
pub const ANNOTATION_DISCOVERED_BY: &str = "magnetite.dev/discovered-by";
/// See [`ANNOTATION_DISCOVERED_BY`].
pub const ANNOTATION_APPROVED_BY: &str = "magnetite.dev/approved-by";

/// Annotation of a Node: the controller keeps Pods away from it. Only a Node that has it is let take Pods again.
pub const ANNOTATION_CORDONED: &str = "magnetite.dev/cordoned";
/// Annotation of a Node: the box is to restart, if it still runs the boot that is named: `<id>@<boot id of the kernel>`. A boot that
/// is over cannot be ended twice, so nobody has to remember what was done.
pub const ANNOTATION_RESTART: &str = "magnetite.dev/restart";

/// Field manager of the controller.
pub const MANAGER_CONTROLLER: &str = "magnetite-controller";
/// Field manager of a boot server.
pub const MANAGER_BOOTSERVER: &str = "magnetite-bootserver";

/// User names of kubelets begin with this.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// Group of all kubelets.
pub const NODES_GROUP: &str = "system:nodes";
/// Signer of kubelets' client certificates.
pub const SIGNER_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelets' serving certificates.
pub const SIGNER_SERVING: &str = "kubernetes.io/kubelet-serving";
