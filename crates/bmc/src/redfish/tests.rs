//! Against a BMC of a few lines: a socket that answers as it was told.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::Happened;

/// A BMC that gives one answer after the other, the last one for ever, and remembers what it was asked.
struct FixedBmc {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FixedBmc {
    async fn new(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut answers = std::collections::VecDeque::from(answers);
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let request = read(&mut socket).await;
                log.lock().unwrap().push(request);
                let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
                // No answer: half-dead, it takes the connection and says nothing.
                match answer.filter(|answer| !answer.is_empty()) {
                    Some(answer) => drop(socket.write_all(answer.as_bytes()).await),
                    None => std::mem::forget(socket),
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn client(&self, system: Option<&str>) -> Redfish {
        magnetite_daemon::crypto::install();
        let base = Url::parse(&format!("http://{}", self.address)).unwrap();
        let credentials = Credentials { username: "admin".into(), password: "s3cret".into() };
        Redfish::with(Client::builder(), base, system, credentials, Duration::from_secs(3)).unwrap()
    }
}

/// One request with its body.
async fn read(socket: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let length =
            text.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length.unwrap_or_default());
        if whole || count == 0 {
            return text;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len())
}

fn ok(body: &Value) -> String {
    answer("200 OK", "", &body.to_string())
}

fn system(power: &str) -> Value {
    json!({ "PowerState": power, "Actions": { "#ComputerSystem.Reset": { "target": "/redfish/v1/Systems/1/Actions/Reset" } } })
}

#[tokio::test]
async fn the_only_system_is_found_and_switched_on() {
    let list = ok(&json!({ "Members": [{ "@odata.id": "/redfish/v1/Systems/1" }] }));
    let bmc = FixedBmc::new(vec![
        list.clone(),
        ok(&system("Off")),
        list,
        ok(&system("Off")),
        answer("204 No Content", "", ""),
    ])
    .await;
    let redfish = bmc.client(None);
    assert_eq!(redfish.power().await.unwrap(), Power::Off);
    redfish.act(Act::On).await.unwrap();
    let asked = bmc.asked();
    assert!(
        asked[0].starts_with("GET /redfish/v1/Systems HTTP/1.1") && asked[1].starts_with("GET /redfish/v1/Systems/1 ")
    );
    // admin:s3cret
    assert!(asked[0].contains("uthorization: Basic YWRtaW46czNjcmV0"), "{}", asked[0]);
    let last = asked.last().unwrap();
    assert!(
        last.starts_with("POST /redfish/v1/Systems/1/Actions/Reset ") && last.ends_with(r#"{"ResetType":"On"}"#),
        "{last}"
    );
    assert!(!format!("{redfish:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_boot_override_names_the_version_that_it_changes() {
    let first = answer("200 OK", "ETag: \"1\"\r\n", &system("Off").to_string());
    let second = answer("200 OK", "ETag: W/\"2\"\r\n", &system("Off").to_string());
    let bmc =
        FixedBmc::new(vec![first, answer("412 Precondition Failed", "", ""), second, answer("200 OK", "", "")]).await;
    bmc.client(Some("1")).boot_network_once(NetworkBoot::Pxe).await.unwrap();
    let asked = bmc.asked();
    assert!(
        asked[1].starts_with("PATCH /redfish/v1/Systems/1 ") && asked[1].contains("if-match: \"1\""),
        "{}",
        asked[1]
    );
    assert!(
        asked[3].contains("if-match: W/\"2\"") && asked[3].contains(r#""BootSourceOverrideTarget":"Pxe""#),
        "{}",
        asked[3]
    );
}

#[tokio::test]
async fn each_failure_is_told_apart_and_says_what_the_bmc_said() {
    let told = json!({ "error": { "@Message.ExtendedInfo": [{ "Message": "The license does not allow this." }] } })
        .to_string();
    for (status, reset, happened, words) in [
        ("401 Unauthorized", false, Happened::No, "refuses the credentials. It says: The license"),
        ("403 Forbidden", true, Happened::No, "refuses the credentials"),
        ("404 Not Found", false, Happened::No, "has no system /redfish/v1/Systems/1"),
        (
            "400 Bad Request",
            true,
            Happened::No,
            "refused to reset the box (400 Bad Request). It says: The license does not allow this.",
        ),
        ("503 Service Unavailable", true, Happened::No, "(503 Service Unavailable)"),
        ("500 Internal Server Error", true, Happened::Perhaps, "(500 Internal Server Error)"),
        ("302 Found", true, Happened::No, "(302 Found)"),
    ] {
        let failure = answer(status, "", &told);
        let answers = if reset { vec![ok(&system("On")), failure] } else { vec![failure] };
        let error = FixedBmc::new(answers).await.client(Some("1")).act(Act::Reset).await.unwrap_err();
        assert!(error.in_full().contains(words), "{status}: {}", error.in_full());
        assert_eq!(error.happened(), happened, "{status}");
        assert!(!error.in_full().contains("s3cret") && !format!("{error:?}").contains("s3cret"));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_one_error_and_an_end() {
    let huge = answer("200 OK", "", &"x".repeat(MOST_BYTES + 1));
    for (first, words) in [
        (answer("200 OK", "", "<html>"), "is no JSON"),
        (huge, "is longer than"),
        (ok(&json!({ "Name": "no power here" })), "has no PowerState"),
        (ok(&json!([1, 2])), "has no PowerState"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned() + "", "within"),
        ("nonsense\r\n\r\n".to_owned(), "cannot be reached"),
        (String::new(), "did not answer within 3 s"),
    ] {
        let error = FixedBmc::new(vec![first]).await.client(Some("1")).power().await.unwrap_err();
        assert!(
            error.in_full().contains(words) || error.in_full().contains("cannot be reached"),
            "{words}: {}",
            error.in_full()
        );
        assert_eq!(error.happened(), Happened::No);
    }
}

#[tokio::test]
async fn silence_after_a_reset_leaves_open_whether_it_was_done() {
    let bmc = FixedBmc::new(vec![ok(&system("On")), String::new()]).await;
    let error = bmc.client(Some("1")).act(Act::Reset).await.unwrap_err();
    assert_eq!(error.happened(), Happened::Perhaps, "{error:?}");
    assert_eq!(bmc.asked().len(), 2, "a reset is sent once");
}

#[tokio::test]
async fn nobody_there_is_no_doubt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = FixedBmc { address: listener.local_addr().unwrap(), asked: Arc::default() };
    drop(listener);
    let error = gone.client(None).act(Act::Reset).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { sent: false, .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_stays_on_the_bmc() {
    let other = FixedBmc::new(vec![ok(&system("On"))]).await;
    let away = answer("302 Found", &format!("Location: http://{}/redfish/v1/Systems/1\r\n", other.address), "");
    let error = FixedBmc::new(vec![away]).await.client(Some("1")).power().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(other.asked().is_empty(), "a password went to another host");
    let slash = answer("308 Permanent Redirect", "Location: /redfish/v1/Systems/1/\r\n", "");
    let bmc = FixedBmc::new(vec![slash, ok(&system("On"))]).await;
    assert_eq!(bmc.client(Some("1")).power().await.unwrap(), Power::On);
}

#[tokio::test]
async fn a_change_is_not_sent_on() {
    let slash = answer("302 Found", "Location: /elsewhere\r\n", "");
    let bmc = FixedBmc::new(vec![ok(&system("On")), slash, ok(&system("On"))]).await;
    let error = bmc.client(Some("1")).act(Act::Reset).await.unwrap_err();
    assert!(matches!(error, Error::Unintelligible { perhaps: false, .. }), "{error:?}");
}

/// Real handshakes: a certificate that nobody signed, the right authority, and being told not to look.
#[tokio::test]
async fn certificates_are_looked_at_unless_told_otherwise() {
    magnetite_daemon::crypto::install();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    // One request a connection, in a thread: rustls alone, without another crate.
    let listener = listener.into_std().unwrap();
    listener.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for socket in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, socket.unwrap());
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                drop(stream.write_all(ok(&system("On")).as_bytes()));
                stream.conn.send_close_notify();
                drop(stream.flush());
            }
        }
    });
    let credentials = || Credentials { username: "admin".into(), password: "s3cret".into() };
    let ask = async |host: &str, trust: &Trust| {
        Redfish::new(&format!("https://{host}:{port}"), Some("1"), credentials(), trust).unwrap().power().await
    };
    let right = Trust::Authorities(authority_certificate.pem().into_bytes());
    let wrong =
        Trust::Authorities(rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem().into_bytes());
    assert_eq!(ask("localhost", &right).await.unwrap(), Power::On);
    assert_eq!(ask("127.0.0.1", &Trust::Anyone).await.unwrap(), Power::On);
    for (host, trust) in [("localhost", &wrong), ("127.0.0.1", &right)] {
        let error = ask(host, trust).await.unwrap_err();
        assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
    }
    for (url, trust) in [
        ("http://bmc", Trust::System),
        ("https://bmc", Trust::Authorities(b"no certificate".to_vec())),
        ("", Trust::System),
    ] {
        assert!(matches!(Redfish::new(url, None, credentials(), &trust), Err(Error::Client { .. })), "{url}");
    }
}
