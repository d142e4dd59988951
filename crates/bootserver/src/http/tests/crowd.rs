//! Many boxes at once.

use magnetite_api::{Profile, Sha256, profile::Artifact};

use super::*;
use crate::artifacts::tests::upstream::{Upstream, Ways};

#[tokio::test]
async fn ten_boxes_that_ask_for_one_missing_file_cause_one_fetch() {
    let site = Site::new().await;
    let file = vec![7; 900_000];
    let upstream = Upstream::start(Ways { file: file.clone(), ..Ways::default() }).await;
    let initrd = Artifact { url: Some(upstream.url()), file: None, sha256: Sha256::of(&file) };
    site.change(|view| {
        let mut profile = Profile::clone(&view.profiles[0]);
        profile.spec.boot.x86_64.as_mut().unwrap().initrds = vec![initrd.clone()];
        view.profiles = vec![Arc::new(profile)];
    });
    let path = format!("{}/initrd/0", site.base());
    // A box asks until it has it, as iPXE does on 503 with Retry-After.
    let boxes = (0..10).map(|_| async {
        loop {
            let answer = get(&site, &path).await;
            if answer.status == StatusCode::OK {
                return answer.body;
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers.contains_key(header::RETRY_AFTER));
            tokio::task::yield_now().await;
        }
    });
    let (bodies, ()) = tokio::time::timeout(
        std::time::Duration::from_secs(60),
        futures::future::join(futures::future::join_all(boxes), site.check_files()),
    )
    .await
    .unwrap();
    assert!(bodies.iter().all(|body| *body == file));
    assert_eq!(upstream.asked().len(), 1);
}
