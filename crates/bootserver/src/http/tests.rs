//! The routes, asked without a socket.

mod claims;
mod crowd;
mod fences;
mod flood;
mod guards;
mod held;
mod installs;
mod limits;
mod reports;
mod templates;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode, header},
};
use magnetite_api::{machine::IntentState, report::BootStepName};
use magnetite_boot::capability::{Purpose, machine_key};
use magnetite_daemon::clock;
use tower::ServiceExt;

use super::{private, public};
use crate::fixtures::{KERNEL, Site};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn send(router: axum::Router, mut request: Request<Body>) -> Answer {
    request.extensions_mut().insert(ConnectInfo::<SocketAddr>("192.0.2.7:4242".parse().unwrap()));
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(site: &Site, path: &str) -> Answer {
    send(public(&site.app).into_router(), Request::get(path).body(Body::empty()).unwrap()).await
}

async fn post(site: &Site, path: &str, body: &str) -> Answer {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    send(private(&site.app).into_router(), request.body(Body::from(body.to_owned())).unwrap()).await
}

fn agent_path(site: &Site, end: &str) -> String {
    let expires = crate::dhcp::unix(clock::now()) + 60;
    let cap = site.app.key.mint(Purpose::Agent, &machine_key(&site.machine), "created", expires);
    format!("/a/{}/{cap}/{end}", site.id())
}

fn steps(site: &Site) -> Vec<BootStepName> {
    site.app
        .records
        .all()
        .get("box")
        .map(|entry| entry.boot.steps.iter().map(|step| step.name).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_machine_boots_while_its_window_is_open_and_then_goes_its_way() {
    let site = Site::new().await;
    let script = get(&site, &format!("{}/boot.ipxe", site.base())).await;
    assert_eq!(script.status, StatusCode::OK);
    assert!(script.text().starts_with("#!ipxe\n") && script.text().contains("/kernel u=http://"), "{}", script.text());
    let config = get(&site, &format!("{}/config.ign", site.base())).await;
    assert!(config.text().contains("magnetite-agent.service"), "{}", config.text());
    assert_eq!(steps(&site), [BootStepName::ScriptServed, BootStepName::ConfigFetched]);
    site.change(|view| view.windows.get_mut("box").unwrap().state = IntentState::Fulfilled);
    let script = get(&site, &format!("{}/boot.ipxe", site.base())).await;
    assert!(script.text().ends_with("\nexit 1\n"), "{}", script.text());
}

#[tokio::test]
async fn unknown_foreign_and_expired_links_look_alike() {
    let site = Site::new().await;
    let (id, key) = (site.id(), machine_key(&site.machine));
    let expired = site.app.key.mint(Purpose::Boot, &key, "created", 1000);
    let agents = site.app.key.mint(Purpose::Agent, &key, "created", u64::from(u32::MAX));
    let other = site.app.key.mint(Purpose::Boot, &key, "another", u64::from(u32::MAX));
    let good = site.app.key.mint(Purpose::Boot, &key, "created", u64::from(u32::MAX));
    let mut seen = Vec::new();
    for (id, cap) in
        [(id.as_str(), expired), (&id, agents), (&id, other), (&id, "AAAA".into()), ("0000000000000000", good)]
    {
        for end in ["boot.ipxe", "config.ign", "kernel", "initrd/0", "files/x", "agent"] {
            let answer = get(&site, &format!("/m/{id}/{cap}/x86_64/{end}")).await;
            seen.push((answer.status, answer.text(), answer.headers.len()));
        }
    }
    let first = seen[0].clone();
    assert_eq!(first.0, StatusCode::NOT_FOUND);
    assert!(seen.iter().all(|one| *one == first), "{seen:?}");
    assert_eq!(get(&site, "/").await.status, StatusCode::NOT_FOUND);
    assert!(steps(&site).is_empty(), "nobody's request is a step");
}

#[tokio::test]
async fn a_file_that_is_not_the_declared_one_is_never_served_and_the_machine_waits() {
    let site = Site::new().await;
    let kernel = format!("{}/kernel", site.base());
    assert_eq!(get(&site, &kernel).await.body, KERNEL);
    std::fs::write(site.folder.path().join("files/vmlinuz"), b"something else, of another size").unwrap();
    let answer = get(&site, &kernel).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    site.check_files().await;
    let script = get(&site, &format!("{}/boot.ipxe", site.base())).await;
    assert!(script.text().contains("Waiting: ") && !script.text().contains("\nkernel "), "{}", script.text());
    let failure = site.app.records.all()["box"].boot.failure.clone().unwrap();
    assert!(failure.message.contains("spec.boot.x86_64.kernel"), "{failure:?}");
}

#[tokio::test]
async fn a_kernel_for_another_architecture_is_not_served_though_its_sum_is_right() {
    let site = Site::new().await;
    let kernel = include_bytes!("../../../boot/src/image/linux-arm64.head");
    std::fs::write(site.folder.path().join("files/arm"), kernel).unwrap();
    site.change(|view| {
        let mut profile = magnetite_api::Profile::clone(&view.profiles[0]);
        let boot = profile.spec.boot.x86_64.as_mut().unwrap();
        (boot.kernel.file, boot.kernel.sha256) = (Some("arm".to_owned()), magnetite_api::Sha256::of(kernel));
        view.profiles = vec![Arc::new(profile)];
    });
    site.check_files().await;
    let answer = get(&site, &format!("{}/kernel", site.base())).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().contains("kernel is an aarch64 kernel"), "{}", answer.text());
    let script = get(&site, &format!("{}/boot.ipxe", site.base())).await;
    assert!(script.text().contains("spec.boot.x86_64.kernel is an aarch64 kernel"), "{}", script.text());
}

#[tokio::test]
async fn parts_and_heads_of_files() {
    let site = Site::new().await;
    let kernel = format!("{}/kernel", site.base());
    let part = |range: &str| Request::get(&kernel).header(header::RANGE, range).body(Body::empty()).unwrap();
    let answer = send(public(&site.app).into_router(), part("bytes=4-9")).await;
    assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::PARTIAL_CONTENT, &KERNEL[4..10]));
    assert_eq!(answer.headers[header::CONTENT_RANGE], format!("bytes 4-9/{}", KERNEL.len()));
    let answer = send(public(&site.app).into_router(), part("bytes=9999-")).await;
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let answer = send(public(&site.app).into_router(), part("bytes=-4")).await;
    assert_eq!(answer.body, &KERNEL[KERNEL.len() - 4..]);
    let head = send(public(&site.app).into_router(), Request::head(&kernel).body(Body::empty()).unwrap()).await;
    assert_eq!(
        (head.headers[header::CONTENT_LENGTH].to_str().unwrap(), head.body.len()),
        (KERNEL.len().to_string().as_str(), 0)
    );
}

#[tokio::test]
async fn a_file_has_its_sum_as_a_tag() {
    let site = Site::new().await;
    let ask = |name, value: String| {
        let request = Request::get(format!("{}/kernel", site.base())).header(header::RANGE, "bytes=0-3");
        send(public(&site.app).into_router(), request.header(name, value).body(Body::empty()).unwrap())
    };
    let tag = format!("\"{}\"", magnetite_api::Sha256::of(KERNEL));
    let part = ask(header::IF_RANGE, tag.clone()).await;
    assert_eq!((part.status, part.body.as_slice()), (StatusCode::PARTIAL_CONTENT, &KERNEL[..4]));
    assert_eq!(part.headers[header::ETAG], tag);
    let other = ask(header::IF_RANGE, "\"another\"".to_owned()).await;
    assert_eq!((other.status, other.body.as_slice()), (StatusCode::OK, KERNEL), "a part of another file is of no use");
    let known = ask(header::IF_NONE_MATCH, format!("\"another\", W/{tag}")).await;
    assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(ask(header::IF_NONE_MATCH, "\"another\"".to_owned()).await.status, StatusCode::PARTIAL_CONTENT);
}

#[tokio::test]
async fn parts_of_loaders() {
    let site = Site::new().await;
    let ask = |range: &str| {
        let request = Request::get("/ipxe/undionly.kpxe").header(header::RANGE, range);
        send(public(&site.app).into_router(), request.body(Body::empty()).unwrap())
    };
    let part = ask("bytes=2-3").await;
    assert_eq!((part.status, part.body.as_slice()), (StatusCode::PARTIAL_CONTENT, &b"ad"[..]));
    assert_eq!(part.headers[header::CONTENT_RANGE], "bytes 2-3/6");
    assert_eq!(part.headers[header::CONTENT_TYPE], "application/efi");
    assert_eq!(ask("bytes=6-").await.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn without_a_cluster_a_claim_is_put_off_and_never_refused_for_good() {
    let site = Site::new().await;
    let claim =
        r#"{"machine":"box","intent":"created","claimKey":"AA==","certificateRequest":"x","signature":"x","facts":{}}"#;
    let answer = post(&site, &agent_path(&site, "claim"), claim).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER) && answer.text().contains("catalog"), "{}", answer.text());
    let other = claim.replace("\"box\"", "\"another\"");
    assert_eq!(post(&site, &agent_path(&site, "claim"), &other).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&site, "/a/0000000000000000/AAAA/claim", claim).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_a_box_reports_is_bounded() {
    let site = Site::new().await;
    let path = agent_path(&site, "report");
    assert_eq!(
        post(&site, &path, r#"{"step":"AgentStarted","detail":"a\u001bb"}"#).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(site.app.records.all()["box"].boot.steps[0].detail.as_deref(), Some("a b"));
    for bad in ["", "{", r#"{"step":"Nonsense"}"#, r#"{"step":"ScriptServed"}"#, r#"{"step":"AgentStarted","x":1}"#] {
        assert_eq!(post(&site, &path, bad).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let huge = format!(r#"{{"step":"AgentStarted","detail":"{}"}}"#, "x".repeat(70_000));
    assert!(post(&site, &path, &huge).await.status.is_client_error());
    let failed =
        r#"{"step":"KubeletStarted","failure":{"reason":"KubeletNotFound","message":"none in /usr/local/bin"}}"#;
    assert_eq!(post(&site, &path, failed).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.app.records.all()["box"].boot.failure.as_ref().unwrap().reason, "KubeletNotFound");
}

#[tokio::test]
async fn a_system_that_joins_nothing_closes_its_window_by_its_report() {
    let site = Site::new().await;
    let path = agent_path(&site, "report");
    assert_eq!(post(&site, &path, r#"{"step":"SystemBooted"}"#).await.status, StatusCode::NO_CONTENT);
    let crate::app::Cluster::None(windows) = &site.app.cluster else { unreachable!() };
    assert_eq!(windows.all()["box"].state, IntentState::Fulfilled);
}

#[tokio::test]
async fn loaders_are_served_by_name_only() {
    let site = Site::new().await;
    let answer = get(&site, &format!("/ipxe/{}/undionly.kpxe", site.id())).await;
    assert_eq!(
        (answer.status, answer.headers[header::CONTENT_TYPE].to_str().unwrap()),
        (StatusCode::OK, "application/efi")
    );
    assert_eq!(steps(&site), [BootStepName::LoaderSent]);
    for path in ["/ipxe/..%2f..%2fetc%2fpasswd", "/ipxe/snponly.efi", "/ipxe/x/../undionly.kpxe/y"] {
        assert_eq!(get(&site, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_box_is_asked_for_its_serial_number_only_where_that_is_wanted() {
    let site = Site::new().await;
    assert_eq!(get(&site, "/identify.ipxe").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(&site, "/identify?serial=LAB0001").await.status, StatusCode::NOT_FOUND);
    let site = Site::with(|app| app.identify_by_serial = true).await;
    assert!(get(&site, "/identify.ipxe").await.text().contains("serial=${serial:uristring}"));
    let known = get(&site, "/identify?mac=52:54:00:99:99:99&uuid=&arch=x86_64&serial=lab0001").await.text();
    assert!(known.contains("/x86_64/boot.ipxe"), "{known}");
    let unknown = get(&site, "/identify?serial=x%20%7C%7C%20reboot").await.text();
    assert!(unknown.ends_with("\nexit 1\n") && !unknown.contains("||"), "{unknown}");
}
