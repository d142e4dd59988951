//! What a system fetches beside an Ignition config, or in place of one.

use magnetite_api::{
    ProfileSpec, Sha256,
    install::InstallSpec,
    profile::{Artifact, JoinMode, TemplateKey, TemplateSource},
};

use super::*;

const SEED: [(&str, &str); 3] = [
    ("meta-data", ""),
    (
        "user-data",
        "#cloud-config\nhostname: {{ machine.node_name }}\nwrite_files:\n- path: /etc/magnetite/agent.env\n  content: |\n    {{ agent.environment | indent(4) }}\n",
    ),
    (
        "ks.cfg",
        "url --url={{ vars.mirror }}\n%post\ncurl -k --pinnedpubkey '{{ agent.curl_pin }}' {{ agent.report_url }}\n%end\n",
    ),
];

fn spec(site: &Site, change: impl Fn(&mut ProfileSpec)) {
    site.change(|view| {
        let mut profile = magnetite_api::Profile::clone(&view.profiles[0]);
        change(&mut profile.spec);
        view.profiles = vec![Arc::new(profile)];
    });
}

fn inline(text: &str) -> TemplateSource {
    TemplateSource { inline: Some(text.to_owned()), config_map: None }
}

async fn site() -> Site {
    let site = Site::new().await;
    spec(&site, |spec| {
        spec.join.mode = JoinMode::None;
        spec.templates = SEED.iter().map(|(name, text)| ((*name).to_owned(), inline(text))).collect();
        let seed = "ds=nocloud;s={{ boot.url }}/t/".to_owned();
        let arguments = [seed, "inst.ks={{ templates[\"ks.cfg\"] }}".to_owned()];
        spec.boot.x86_64.as_mut().unwrap().command_line = arguments.to_vec();
        spec.variables.insert("mirror".to_owned(), "https://mirror.example/9".to_owned());
    });
    site
}

/// The path of the URL that an argument of the kernel has, after so many characters.
fn path_of(script: &str, argument: &str) -> String {
    let url = script.split_whitespace().find_map(|word| word.strip_prefix(argument)).unwrap();
    url.split_once("//").unwrap().1.split_once('/').map(|(_, path)| format!("/{path}")).unwrap()
}

#[tokio::test]
async fn the_command_line_leads_to_each_template() {
    let site = site().await;
    let script = get(&site, &format!("{}/boot.ipxe", site.base())).await.text();
    let (seed, kickstart) = (path_of(&script, "ds=nocloud;s="), path_of(&script, "inst.ks="));
    assert!(seed.ends_with("/x86_64/t/") && kickstart == format!("{seed}ks.cfg"), "{seed} {kickstart}");
    let meta = get(&site, &format!("{seed}meta-data")).await;
    assert_eq!((meta.status, meta.text().as_str()), (StatusCode::OK, ""));
    let user = get(&site, &format!("{seed}user-data")).await;
    assert_eq!(user.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(user.headers[header::CONTENT_LENGTH], user.body.len().to_string());
    let config: serde_json::Value = serde_saphyr::from_str(&user.text()).unwrap();
    assert_eq!(config["hostname"], "box");
    let environment = config["write_files"][0]["content"].as_str().unwrap();
    assert!(environment.starts_with("MAGNETITE_SERVER=https://") && environment.ends_with("MAGNETITE_JOIN=none\n"));
    let kickstart = get(&site, &kickstart).await.text();
    assert!(kickstart.starts_with("url --url=https://mirror.example/9\n") && kickstart.ends_with("%end\n"));
    assert_eq!(steps(&site), [BootStepName::ScriptServed, BootStepName::ConfigFetched]);
    let records = site.app.records.all();
    let fetched = &records["box"].boot.steps[1];
    assert_eq!((fetched.detail.as_deref(), fetched.count), (Some("ks.cfg"), 3));
}

/// What an installer reports by the line that the documentation has for it.
#[tokio::test]
async fn a_template_has_the_link_by_which_an_installer_closes_the_window() {
    let site = site().await;
    let kickstart = get(&site, &format!("{}/t/ks.cfg", site.base())).await.text();
    let line = kickstart.lines().find(|line| line.starts_with("curl")).unwrap();
    let pin = line.split('\'').nth(1).unwrap();
    assert_eq!(pin, "sha256//AA==", "of the fixture's short pin");
    let url = line.rsplit(' ').next().unwrap();
    let path = &url[url.find("/a/").unwrap()..];
    assert_eq!(post(&site, path, r#"{"step":"SystemBooted"}"#).await.status, StatusCode::NO_CONTENT);
    let crate::app::Cluster::None(windows) = &site.app.cluster else { unreachable!() };
    assert_eq!(windows.all()["box"].state, IntentState::Fulfilled);
}

/// cloud-init goes on without what it is told that there is not, and without nothing else.
#[tokio::test]
async fn only_what_nobody_declared_is_not_found() {
    let site = site().await;
    for name in ["vendor-data", "network-config", "x", "..", "user-data/"] {
        let answer = get(&site, &format!("{}/t/{name}", site.base())).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::NOT_FOUND, "not found\n"), "{name}");
    }
}

/// Who fetches these asks a few times and then stops. So the box is kept where it asks for ever, which is its script.
#[tokio::test]
async fn what_does_not_render_is_put_off_and_the_script_waits_for_it() {
    let (wrong, missing) = (inline("{{ vars.nothing }}"), TemplateKey { name: "gone".into(), key: None });
    let missing = TemplateSource { inline: None, config_map: Some(missing) };
    for (source, why) in [(wrong, "vars.nothing"), (missing, "does not exist"), (inline("{{ 'x' * 2000000 }}"), "")] {
        let site = site().await;
        spec(&site, |spec| drop(spec.templates.insert("user-data".to_owned(), source.clone())));
        let answer = get(&site, &format!("{}/t/user-data", site.base())).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key(header::RETRY_AFTER) && answer.text().contains(why), "{}", answer.text());
        let failure = site.app.records.all()["box"].boot.failure.clone().unwrap();
        assert_eq!((failure.step, failure.reason.as_str()), (BootStepName::ConfigFetched, "RenderFailed"));
        assert!(failure.message.contains("spec.templates[\"user-data\"]"), "{}", failure.message);
        let script = get(&site, &format!("{}/boot.ipxe", site.base())).await.text();
        assert!(script.contains("Waiting: ") && !script.contains("\nkernel "), "{script}");
        spec(&site, |spec| drop(spec.templates.insert("user-data".to_owned(), inline("ok"))));
        assert_eq!(get(&site, &format!("{}/t/user-data", site.base())).await.text(), "ok");
        let script = get(&site, &format!("{}/boot.ipxe", site.base())).await.text();
        assert!(script.contains("\nkernel "), "{script}");
    }
}

#[tokio::test]
async fn a_template_of_a_config_map_has_its_own_name_as_its_key() {
    let site = site().await;
    let key = |key: Option<&str>| {
        let config_map = Some(TemplateKey { name: "seed".to_owned(), key: key.map(str::to_owned) });
        TemplateSource { inline: None, config_map }
    };
    spec(&site, |spec| {
        spec.templates = [("user-data".to_owned(), key(None)), ("ks.cfg".to_owned(), key(Some("other")))].into();
    });
    site.change(|view| {
        let texts = [("user-data", "a {{ machine.name }}"), ("other", "b\n")];
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned()));
        view.config_maps = [("seed".to_owned(), texts.into())].into();
    });
    assert_eq!(get(&site, &format!("{}/t/user-data", site.base())).await.text(), "a box");
    assert_eq!(get(&site, &format!("{}/t/ks.cfg", site.base())).await.text(), "b\n");
}

/// An installer that is started where the agent has something to do with the disks finds no answers, and installs nothing.
#[tokio::test]
async fn a_box_that_its_agent_is_to_install_gets_none() {
    let site = site().await;
    std::fs::write(site.folder.path().join("files/disk.raw"), b"an image").unwrap();
    spec(&site, |spec| {
        let image = Artifact { url: None, file: Some("disk.raw".into()), sha256: Sha256::of(b"an image") };
        spec.boot.x86_64.as_mut().unwrap().files.insert("disk".into(), image);
        spec.install = Some(InstallSpec { image: "disk".into(), ..InstallSpec::default() });
    });
    site.check_files().await;
    let script = get(&site, &format!("{}/boot.ipxe", site.base())).await.text();
    assert!(script.contains("\nkernel "), "{script}");
    let answer = get(&site, &format!("{}/t/user-data", site.base())).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
}
