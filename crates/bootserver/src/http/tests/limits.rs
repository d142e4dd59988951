//! What must hold for every route, whatever is asked how often.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use magnetite_api::{
    Sha256,
    profile::{Artifact, IgnitionSource},
    report::BootStepName,
};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::{Answer, agent_path, get, post, public, send};
use crate::{fixtures::Site, limits::Limiter, view::View};

/// Changes the one Profile.
fn profile(view: &mut View, change: impl FnOnce(&mut magnetite_api::ProfileSpec)) {
    let mut profile = (*view.profiles[0]).clone();
    change(&mut profile.spec);
    view.profiles = vec![Arc::new(profile)];
}

/// R16: Ignition gives up on every status below 500 that is no success. So whatever is wrong with a machine that is known
/// and whose link is good while its window is not over, it is told to come again.
#[tokio::test]
async fn a_known_machine_is_never_told_to_give_up() {
    type Wrong = (&'static str, fn(&mut View));
    let wrong: [Wrong; 6] = [
        ("all is well", |_| {}),
        ("no Profile", |view| view.profiles.clear()),
        ("no window", |view| view.windows.clear()),
        ("no such architecture", |view| profile(view, |spec| spec.boot.x86_64 = None)),
        ("a file that is not there", |view| {
            profile(view, |spec| {
                let missing = Artifact { file: Some("gone".into()), url: None, sha256: Sha256([0; 32]) };
                spec.boot.x86_64.as_mut().unwrap().kernel = missing;
            });
        }),
        ("templates that do not render", |view| {
            profile(view, |spec| {
                spec.boot.x86_64.as_mut().unwrap().command_line = vec!["a={{ nothing }}".into()];
                spec.ignition = Some(IgnitionSource { inline: Some("{{ nothing }}".into()), config_map: None });
            });
        }),
    ];
    for (what, change) in wrong {
        let site = Site::new().await;
        site.change(change);
        for end in ["boot.ipxe", "config.ign", "kernel", "initrd/0", "initrd/x", "files/rootfs", "agent"] {
            let Answer { status, headers, .. } = get(&site, &format!("{}/{end}", site.base())).await;
            assert!(status.is_success() || status.is_server_error(), "{what}: {end}: {status}");
            let again = headers.contains_key(header::RETRY_AFTER);
            assert_eq!(again, status == StatusCode::SERVICE_UNAVAILABLE, "{what}: {end}: {status}");
        }
    }
}

#[tokio::test]
async fn a_template_that_does_not_render_is_told_and_its_text_is_not_served() {
    for (end, step, status) in [
        // The script says to wait: with an error iPXE would go on to the next boot device.
        ("boot.ipxe", BootStepName::ScriptServed, StatusCode::OK),
        ("config.ign", BootStepName::ConfigFetched, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let site = Site::new().await;
        site.change(|view| {
            profile(view, |spec| {
                spec.boot.x86_64.as_mut().unwrap().command_line = vec!["a={{ vars.rack }}".into()];
                spec.ignition = Some(IgnitionSource { inline: Some("{{ vars.rack }}".into()), config_map: None });
            });
        });
        let answer = get(&site, &format!("{}/{end}", site.base())).await;
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains("kernel"));
        let failure = site.app.records.all()["box"].boot.failure.clone().unwrap();
        assert_eq!((failure.step, failure.reason.as_str()), (step, "RenderFailed"));
        assert!(failure.message.contains("vars.rack"), "{failure:?}");
    }
}

#[tokio::test]
async fn two_that_claim_one_identity_both_wait() {
    let site = Site::new().await;
    let path = format!("{}/boot.ipxe", site.base());
    let twin = Arc::new(magnetite_api::Machine::new("twin", site.machine.spec.clone()));
    site.change(|view| {
        let machines = view.fleet.machines().cloned().chain([Arc::clone(&twin)]);
        view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index(machines));
    });
    let script = get(&site, &path).await.text();
    assert!(script.contains("Waiting: another Machine") && !script.contains("kernel"), "{script}");
}

#[tokio::test]
async fn too_much_of_one_address_is_put_off() {
    let site = Site::with(|app| app.limits.http = Limiter::new(3)).await;
    let mut turned_away = 0;
    for _ in 0..40 {
        let answer = get(&site, &format!("{}/boot.ipxe", site.base())).await;
        if answer.status != StatusCode::OK {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers.contains_key(header::RETRY_AFTER));
            turned_away += 1;
        }
    }
    // Three a second, and the seconds may turn meanwhile.
    assert!(turned_away > 20, "{turned_away}");
}

#[tokio::test]
async fn more_files_at_once_than_there_are_places_are_put_off() {
    let site = Site::with(|app| app.streams = Arc::new(Semaphore::new(1))).await;
    let kernel = format!("{}/kernel", site.base());
    let ask = || async {
        let mut request = Request::get(&kernel).body(Body::empty()).unwrap();
        let peer: std::net::SocketAddr = "192.0.2.7:4242".parse().unwrap();
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        public(&site.app).into_router().oneshot(request).await.unwrap()
    };
    let first = ask().await;
    assert_eq!(ask().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(first);
    assert_eq!(ask().await.status(), StatusCode::OK, "its place is free again");
    let failure = site.app.records.all()["box"].boot.failure.clone().unwrap();
    assert_eq!((failure.step, failure.reason.as_str()), (BootStepName::KernelFetched, "TransferCut"));
    assert!(failure.message.starts_with("kernel was cut off after 0 of"), "{failure:?}");
}

#[tokio::test]
async fn a_file_that_is_written_to_while_it_is_sent_is_cut_off() {
    let site = Site::new().await;
    let path = site.folder.path().join("files/vmlinuz");
    let big = vec![7; 300 << 10];
    std::fs::write(&path, &big).unwrap();
    site.change(|view| profile(view, |spec| spec.boot.x86_64.as_mut().unwrap().kernel.sha256 = Sha256::of(&big)));
    site.check_files().await;
    let mut request = Request::get(format!("{}/kernel", site.base())).body(Body::empty()).unwrap();
    let peer: std::net::SocketAddr = "192.0.2.7:4242".parse().unwrap();
    request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
    let mut body = public(&site.app).into_router().oneshot(request).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    std::fs::write(&path, vec![8; 300 << 10]).unwrap();
    let mut got = first;
    let end = loop {
        match body.frame().await {
            Some(Ok(frame)) => got += frame.into_data().unwrap().len(),
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(_))), "the end is an error, and the client knows");
    assert!(got < big.len(), "the last of it was never sent");
}

#[tokio::test]
async fn one_report_a_second() {
    let site = Site::with(|app| app.limits.reports = Limiter::new(1)).await;
    let mut taken = 0;
    for _ in 0..30 {
        let answer = post(&site, &agent_path(&site, "report"), r#"{"step":"AgentStarted"}"#).await;
        match answer.status {
            StatusCode::NO_CONTENT => taken += 1,
            status => {
                assert_eq!(
                    (status, answer.headers[header::RETRY_AFTER].as_bytes()),
                    (StatusCode::SERVICE_UNAVAILABLE, &b"1"[..])
                )
            }
        }
    }
    // One, and one more for each second that begins meanwhile.
    assert!((1..10).contains(&taken), "{taken}");
}

#[tokio::test]
async fn an_inventory_is_cut_to_what_the_schema_takes() {
    let site = Site::new().await;
    let disk = |_| serde_json::json!({ "name": "d".repeat(100), "model": "m\n" });
    let disks: Vec<_> = (0..100).map(disk).collect();
    let inventory = serde_json::json!({ "product": "x".repeat(500), "disks": disks });
    let report = serde_json::json!({ "step": "AgentStarted", "inventory": inventory });
    let answer = post(&site, &agent_path(&site, "report"), &report.to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text());
    let kept = site.app.records.all()["box"].inventory.clone().unwrap();
    assert_eq!((kept.disks.len(), kept.disks[0].name.len(), kept.product.unwrap().len()), (64, 64, 128));
    assert_eq!(kept.disks[0].model.as_deref(), Some("m "));
}

#[tokio::test]
async fn heads_and_methods() {
    let site = Site::new().await;
    let base = site.base();
    let ask = |method: Method, end: &str| {
        let request = Request::builder().method(method).uri(format!("{base}/{end}")).body(Body::empty()).unwrap();
        send(public(&site.app).into_router(), request)
    };
    let head = ask(Method::HEAD, "boot.ipxe").await;
    let length = |headers: &HeaderMap| headers[header::CONTENT_LENGTH].to_str().unwrap().parse::<usize>().unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert!(head.body.is_empty() && length(&head.headers) > 100);
    assert_eq!(ask(Method::POST, "boot.ipxe").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Method::GET, "nothing").await.status, StatusCode::NOT_FOUND);
}
