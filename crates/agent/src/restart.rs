//! Restarting the box when the cluster asks for it, where no BMC can do it. The controller empties the Node first, then writes onto it
//! which boot is to end; the agent reads that with the kubelet's own credentials. A boot that is over cannot be ended twice, so
//! nothing has to be remembered, and an annotation that stays behind restarts nobody.

use std::time::Duration;

use jiff::Timestamp;
use magnetite_api::names::ANNOTATION_RESTART;
use magnetite_daemon::{backoff::jittered, log::chain};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{
    node::{ApiServer, Asked},
    report::plain,
    systemd::Systemctl,
};

/// Only the metadata is asked for; with its managed fields that is some kilobytes.
const LIMIT: usize = 256 * 1024;
/// As the API server gives nothing but an object's metadata.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Node {
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    annotations: std::collections::BTreeMap<String, String>,
}

/// What a restart is asked for, if this very boot is to end.
fn asked(body: &[u8], boot_id: &str) -> Option<String> {
    let node: Node = serde_json::from_slice(body).ok()?;
    let (id, boot) = node.metadata.annotations.get(ANNOTATION_RESTART)?.rsplit_once('@')?;
    (!boot.is_empty() && boot.eq_ignore_ascii_case(boot_id)).then(|| id.to_owned())
}

/// Looks at the Node for as long as the box runs. Ends at once where the kernel does not say which boot this is.
pub async fn watch(
    mut server: ApiServer<'_>,
    boot_id: Option<String>,
    systemctl: &Systemctl,
    pause: Duration,
    now: impl Fn() -> Timestamp,
) {
    let Some(boot_id) = boot_id.filter(|_| !pause.is_zero()) else { return };
    let mut told = None;
    loop {
        sleep(jittered(pause)).await;
        let why = match server.ask(METADATA, LIMIT, now()).await {
            Ok(Asked { status: 200, body }) => match asked(&body, &boot_id) {
                Some(id) => restart(&id, systemctl).await,
                None => None,
            },
            Ok(Asked { status, body: _ }) => Some(format!("the API server answered with status {status}")),
            Err(error) => Some(chain(&error)),
        };
        // Said once, and again when it is another: an API server may be away for hours.
        if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(*why)) {
            tracing::warn!(error = plain(why, 300), "whether the box is to restart is not known");
        }
        told = why;
    }
}

/// Ends the boot, and the agent with it.
async fn restart(id: &str, systemctl: &Systemctl) -> Option<String> {
    tracing::warn!(intent = plain(id, 128), "the cluster asks for a restart of the box");
    systemctl.reboot().await.err().map(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::this_boot(
        r#"{"metadata":{"annotations":{"magnetite.dev/restart":"created.abc.1@B0"}}}"#,
        Some("created.abc.1")
    )]
    #[case::an_earlier_one(r#"{"metadata":{"annotations":{"magnetite.dev/restart":"created.abc.1@a9"}}}"#, None)]
    #[case::no_boot_named(r#"{"metadata":{"annotations":{"magnetite.dev/restart":"created.abc.1"}}}"#, None)]
    #[case::any_boot_named(r#"{"metadata":{"annotations":{"magnetite.dev/restart":"created.abc.1@"}}}"#, None)]
    #[case::nothing_asked(r#"{"metadata":{"annotations":{"x":"y"}}}"#, None)]
    #[case::no_annotations(r#"{"metadata":{}}"#, None)]
    #[case::nonsense("<html>", None)]
    fn when_it_restarts(#[case] body: &str, #[case] id: Option<&str>) {
        assert_eq!(asked(body.as_bytes(), "b0").as_deref(), id);
        assert_eq!(asked(body.as_bytes(), ""), None);
    }
}
