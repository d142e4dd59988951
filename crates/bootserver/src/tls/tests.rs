//! Real handshakes over real sockets, by clients that trust one certificate.

use std::{net::Ipv6Addr, os::unix::fs::PermissionsExt};

use reqwest::tls::Version;

use super::{
    pair::tests::{Mount, made},
    *,
};
use crate::fixtures::Site;

const ONLY: [Version; 2] = [Version::TLS_1_2, Version::TLS_1_3];

/// Fetches something with one version of TLS, trusting one certificate.
async fn get(url: &str, trusted: &[u8], version: Version) -> reqwest::Result<String> {
    let root = reqwest::Certificate::from_pem(trusted).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).min_tls_version(version).max_tls_version(version);
    client.no_proxy().build().unwrap().get(url).send().await?.error_for_status()?.text().await
}

fn base(server: &Server, index: usize) -> String {
    format!("https://{}", server.sockets[index].local_addr().unwrap())
}

fn on_any_port(args: TlsArgs) -> TlsArgs {
    TlsArgs { boot_tls_port: 0, ..args }
}

#[tokio::test]
async fn an_own_authority_is_made_once_and_trusted_on_both_families() {
    let site = Site::with(|app| app.interfaces[0].address6 = Some(Ipv6Addr::LOCALHOST)).await;
    let data = site.folder.path();
    let args = on_any_port(TlsArgs { tls_own_ca: true, ..TlsArgs::default() });
    let script = format!("{}/boot.ipxe", site.base());
    let mut roots = Vec::new();
    for _start in 0..2 {
        let server = Server::bind(&args, data, &site.app).await.unwrap().unwrap();
        let bases = [base(&server, 0), base(&server, 1)];
        let (stop, root) = (CancellationToken::new(), std::fs::read(data.join("boot-ca.pem")).unwrap());
        let running: Vec<_> = server.serve(&site.app, &stop).into_iter().map(|(_, run)| tokio::spawn(run)).collect();
        for (base, version) in bases.iter().flat_map(|base| ONLY.map(|version| (base, version))) {
            let text = get(&format!("{base}{script}"), &root, version).await.unwrap();
            let asked = if base.contains("[::1]") { "https://[::1]:8444/m/" } else { "https://127.0.0.1:8444/m/" };
            assert!(text.contains(&format!("\nkernel {asked}")), "what iPXE fetches comes by HTTPS too: {text}");
            assert!(text.contains(" u=http://"), "what nobody said the system trusts does not: {text}");
        }
        let (other, _) = made("127.0.0.1");
        assert!(get(&format!("{}{script}", bases[0]), other.as_bytes(), ONLY[0]).await.is_err(), "trusted by whom?");
        stop.cancel();
        for task in running {
            task.await.unwrap().unwrap();
        }
        roots.push(root);
    }
    assert_eq!(roots[0], roots[1], "a restart asks nobody to trust anything new");
    for key in ["boot-ca.key", "boot-tls.key"] {
        assert_eq!(std::fs::metadata(data.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
    std::fs::write(data.join("boot-ca.key"), "no key").unwrap();
    let said = Server::bind(&args, data, &site.app).await.err().unwrap().to_string();
    assert!(said.contains("boot-ca.key is not what --tls-own-ca made"), "{said}");
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart_and_a_broken_one_never() {
    let site = Site::new().await;
    let (mount, pair) = Mount::new();
    let ((first, first_key), (second, second_key)) = (made("127.0.0.1"), made("127.0.0.1"));
    let folder = pair.file().parent().unwrap().to_owned();
    let files = |file: &str| Some(folder.join(file));
    let args = TlsArgs { tls_cert: files("tls.crt"), tls_key: files("tls.key"), ..TlsArgs::default() };
    let args = on_any_port(args);
    let refused = Server::bind(&args, &folder, &site.app).await.err().unwrap().to_string();
    assert!(refused.ends_with("tls.crt cannot be read"), "{refused}");
    mount.put("..1", &first, &first_key);
    let mut server = Server::bind(&args, &folder, &site.app).await.unwrap().unwrap();
    // The test looks at the files itself: no test waits for a clock.
    let (mut pair, config) = (server.pair.take().unwrap(), server.config.clone());
    let url = format!("{}{}/kernel", base(&server, 0), site.base());
    let stop = CancellationToken::new();
    let running: Vec<_> = server.serve(&site.app, &stop).into_iter().map(|(_, run)| tokio::spawn(run)).collect();
    let interfaces = &site.app.interfaces;
    for (version, certificate, key, good) in [
        ("..2", &first, &second_key, &first),
        ("..3", &second, &second_key, &second),
        ("..4", &String::new(), &String::new(), &second),
        ("..5", &first, &first_key, &first),
    ] {
        mount.put(version, certificate, key);
        take(&mut pair, &config, interfaces);
        assert!(get(&url, good.as_bytes(), ONLY[1]).await.is_ok(), "{version}");
        let bad = if good == &first { &second } else { &first };
        assert!(get(&url, bad.as_bytes(), ONLY[1]).await.is_err(), "{version}");
    }
    stop.cancel();
    for task in running {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn without_a_certificate_nothing_is_bound() {
    let site = Site::new().await;
    assert!(Server::bind(&TlsArgs::default(), site.folder.path(), &site.app).await.unwrap().is_none());
}
