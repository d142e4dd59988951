//! Ways into the cluster that pass beside us (threats.md, S6). Kubernetes' own approver takes a certificate request on the
//! word of a role binding: whoever may create `nodeclient` gets any node's name, and whoever may create
//! `selfnodeclient` renews its own for ever. kubeadm binds both. Nothing here can stop that, so it is said.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use magnetite_api::conditions::{AUTO_RENEW_BYPASS, JOIN_BYPASS_POSSIBLE, Status, reason};

use crate::error::Error;

/// Role bindings change seldom.
const FRESH: SignedDuration = SignedDuration::from_mins(5);
/// A Profile is looked at again after this long, so that a binding that came or went shows.
pub const AGAIN: Duration = Duration::from_secs(300);

/// Somebody who may be able to pass beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subject {
    user: &'static str,
    groups: &'static [&'static str],
    /// Who that is, for a person.
    who: &'static str,
}

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    condition: &'static str,
    subject: Subject,
    subresource: Option<&'static str>,
}

const TOKEN: Subject = Subject {
    user: "system:bootstrap:000000",
    groups: &["system:bootstrappers", "system:authenticated"],
    who: "a bootstrap token (group system:bootstrappers)",
};
const KUBEADM_TOKEN: Subject = Subject {
    user: "system:bootstrap:000000",
    groups: &["system:bootstrappers:kubeadm:default-node-token", "system:bootstrappers", "system:authenticated"],
    who: "a bootstrap token of kubeadm (group system:bootstrappers:kubeadm:default-node-token)",
};
const ANYBODY: Subject = Subject {
    user: "system:anonymous",
    groups: &["system:unauthenticated"],
    who: "anybody without a credential (group system:unauthenticated)",
};
const NODE: Subject = Subject {
    user: "system:node:magnetite-preflight",
    groups: &["system:nodes", "system:authenticated"],
    who: "each node (group system:nodes)",
};

/// All that is asked.
pub const QUESTIONS: [Question; 6] = [
    Question { condition: JOIN_BYPASS_POSSIBLE, subject: TOKEN, subresource: Some("nodeclient") },
    Question { condition: JOIN_BYPASS_POSSIBLE, subject: KUBEADM_TOKEN, subresource: Some("nodeclient") },
    Question { condition: JOIN_BYPASS_POSSIBLE, subject: NODE, subresource: Some("nodeclient") },
    Question { condition: JOIN_BYPASS_POSSIBLE, subject: ANYBODY, subresource: Some("nodeclient") },
    Question { condition: JOIN_BYPASS_POSSIBLE, subject: ANYBODY, subresource: None },
    Question { condition: AUTO_RENEW_BYPASS, subject: NODE, subresource: Some("selfnodeclient") },
];

impl Question {
    fn review(&self) -> SubjectAccessReview {
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: self.subresource.map(str::to_owned),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(self.subject.user.to_owned()),
            groups: Some(self.subject.groups.iter().map(|group| (*group).to_owned()).collect()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        SubjectAccessReview { spec, ..SubjectAccessReview::default() }
    }
}

/// What a condition says.
pub type Says = (&'static str, (Status, &'static str, String));

/// What follows from the answers, in the order of [`QUESTIONS`]. Pure.
pub fn judge(answers: &[bool]) -> [Says; 2] {
    let open = |condition: &str| {
        let yes = QUESTIONS.iter().zip(answers).filter(|(question, yes)| question.condition == condition && **yes);
        let mut who: Vec<_> = yes.map(|(question, _)| question.subject.who).collect();
        who.dedup();
        who
    };
    let join = match open(JOIN_BYPASS_POSSIBLE).as_slice() {
        [] => (Status::False, reason::AS_DECLARED, "nobody gets a node's certificate but by a claim".to_owned()),
        who => (
            Status::True,
            reason::FOREIGN_BINDING,
            format!(
                "{} may have the certificate of any node, beside Magnetite: find the ClusterRoleBinding (kubeadm's is \
                 kubeadm:node-autoapprove-bootstrap) and delete it, unless something else joins nodes by it",
                who.join("; ")
            ),
        ),
    };
    let renew = match open(AUTO_RENEW_BYPASS).as_slice() {
        [] => (Status::False, reason::AS_DECLARED, "nobody renews a node's certificate but Magnetite".to_owned()),
        who => (
            Status::True,
            reason::FOREIGN_BINDING,
            format!(
                "the cluster renews the certificate of {} by itself, so that a machine which was deleted keeps its \
                 identity: find the ClusterRoleBinding (kubeadm's is kubeadm:node-autoapprove-certificate-rotation) and \
                 delete it, unless other nodes need it",
                who.join("; ")
            ),
        ),
    };
    [(JOIN_BYPASS_POSSIBLE, join), (AUTO_RENEW_BYPASS, renew)]
}

/// The answers, and when they came.
#[derive(Debug, Default)]
pub struct Preflight(Mutex<Option<(Timestamp, [Says; 2])>>);

impl Preflight {
    /// What is known, asked anew where it is old.
    ///
    /// # Errors
    /// The API server was not there or does not let us ask.
    pub async fn look(&self, client: &Client, now: Timestamp) -> Result<[Says; 2], Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, says)) = known
            && now.duration_since(at) < FRESH
        {
            return Ok(says);
        }
        let api = Api::<SubjectAccessReview>::all(client.clone());
        let mut answers = Vec::with_capacity(QUESTIONS.len());
        for question in QUESTIONS {
            let asked = api.create(&PostParams::default(), &question.review()).await;
            let answer = asked.map_err(Error::write("creating", "SubjectAccessReview", question.subject.user))?;
            answers.push(answer.status.is_some_and(|status| status.allowed));
        }
        let says = judge(&answers);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, says.clone()));
        Ok(says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(answers: [bool; 6]) -> [(Status, String); 2] {
        judge(&answers).map(|(_, (status, _, message))| (status, message))
    }

    #[test]
    fn who_may_pass_beside_us_is_named() {
        let [(join, _), (renew, _)] = says([false; 6]);
        assert_eq!((join, renew), (Status::False, Status::False));
        // As kubeadm sets a cluster up.
        let [(join, why), (renew, how)] = says([false, true, false, false, false, true]);
        assert_eq!((join, renew), (Status::True, Status::True));
        assert!(
            why.contains("kubeadm:default-node-token") && why.contains("kubeadm:node-autoapprove-bootstrap"),
            "{why}"
        );
        assert!(how.contains("system:nodes") && how.contains("keeps its identity"), "{how}");
        for each in 0..QUESTIONS.len() {
            let mut answers = [false; 6];
            answers[each] = true;
            let told = says(answers).iter().filter(|(status, _)| *status == Status::True).count();
            assert_eq!(told, 1, "{:?}", QUESTIONS[each]);
        }
    }
}
