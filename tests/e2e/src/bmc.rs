//! The BMCs of a rack: sushy-tools' Redfish service and OpenIPMI's simulator, which somebody else made, in front of the lab's own boxes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lan::Lan;
use crate::net::SERVER;
use crate::paths::Paths;
use crate::pki::{Authority, Subject};
use crate::proc::{Cmd, Process};
use crate::progress::Progress;
use crate::rack::Rack;
use crate::site::Site;
use crate::stamp::{self, Recipe};
use crate::{apt, magnetite, wait};

/// Pinned: what we put into it is no promise of its.
const SUSHY: &str = "sushy-tools==2.2.0";
/// What the lab's BMCs need beside it.
const PACKAGES: &[(&str, &str)] = &[("openipmi", "a BMC that speaks IPMI"), ("ipmitool", "asks BMCs by IPMI")];
/// The port of the Redfish service, at the server's place.
const REDFISH_PORT: u16 = 9443;
/// The user of all BMCs.
pub const USER: &str = "admin";
/// That user's password, of the 16 characters that IPMI allows.
pub const PASSWORD: &str = "lab-s3cret";
/// The Secret with both, which the lab's chart lets the controller read.
pub const SECRET: &str = "lab-bmc";

/// The programs.
#[derive(Debug, Clone)]
pub struct Tools {
    python: PathBuf,
    scripts: PathBuf,
}

/// Installs, or finds, them.
pub fn ensure(progress: &Progress, paths: &Paths) -> Result<Tools> {
    apt::ensure_these(progress, paths, PACKAGES)?;
    let dir = paths.lab().join("bmc");
    let recipe = Recipe::default().with(SUSHY).hash();
    if !stamp::is_fresh(&dir, &recipe) {
        let step = progress.step("installing sushy-tools, a Redfish service");
        stamp::ensure(&dir, &recipe, |dir| {
            Cmd::new("python3").args(["-m", "venv", &dir.join("venv").display().to_string()]).run()?;
            let python = dir.join("venv/bin/python").display().to_string();
            Cmd::new(python).args(["-m", "pip", "install", "--quiet", SUSHY]).run().map(drop)
        })?;
        step.done(dir.display().to_string());
    }
    Ok(Tools { python: dir.join("venv/bin/python"), scripts: paths.workspace().join("tests/e2e/bmc") })
}

/// A Redfish service, running.
pub struct Redfish {
    process: Process,
    authority: Authority,
}

impl Redfish {
    /// Starts it at the server's place, for all boxes of the rack.
    pub fn start(tools: &Tools, lan: &Lan, rack: &Rack) -> Result<Self> {
        let dir = lan.run().join("bmc");
        let authority = Authority::create(&dir)?;
        let pair =
            authority.issue("redfish", &Subject { common_name: "redfish", organizations: &[], names: &[SERVER] })?;
        let users = dir.join("users");
        let script = "import bcrypt, sys; print(sys.argv[1] + ':' + bcrypt.hashpw(sys.argv[2].encode(), bcrypt.gensalt(4)).decode())";
        let line = Cmd::new(&tools.python).args(["-c", script, USER, PASSWORD]).run()?;
        std::fs::write(&users, line)?;
        let process = lan
            .server_command(&tools.python)
            .arg(tools.scripts.join("redfish.py").display().to_string())
            .arg(rack.socket().display().to_string())
            .args([SERVER.to_owned(), REDFISH_PORT.to_string()])
            .args([&pair.certificate, &pair.key, &users].map(|path| path.display().to_string()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn("redfish", &lan.run().logs().join("redfish.log"))?;
        let mut redfish = Self { process: process.grace(Duration::ZERO), authority };
        wait::until("the Redfish service", Duration::from_secs(30), || {
            redfish.check()?;
            let asked = lan
                .server_command(Path::new("curl"))
                .args(["-sk", "--max-time", "5", &format!("{}/redfish/v1/", redfish.url())])
                .run();
            Ok(asked.ok().filter(|text| text.contains("ServiceRoot")).map(drop))
        })?;
        Ok(redfish)
    }

    /// Its address.
    pub const ADDRESS: &'static str = "172.30.0.1:9443";

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{SERVER}:{REDFISH_PORT}")
    }

    /// Who signed its certificate: PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        self.authority.pem()
    }

    /// How many requests it had that its log shows with this text.
    #[must_use]
    pub fn requests(&self, text: &str) -> usize {
        self.process.output().lines().filter(|line| line.contains("HTTP/1.1") && line.contains(text)).count()
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Ends it, as a BMC whose firmware has crashed.
    pub fn stop(self) {
        self.process.stop();
    }

    /// The lines of a Machine for a box behind it, to go below `spec:`.
    #[must_use]
    pub fn bmc_of(&self, name: &str, secret: &str) -> String {
        format!(
            "  bmc:\n    credentials: {secret}\n    shutdownSeconds: 3\n    redfish: {{url: \"{}\", system: {name}}}\n",
            self.url()
        )
    }
}

/// A BMC that speaks IPMI, for one box.
pub struct Ipmi {
    process: Process,
    port: u16,
}

impl Ipmi {
    /// Starts one for a box of the rack, at the server's place.
    pub fn start(tools: &Tools, lan: &Lan, rack: &Rack, name: &str, port: u16) -> Result<Self> {
        let dir = lan.run().join(&format!("ipmi-{name}"));
        std::fs::create_dir_all(dir.join("state"))?;
        // It takes one word for the program, and adds its own arguments.
        let chassis = dir.join("chassis");
        std::fs::write(
            &chassis,
            format!(
                "#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 exec {} {} {} {name} \"$@\"\n",
                tools.python.display(),
                tools.scripts.join("chassis.py").display(),
                rack.socket().display()
            ),
        )?;
        std::fs::set_permissions(&chassis, std::fs::Permissions::from_mode(0o755))?;
        let config = dir.join("lan.conf");
        std::fs::write(
            &config,
            format!(
                "name \"{name}\"\nset_working_mc 0x20\n  startlan 1\n    addr {SERVER} {port}\n    priv_limit admin\n    \
                 allowed_auths_admin md5\n    guid a123456789abcdefa123456789abcdef\n  endlan\n  \
                 chassis_control \"{} 0x20\"\n  user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 md5\n",
                chassis.display()
            ),
        )?;
        let emulator = dir.join("mc.emu");
        std::fs::write(
            &emulator,
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
             sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n",
        )?;
        let process = lan
            .server_command(Path::new("ipmi_sim"))
            .args(["-n".to_owned(), "-c".to_owned(), config.display().to_string()])
            .args(["-f".to_owned(), emulator.display().to_string()])
            .args(["-s".to_owned(), dir.join("state").display().to_string()])
            .spawn(format!("ipmi {name}"), &lan.run().logs().join(format!("ipmi-{name}.log")))?;
        Ok(Self { process: process.grace(Duration::ZERO), port })
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// The lines of a Machine for its box, to go below `spec:`.
    #[must_use]
    pub fn bmc_of(&self, secret: &str) -> String {
        format!(
            "  bmc:\n    credentials: {secret}\n    shutdownSeconds: 3\n    ipmi: {{host: {SERVER}, port: {}}}\n",
            self.port
        )
    }
}

/// The Secret with a BMC's credentials, as a person makes it.
pub fn secret(site: &Site, name: &str, password: &str, ca: &str) -> Result<()> {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "magnetite.dev/bmc",
        "metadata": { "name": name, "namespace": magnetite::NAMESPACE },
        "stringData": { "username": USER, "password": password, "ca.crt": ca, "hosts": "172.30.0.0/24" },
    });
    site.apply(&object.to_string()).map(drop).context("make the BMCs' Secret")
}
