//! Who is not on the provisioning network.

use super::*;
use crate::fence::{Fence, FenceArgs};

/// Asks at `192.0.2.7`, as all tests here do, with headers that say that it was somebody else.
async fn ask(site: &Site, path: &str, says: &str) -> Answer {
    let request = Request::get(path)
        .header("x-forwarded-for", says)
        .header("x-real-ip", says)
        .header("forwarded", format!("for={says}"))
        .body(Body::empty());
    send(public(&site.app).into_router(), request.unwrap()).await
}

fn fenced(serve: &[&str], refuse: &[&str]) -> Fence {
    let all = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    Fence::from(&FenceArgs { serve_network: all(serve), refuse_network: all(refuse) })
}

/// S10: a Pod finds nothing there, whoever it says it is.
#[tokio::test]
async fn who_is_refused_finds_nothing_and_no_header_helps() {
    for (serve, refuse) in
        [(&["10.0.0.0/24"][..], &[][..]), (&[], &["192.0.2.0/24"]), (&["192.0.2.0/24"], &["192.0.2.7/32"])]
    {
        let site = Site::with(|app| app.fence = fenced(serve, refuse)).await;
        let unknown = ask(&Site::new().await, "/nothing", "10.0.0.7").await;
        let autoexec = format!("/ipxe/{}/autoexec.ipxe", site.id());
        let script = format!("{}/boot.ipxe", site.base());
        let config = format!("{}/config.ign", site.base());
        for path in [&autoexec, &script, &config, "/ipxe/undionly.kpxe", "/identify.ipxe", "/"] {
            let answer = ask(&site, path, "10.0.0.7").await;
            assert_eq!(
                (answer.status, answer.headers, answer.body),
                (unknown.status, unknown.headers.clone(), unknown.body.clone())
            );
        }
        let claim = post(&site, &agent_path(&site, "claim"), "{}").await;
        assert_eq!((claim.status, claim.text()), (StatusCode::NOT_FOUND, unknown.text()));
        assert_eq!((site.app.metrics.fenced_at("http"), site.app.metrics.fenced_at("https")), (6, 1));
        assert!(steps(&site).is_empty());
    }
}

#[tokio::test]
async fn who_is_served_is_so_whatever_its_headers_say() {
    let site = Site::with(|app| app.fence = fenced(&["192.0.2.0/24"], &["10.0.0.0/8"])).await;
    let answer = ask(&site, &format!("{}/boot.ipxe", site.base()), "10.0.0.7").await;
    assert_eq!(answer.status, StatusCode::OK);
    let claim = post(&site, &agent_path(&site, "claim"), "{}").await;
    assert_eq!(claim.status, StatusCode::BAD_REQUEST);
    assert_eq!(site.app.metrics.fenced_at("http") + site.app.metrics.fenced_at("https"), 0);
}
