//! Loaders, and what is to be known of the agents, which is read once, at the start.

mod kept;

use std::{collections::BTreeMap, io::ErrorKind, path::Path, sync::Arc};

use kube::ResourceExt;
use magnetite_api::{Architecture, Machine};
use magnetite_boot::site::Site;
use magnetite_daemon::clock;
use sha2::Digest;

use crate::{
    app::{Agent, App},
    artifacts::Checked,
    dhcp::unix,
};

pub use kept::{Loaders, run};

/// What a loader asks for beside itself before its own DHCP (iPXE since 2024).
const AUTOEXEC: &str = "autoexec.ipxe";

/// A loader as it was asked for.
#[derive(Debug)]
pub struct Asked {
    /// The machine of the link, if it is one.
    pub machine: Option<Arc<Machine>>,
    /// The loader's name.
    pub name: String,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// Finds `m/<machine id>/<loader>`, or `<loader>` alone. Names are compared, never made into a path. Beside every loader of a machine stands
/// a script for it, `autoexec.ipxe`, which links to `site`.
pub fn find(app: &App, name: &str, site: &Site<'_>) -> Option<Asked> {
    let name = name.trim_start_matches('/');
    let (machine, loader) = match name.strip_prefix("m/").and_then(|rest| rest.split_once('/')) {
        Some((id, loader)) => (app.named(&app.view(), id), loader),
        None => (None, name),
    };
    let bytes = match (&machine, loader.rsplit('/').next()) {
        (Some(machine), Some(AUTOEXEC)) => {
            // Known by the request that led here; a box whose server was restarted in between is what most boxes are.
            let boot = app.records.get(&machine.name_any());
            let architecture = boot.and_then(|entry| entry.boot.architecture).unwrap_or(Architecture::X86_64);
            Arc::from(site.autoexec(machine, architecture, unix(clock::now())).into_bytes())
        }
        _ => app.loaders.get(loader)?,
    };
    Some(Asked { machine, name: loader.to_owned(), bytes })
}

/// The agents that are there, summed once.
///
/// # Errors
/// If one is there and cannot be read.
pub fn read_agents(folder: &Path) -> std::io::Result<BTreeMap<&'static str, Agent>> {
    let mut found = BTreeMap::new();
    for architecture in [Architecture::X86_64, Architecture::Aarch64].map(Architecture::as_str) {
        let path = folder.join(format!("magnetite-agent-{architecture}"));
        let file = match Checked::trusted(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), "an agent is missing; machines of its architecture cannot join");
                continue;
            }
            Err(error) => return Err(error),
        };
        let digest: String =
            sha2::Sha512::digest(std::fs::read(&path)?).iter().map(|octet| format!("{octet:02x}")).collect();
        found.insert(architecture, Agent { file, verification: format!("sha512-{digest}") });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::fixtures;

    #[tokio::test]
    async fn a_machine_s_loader_has_a_script_beside_it() {
        let site = fixtures::Site::new().await;
        let here = site.app.site(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let id = site.id();
        let find = |name: &str| find(&site.app, name, &here);
        assert_eq!(&*find(&format!("m/{id}/undionly.kpxe")).unwrap().bytes, b"loader");
        for name in [format!("m/{id}/autoexec.ipxe"), format!("/m/{id}/secure-boot/autoexec.ipxe")] {
            let asked = find(&name).unwrap();
            assert!(asked.machine.is_some() && asked.bytes.starts_with(b"#!ipxe\n"), "{asked:?}");
        }
        for name in ["autoexec.ipxe", "m/0000000000000000/autoexec.ipxe", "m/x/../undionly.kpxe"] {
            assert!(find(name).is_none(), "{name}");
        }
    }

    /// Names are looked up and never made into a path, so there is nothing to climb: 10,000 that try.
    #[tokio::test]
    async fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, secret) = (folder.path().join("ipxe"), b"a secret".repeat(100));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("snponly.efi"), kept::program(1024, 0)).unwrap();
        for name in ["secret.kpxe", "secret.pxe"] {
            std::fs::write(folder.path().join(name), &secret).unwrap();
        }
        let site = fixtures::Site::with(|app| app.loaders = Loaders::read(&inside, None)).await;
        let here = site.app.site(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let absolute = folder.path().display().to_string();
        let climbs = [
            "..",
            "../..",
            "..\\",
            "%2e%2e",
            "%2E%2E%2F",
            "..%2f",
            "..%5c",
            "%252e%252e",
            "....//",
            ".\0.",
            "..;",
            "/..",
            "\u{ff0e}\u{ff0e}",
            "..\u{2215}",
            "~",
            "file:",
            "\\\\host\\share",
            "C:",
            "/proc/self/cwd",
            absolute.as_str(),
        ];
        let ways = ["", "m//", "/", "//", "m/0000000000000000/", "secure-boot/", "./", "snponly.efi/"];
        let ends = [
            "secret.kpxe",
            "secret.pxe",
            "ipxe/snponly.efi",
            "snponly.efi",
            "etc/passwd",
            "proc/self/environ",
            "secret.kpxe\0.efi",
        ];
        let separators = ["/", "\\", "%2f", "//", "/./", "\0", ""];
        let seconds = ["", "../", "x/../"];
        let parts: [&[&str]; 5] = [&ways, &climbs, &separators, &seconds, &ends];
        let all: usize = parts.iter().map(|part| part.len()).product();
        assert!(all >= 10_000, "{all}");
        for number in 0..all {
            let mut rest = number;
            let mut pick = |part: &&[&str]| {
                let picked = part[rest % part.len()].to_owned();
                rest /= part.len();
                picked
            };
            let name = parts.iter().map(&mut pick).collect::<String>();
            assert!(find(&site.app, &name, &here).is_none(), "{name:?}");
        }
        assert!(find(&site.app, "snponly.efi", &here).is_some());
    }

    #[test]
    fn nothing_else_of_the_folders_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let signed = tempfile::tempdir().unwrap();
        for name in ["snponly.efi", "secret", "secret.key", "magnetite-agent-x86_64", "magnetite-agent-riscv64"] {
            std::fs::write(folder.path().join(name), kept::program(1024, 0)).unwrap();
            std::fs::write(signed.path().join(name), kept::program(1024, 0)).unwrap();
        }
        std::fs::create_dir(folder.path().join("folder.efi")).unwrap();
        let read = |secure_boot| Loaders::read(folder.path(), secure_boot).now().keys().cloned().collect::<Vec<_>>();
        assert_eq!(read(None), ["snponly.efi"]);
        assert_eq!(read(Some(signed.path())), ["secure-boot/snponly.efi", "snponly.efi"]);
        let agents = read_agents(folder.path()).unwrap();
        assert_eq!(agents.keys().collect::<Vec<_>>(), [&"x86_64"]);
        assert_eq!(agents["x86_64"].verification.len(), "sha512-".len() + 128);
    }
}
