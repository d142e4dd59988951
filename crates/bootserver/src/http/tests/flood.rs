//! One box gone mad beside others that boot, on real sockets.

use std::{net::IpAddr, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{http::plain, limits::Limiter};

/// A box that asks from an address of its own; all of 127.0.0.0/8 is this host.
fn box_at(address: [u8; 4]) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().local_address(IpAddr::from(address));
    client.timeout(Duration::from_secs(60)).build().unwrap()
}

/// S27: what is too much is put off, and nobody else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_address_is_put_off_and_all_others_are_served() {
    let site = Site::with(|app| {
        app.limits.http = Limiter::new(20);
        app.streams = Arc::new(Semaphore::new(100));
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}{}", listener.local_addr().unwrap(), site.base());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(plain(listener, public(&site.app), stop.clone()));

    let (over, began) = (CancellationToken::new(), std::time::Instant::now());
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let (mad, url, over) = (box_at([127, 0, 0, 66]), format!("{base}/boot.ipxe"), over.clone());
            tokio::spawn(async move {
                let (mut asked, mut put_off) = (0_u32, 0_u32);
                while !over.is_cancelled() || asked < 500 {
                    let answer = mad.get(&url).send().await.unwrap();
                    asked += 1;
                    if answer.status() != StatusCode::OK {
                        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "never a word that ends a boot");
                        assert!(answer.headers().contains_key(header::RETRY_AFTER));
                        put_off += 1;
                    }
                }
                (asked, put_off)
            })
        })
        .collect();

    let boxes = (1..=50_u8).map(|number| {
        let (sane, base) = (box_at([127, 0, 1, number]), base.clone());
        async move {
            for (end, begins) in
                [("boot.ipxe", &b"#!ipxe"[..]), ("kernel", KERNEL), ("config.ign", b"{"), ("agent", b"agent")]
            {
                let answer = sane.get(format!("{base}/{end}")).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK, "box {number}: {end}");
                assert!(answer.bytes().await.unwrap().starts_with(begins), "box {number}: {end}");
            }
        }
    });
    futures::future::join_all(boxes).await;
    over.cancel();
    let (mut asked, mut put_off) = (0, 0);
    for flood in floods {
        let (one, off) = flood.await.unwrap();
        (asked, put_off) = (asked + one, put_off + off);
    }
    let most = 20 * (began.elapsed().as_secs() + 2);
    assert!(
        put_off > 0 && u64::from(asked - put_off) <= most,
        "{put_off} of {asked} put off; at most {most} are served"
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
}
