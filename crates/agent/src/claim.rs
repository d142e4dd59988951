//! Claims the machine's identity: asks until the answer is yes or a final no.

use std::time::Duration;

use magnetite_api::{
    join::{ClaimRequest, ClaimResponse, Refusal},
    tpm::ClaimChallenge,
};
use magnetite_daemon::{
    backoff::{Backoff, jittered},
    log::chain,
};
use reqwest::StatusCode;
use tokio::time::sleep;

use crate::{
    report::plain,
    server::{Answer, BootServer, ServerError},
};

/// How long one attempt may take: the controller reads much of it live, and then the certificate is signed.
const LIMIT: Duration = Duration::from_secs(60);
/// How long to wait where the server does not say.
const NOT_YET: Duration = Duration::from_secs(5);
/// The shortest and the longest that a server may ask us to wait.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);

/// Why a claim ended without an answer that is of use.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The controller said no.
    #[error("the claim was refused ({reason}): {message}")]
    Refused {
        /// One word.
        reason: String,
        /// A sentence, with what to do.
        message: String,
    },
    /// The server knows no such machine, or no longer believes the capability in the URL.
    #[error("the boot server does not know this machine's URL: the Machine is gone, or its boot window is over")]
    Unknown,
    /// Another server answers.
    #[error("another server answers than the one that this box was told to believe")]
    WrongKey(#[source] ServerError),
    /// The server said yes in a way that makes no sense.
    #[error("the boot server's answer to the claim makes no sense")]
    Nonsense(#[source] serde_json::Error),
    /// A challenge where none is to be.
    #[error("the boot server asks for a proof by the TPM that this claim does not call for")]
    Challenged,
}

/// What a claim comes to, unless it is refused.
#[derive(Debug)]
pub enum Answered {
    /// The identity.
    Granted(Box<ClaimResponse>),
    /// The TPM has to answer this first.
    Challenged(Box<ClaimChallenge>),
}

/// Asks until there is a decision. Waits as long as it takes where there is none yet, or no server to ask; and tells
/// what it waits for, in the controller's word.
pub async fn claim(
    server: &BootServer,
    request: &ClaimRequest,
    ceiling: Duration,
    mut waits_for: impl FnMut(&str),
) -> Result<Answered, ClaimError> {
    let mut retries = Backoff { first: Duration::from_secs(1).min(ceiling), ceiling }.start();
    loop {
        let wait = match server.post("claim", request, LIMIT).await {
            Ok(answer) => match decide(&answer) {
                Decision::Answered(answered) => return Ok(answered),
                Decision::No(error) => return Err(error),
                Decision::NotYet(wait) => {
                    let why = answer.refusal();
                    let message = why.as_ref().map(|refusal| plain(&refusal.message, 300)).unwrap_or_default();
                    tracing::info!(status = answer.status.as_u16(), reason = message, "claim not decided yet");
                    waits_for(why.as_ref().map_or("", |refusal| &refusal.reason));
                    retries.reset();
                    jittered(wait)
                }
            },
            Err(error @ ServerError::WrongKey { .. }) => return Err(ClaimError::WrongKey(error)),
            Err(error @ (ServerError::Unreachable(_) | ServerError::TooLong)) => {
                tracing::warn!(error = chain(&error), "claim could not be sent");
                retries.next_delay()
            }
        };
        sleep(wait).await;
    }
}

#[derive(Debug)]
enum Decision {
    Answered(Answered),
    No(ClaimError),
    NotYet(Duration),
}

/// What an answer means.
fn decide(answer: &Answer) -> Decision {
    match answer.status {
        StatusCode::OK => match serde_json::from_slice(&answer.body) {
            Ok(response) => Decision::Answered(Answered::Granted(Box::new(response))),
            Err(error) => Decision::No(ClaimError::Nonsense(error)),
        },
        StatusCode::ACCEPTED => match serde_json::from_slice(&answer.body) {
            Ok(challenge) => Decision::Answered(Answered::Challenged(Box::new(challenge))),
            Err(error) => Decision::No(ClaimError::Nonsense(error)),
        },
        StatusCode::NOT_FOUND => Decision::No(ClaimError::Unknown),
        StatusCode::TOO_MANY_REQUESTS => Decision::NotYet(wait(answer)),
        status if status.is_server_error() => Decision::NotYet(wait(answer)),
        status => Decision::No(match answer.refusal() {
            Some(Refusal { reason, message }) => {
                ClaimError::Refused { reason: plain(&reason, 64), message: plain(&message, 400) }
            }
            None => ClaimError::Refused {
                reason: "BadRequest".to_owned(),
                message: format!("the boot server answered with status {}", status.as_u16()),
            },
        }),
    }
}

fn wait(answer: &Answer) -> Duration {
    answer.retry_after.unwrap_or(NOT_YET).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<u64>, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).expect("a status");
        let retry_after = retry_after.map(Duration::from_secs);
        Answer { status, retry_after, server_time: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn not_yet_is_as_long_as_the_server_says_within_reason() {
        for (status, asked, seconds) in
            [(503, Some(7), 7), (503, None, 5), (502, Some(86_400), 120), (503, Some(0), 1), (429, None, 5)]
        {
            let decision = decide(&answer(status, asked, ""));
            assert!(matches!(decision, Decision::NotYet(wait) if wait.as_secs() == seconds), "{decision:?}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_controller_s_words() {
        let body = r#"{"reason":"ClaimConflict","message":"another key\nis bound"}"#;
        let Decision::No(error) = decide(&answer(409, None, body)) else { panic!("final") };
        assert_eq!(error.to_string(), "the claim was refused (ClaimConflict): another key is bound");
        assert!(matches!(decide(&answer(404, None, "")), Decision::No(ClaimError::Unknown)));
        assert!(matches!(decide(&answer(400, None, "?")), Decision::No(ClaimError::Refused { .. })));
        assert!(matches!(decide(&answer(200, None, "?")), Decision::No(ClaimError::Nonsense(_))));
    }
}
