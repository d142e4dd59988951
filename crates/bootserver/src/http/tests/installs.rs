//! A Profile with `install`: what a box is served before, while and after its system comes onto its disk.

use magnetite_api::{
    Machine, Profile, Sha256,
    install::{ConfigPlace, ImageFormat, InstallSpec, InstallState},
    join::InstallOrder,
    profile::Artifact,
};

use super::*;

const IMAGE: &[u8] = b"the image of a disk, as far as this test goes";

/// The site, whose Profile installs, and whose box asked as UEFI.
async fn site() -> Site {
    let site = Site::new().await;
    std::fs::write(site.folder.path().join("files/disk.raw"), IMAGE).unwrap();
    site.change(|view| {
        let mut profile = Profile::clone(&view.profiles[0]);
        let artifact = Artifact { url: None, file: Some("disk.raw".into()), sha256: Sha256::of(IMAGE) };
        profile.spec.boot.x86_64.as_mut().unwrap().files.insert("disk".into(), artifact);
        let place =
            ConfigPlace { partition_label: Some("OEM".into()), partition_type: None, path: "/config.ign".into() };
        let install = InstallSpec {
            image: "disk".into(),
            format: ImageFormat::Zstd,
            config: Some(place),
            ..InstallSpec::default()
        };
        profile.spec.install = Some(install);
        view.profiles = vec![Arc::new(profile)];
    });
    site.check_files().await;
    site
}

async fn ask(site: &Site, end: &str) -> Answer {
    let path = agent_path(site, end);
    send(private(&site.app).into_router(), Request::get(path).body(Body::empty()).unwrap()).await
}

async fn say(site: &Site, body: &str) {
    assert_eq!(post(site, &agent_path(site, "report"), body).await.status, StatusCode::NO_CONTENT, "{body}");
}

async fn script(site: &Site) -> String {
    get(site, &format!("{}/boot.ipxe", site.base())).await.text()
}

#[tokio::test]
async fn a_box_gets_an_installer_and_the_order_with_what_it_installs() {
    let site = site().await;
    assert!(script(&site).await.contains("\nkernel "), "its window is open");
    let config = get(&site, &format!("{}/config.ign", site.base())).await.text();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let environment = config["storage"]["files"][1]["contents"]["source"].as_str().unwrap();
    let environment = environment.strip_prefix("data:;base64,").unwrap();
    let environment = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, environment).unwrap();
    assert!(String::from_utf8(environment).unwrap().contains("\nMAGNETITE_TASK=install\n"));

    let answer = ask(&site, "install/x86_64").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let order: InstallOrder = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((order.intent.as_str(), order.sha256, order.format), ("created", Sha256::of(IMAGE), ImageFormat::Zstd));
    let config = order.config.unwrap();
    assert_eq!(config.place.path, "/config.ign");
    assert!(config.ignition.contains("magnetite-agent.service") && !config.ignition.contains("MAGNETITE_TASK"));
    // The image comes plainly, below the machine's own link, whole or from where it broke.
    let path = order.image.strip_prefix("http://127.0.0.1:8080").unwrap();
    assert_eq!(get(&site, path).await.body, IMAGE);
    let part = Request::get(path).header(header::RANGE, "bytes=10-").body(Body::empty()).unwrap();
    assert_eq!(send(public(&site.app).into_router(), part).await.body, &IMAGE[10..]);
    assert_eq!(ask(&site, "install/mips").await.status, StatusCode::NOT_FOUND);
    assert_eq!(ask(&site, "install/aarch64").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// R8: what was reported as installed is booted from its disk a hundred times, by this process and the next, and is installed again by another
/// intent alone. Its links stay open for its first boot, as long as its window is.
#[tokio::test]
async fn an_installed_box_is_sent_to_its_disk_whatever_happens() {
    let site = site().await;
    std::fs::create_dir_all(site.folder.path().join("machines")).unwrap();
    say(&site, r#"{"step":"Installing","detail":"vda: 1 MB"}"#).await;
    say(&site, r#"{"step":"Installing","failure":{"reason":"DiskFailed","message":"I/O error"}}"#).await;
    let status = || site.app.records.get("box").unwrap().install.unwrap();
    assert_eq!((status().state, status().message.as_deref()), (InstallState::Failed, Some("DiskFailed: I/O error")));
    assert!(script(&site).await.contains("\nkernel "), "it tries again");
    say(&site, r#"{"step":"Installed","detail":"vda (10.7 GB)"}"#).await;
    assert_eq!((status().state, status().disk.as_deref()), (InstallState::Installed, Some("vda (10.7 GB)")));
    for _ in 0..100 {
        let script = script(&site).await;
        assert!(script.contains("is installed and boots from its disk") && script.ends_with("\nexit 1\n"), "{script}");
    }
    assert_eq!(get(&site, &format!("{}/agent", site.base())).await.status, StatusCode::OK, "for its first boot");
    let refused = ask(&site, "install/x86_64").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text().contains("IntentAlreadyDone"), "{}", refused.text());

    // It was on disk before the box heard of it: another process knows.
    let remembered = crate::report::remembered(site.folder.path());
    assert_eq!(remembered["box"].install.as_ref().map(|install| install.state), Some(InstallState::Installed));

    site.change(|view| {
        let mut machine = Machine::clone(&site.machine);
        machine.spec.boot_intent = Some("again".into());
        let mut window = view.windows["box"].clone();
        window.id = "again".into();
        view.windows.insert("box".into(), window);
        view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index([Arc::new(machine)]));
    });
    let machine = site.app.view().fleet.machines().next().unwrap().clone();
    assert!(!site.app.is_installed(&machine), "another intent is not done");
}

/// Outside its window a box is installed by nobody, whatever it asks for.
#[tokio::test]
async fn without_a_window_nothing_is_installed() {
    let site = site().await;
    for state in [IntentState::Expired, IntentState::Fulfilled, IntentState::Frozen] {
        site.change(|view| view.windows.get_mut("box").unwrap().state = state);
        let script = script(&site).await;
        assert!(script.ends_with("\nexit 1\n") && !script.contains("\nkernel "), "{script}");
        assert_eq!(ask(&site, "install/x86_64").await.status, StatusCode::CONFLICT);
        assert_eq!(get(&site, &format!("{}/files/disk", site.base())).await.status, StatusCode::NOT_FOUND);
    }
}
