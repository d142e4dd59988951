//! What to do next, from what is so. Pure: no clock, no file, no network.
//!
//! There is no list of steps that an agent is in the middle of. It looks, does the first thing that is missing, and
//! looks again; so one that was killed at any point goes on where it was, and one on a box that has all it needs
//! does nothing but watch.

use jiff::{Span, Timestamp};
use magnetite_api::join::LEAST_CERTIFICATE_SECONDS;

use crate::args::JoinMode;

/// What is so on the box.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// How the Profile joins.
    pub join: JoinMode,
    /// The kubelet's program is there.
    pub kubelet: bool,
    /// Both keys are there.
    pub keys: bool,
    /// The answer to our claim, if it was for this machine, this intent and this node.
    pub answer: Option<Answer>,
    /// The certificate that the kubelet would use, which may be one that it rotated to by itself.
    pub installed: Option<CertificateFacts>,
    /// The kubelet's other files say what the answer says.
    pub files: bool,
    /// The kubelet runs.
    pub active: bool,
    /// This agent started it. From then on it is systemd that keeps it up; we would only start it the more often.
    pub started_here: bool,
}

/// The answer to our claim, as the state file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The kubelet was started with it.
    pub started: bool,
    /// Its certificate, with our kubelet key.
    pub certificate: Option<CertificateFacts>,
}

/// What matters of a certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateFacts {
    /// When it ends.
    pub not_after: Timestamp,
    /// It names our node, and the key beside it is its own.
    pub ours: bool,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The Profile joins nothing: say that the system booted. The last step.
    SayBooted,
    /// There is no kubelet: fail before an identity is issued to a box that cannot use it.
    MissKubelet,
    /// Make the keys.
    MakeKeys,
    /// Claim.
    Claim,
    /// Write the kubelet's files, and its certificate if it has none that is good.
    WriteFiles,
    /// Start the kubelet, or start it again with what was written.
    StartKubelet,
    /// Wait until the Node is Ready. The last step.
    Watch,
}

/// What to do next.
pub fn next(seen: &Observed, now: Timestamp) -> Step {
    let Observed { join, kubelet, keys, answer, installed, files, active, started_here } = seen;
    let issued = answer.as_ref().and_then(|answer| answer.certificate.as_ref());
    let any = is_good(installed.as_ref(), now) || is_good(issued, now);
    match (join, answer) {
        (JoinMode::None, _) => Step::SayBooted,
        (JoinMode::Certificate, _) if !kubelet => Step::MissKubelet,
        (JoinMode::Certificate, Some(answer)) if any => {
            if !files || !is_kept(installed.as_ref(), issued, now) {
                Step::WriteFiles
            } else if !answer.started || !(*active || *started_here) {
                Step::StartKubelet
            } else {
                Step::Watch
            }
        }
        (JoinMode::Certificate, _) if !keys => Step::MakeKeys,
        (JoinMode::Certificate, _) => Step::Claim,
    }
}

/// True if the certificate that is installed stays: it is good, and the one that the claim brought does not last
/// longer. The kubelet rotates by itself, so that what it has is often newer than what we know of.
pub fn is_kept(installed: Option<&CertificateFacts>, issued: Option<&CertificateFacts>, now: Timestamp) -> bool {
    let until = |certificate: &CertificateFacts| certificate.not_after;
    is_good(installed, now) && (!is_good(issued, now) || installed.map(until) >= issued.map(until))
}

fn is_good(certificate: Option<&CertificateFacts>, now: Timestamp) -> bool {
    certificate.is_some_and(|certificate| certificate.ours && !ends(certificate.not_after, now))
}

/// True of a certificate that has ended, or is about to.
pub fn ends(not_after: Timestamp, now: Timestamp) -> bool {
    now.saturating_add(Span::new().seconds(LEAST_CERTIFICATE_SECONDS)).map_or(true, |soon| not_after <= soon)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().expect("a time")
    }

    fn certificate(seconds_left: i64) -> Option<CertificateFacts> {
        let not_after = now() + Span::new().seconds(seconds_left);
        Some(CertificateFacts { not_after, ours: true })
    }

    fn foreign() -> Option<CertificateFacts> {
        certificate(86_400).map(|certificate| CertificateFacts { ours: false, ..certificate })
    }

    /// A box that joined and whose kubelet runs.
    fn joined() -> Observed {
        Observed {
            join: JoinMode::Certificate,
            kubelet: true,
            keys: true,
            answer: Some(Answer { started: true, certificate: certificate(86_400) }),
            installed: certificate(86_400),
            files: true,
            active: true,
            started_here: false,
        }
    }

    /// A box that booted for the first time.
    fn fresh() -> Observed {
        Observed { keys: false, answer: None, installed: None, files: false, active: false, ..joined() }
    }

    fn answered(started: bool, certificate: Option<CertificateFacts>) -> Option<Answer> {
        Some(Answer { started, certificate })
    }

    #[rstest]
    #[case::joins_nothing(Observed { join: JoinMode::None, ..fresh() }, Step::SayBooted)]
    #[case::no_kubelet(Observed { kubelet: false, ..fresh() }, Step::MissKubelet)]
    #[case::first_boot(fresh(), Step::MakeKeys)]
    #[case::keys_made(Observed { keys: true, ..fresh() }, Step::Claim)]
    #[case::answered(Observed { answer: answered(false, certificate(86_400)), ..fresh() }, Step::WriteFiles)]
    #[case::killed_while_writing(Observed { answer: answered(false, certificate(86_400)), files: false, active: false, ..joined() }, Step::WriteFiles)]
    #[case::certificate_not_installed(Observed { installed: None, active: false, ..joined() }, Step::WriteFiles)]
    #[case::written(Observed { answer: answered(false, certificate(86_400)), active: false, ..joined() }, Step::StartKubelet)]
    #[case::killed_before_the_start_was_recorded(Observed { answer: answered(false, certificate(86_400)), ..joined() }, Step::StartKubelet)]
    #[case::running(joined(), Step::Watch)]
    #[case::kubelet_died(Observed { active: false, ..joined() }, Step::StartKubelet)]
    #[case::kubelet_ends_again_and_again(Observed { active: false, started_here: true, ..joined() }, Step::Watch)]
    #[case::claimed_anew_while_running(Observed { answer: answered(false, certificate(86_400)), started_here: true, ..joined() }, Step::StartKubelet)]
    #[case::rebooted_from_memory(Observed { files: false, active: false, ..joined() }, Step::WriteFiles)]
    #[case::rotated_since(Observed { answer: answered(true, certificate(-1)), ..joined() }, Step::Watch)]
    #[case::rotated_and_keys_lost(Observed { answer: answered(true, None), keys: false, ..joined() }, Step::Watch)]
    #[case::off_for_days(Observed { answer: answered(true, certificate(-1)), installed: certificate(-1), ..joined() }, Step::Claim)]
    #[case::about_to_end(Observed { answer: answered(true, certificate(119)), installed: certificate(119), ..joined() }, Step::Claim)]
    #[case::another_box_s_certificate(Observed { answer: answered(true, foreign()), installed: foreign(), ..joined() }, Step::Claim)]
    #[case::another_box_s_is_replaced(Observed { installed: foreign(), ..joined() }, Step::WriteFiles)]
    #[case::claimed_anew(Observed { installed: certificate(3600), ..joined() }, Step::WriteFiles)]
    #[case::rotated_to_a_longer_one(Observed { installed: certificate(100_000), ..joined() }, Step::Watch)]
    #[case::state_file_lost(Observed { answer: None, ..joined() }, Step::Claim)]
    fn the_next_step(#[case] seen: Observed, #[case] step: Step) {
        assert_eq!(next(&seen, now()), step);
    }

    /// Doing what the plan says leads to the end, from wherever it starts, and the end is rest.
    #[test]
    fn obeying_the_plan_ends() {
        let certificates = [None, foreign(), certificate(-1), certificate(86_400)];
        for bits in 0..32_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            for (old, kept) in certificates.iter().flat_map(|old| certificates.iter().map(move |kept| (old, kept))) {
                let answer = bit(3).then(|| Answer { started: bit(4), certificate: kept.clone() });
                let base = Observed { keys: bit(0), files: bit(1), active: bit(2), answer, ..joined() };
                let mut seen = Observed { installed: old.clone(), ..base };
                let claims = (0..10).map(|_| obey(&mut seen)).filter(|step| *step == Step::Claim).count();
                assert!(claims <= 1, "one claim is enough");
                assert_eq!(next(&seen, now()), Step::Watch, "from {bits:05b}, {old:?}, {kept:?}");
            }
        }
    }

    fn obey(seen: &mut Observed) -> Step {
        let step = next(seen, now());
        match step {
            Step::SayBooted | Step::MissKubelet | Step::Watch => {}
            Step::MakeKeys => seen.keys = true,
            Step::Claim => {
                seen.answer = answered(false, certificate(86_400));
                seen.files = false;
            }
            Step::WriteFiles => {
                let kept = seen.answer.as_ref().and_then(|answer| answer.certificate.clone());
                if !is_kept(seen.installed.as_ref(), kept.as_ref(), now()) {
                    seen.installed = kept;
                }
                seen.files = true;
                seen.answer.iter_mut().for_each(|answer| answer.started = false);
            }
            Step::StartKubelet => {
                seen.active = true;
                seen.answer.iter_mut().for_each(|answer| answer.started = true);
            }
        }
        step
    }
}
