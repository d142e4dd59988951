//! The whole chain that a machine would get, as the boot server and the controller make it, before anything is powered on.

mod dhcp;
mod mask;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{
    Architecture, Profile,
    conditions::{self, PROFILE_READY, reason},
    netboot::NetbootSpec,
    profile::{Artifact, JoinMode},
    report::Firmware,
};
use magnetite_boot::{
    capability::CapabilityKey,
    command_line::for_echo,
    fleet::Fleet,
    plan::{self, Next, Task},
    render::{self, AgentLink, Links, RenderError},
    select::{Chosen, profile_for},
    site::Site,
};
use magnetite_wire::dhcp::{MessageType, request::Persona};

use crate::{
    args::{BoxKind as Kind, Show},
    declared::Declared,
    error::Error,
    style::{Style, Tone, plain},
};

/// Links are made with this key and shown without what it made, ids and capabilities: the real one is the boot server's.
const KEY: [u8; 32] = [0; 32];
/// The boot server's pin, and the digest of its agent: what stands for them where the boot server is not at hand.
const PIN: &str = "(of the boot server's key)";
const DIGEST: &str = "(of the boot server's agent)";

/// A chain, as far as it goes.
#[derive(Debug, Default)]
pub struct Preview {
    /// What the machine gets, in order.
    pub stages: Vec<Stage>,
    /// Where it ends too soon.
    pub failed: Option<Failed>,
}

/// A part of the chain.
#[derive(Debug)]
pub struct Stage {
    /// With which others it is shown.
    pub show: Show,
    /// Its headline.
    pub title: String,
    /// What the machine gets.
    pub text: String,
}

/// Where a chain ends too soon.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which part fails.
    pub stage: &'static str,
    /// Why.
    pub why: String,
}

/// What is not declared anywhere and must be supposed.
#[derive(Debug, Clone)]
pub struct Supposed {
    /// The kind of box; by default what it was when it was last seen, or UEFI.
    pub kind: Option<Kind>,
    /// Address of the boot server.
    pub address: Ipv4Addr,
    /// The loaders that the boot server has; all, if nothing is known.
    pub loaders: Option<Vec<String>>,
}

/// What every part of a chain is made from.
struct Facts<'a> {
    declared: &'a Declared,
    supposed: &'a Supposed,
    site: &'a Site<'a>,
    persona: Persona,
    /// Seconds since 1970.
    unix: u64,
}

impl Facts<'_> {
    fn agent_link(&self, links: &Links) -> AgentLink {
        self.site.agent_link(&self.declared.machine, links, DIGEST, self.declared.intent.as_ref(), self.unix)
    }

    fn masked(&self, text: &str) -> String {
        mask::assignments(&mask::capabilities(text, &self.site.key.machine_id(&self.declared.machine)))
    }
}

impl Preview {
    /// Makes the chain.
    pub fn of(declared: &Declared, supposed: &Supposed, now: Timestamp) -> Self {
        let key = CapabilityKey::new(KEY);
        let address = IpAddr::V4(supposed.address);
        let site = Site::plain(address, 8080, 8443, &key, PIN);
        let (persona, unix) = (persona(declared, supposed), u64::try_from(now.as_second()).unwrap_or(0));
        let facts = Facts { declared, supposed, site: &site, persona, unix };
        let mut preview = Self::default();
        preview.failed = preview.chain(&facts, now).err();
        preview
    }

    fn push(&mut self, show: Show, title: impl Into<String>, text: impl Into<String>) {
        self.stages.push(Stage { show, title: title.into(), text: text.into() });
    }

    fn chain(&mut self, facts: &Facts<'_>, now: Timestamp) -> Result<(), Failed> {
        let Facts { declared, site, unix, .. } = *facts;
        let machine = &*declared.machine;
        let profile = profile_for(&declared.machine, &declared.profiles);
        let architecture = self.dhcp(facts, profile.as_deref().ok())?;
        let links = site.links(machine, architecture, declared.intent.as_ref(), unix);
        let conflicted = !Fleet::index(declared.machines.iter().cloned()).conflicts(machine).is_empty();
        let at_script = failed("script");
        if machine.spec.hold {
            // What that is only the boot server's flag knows.
            return Err(at_script("the Machine is held: its box boots what --discovery of the boot server names, tells what it is made of, and waits; kubectl magnetite approve says what it is to be".to_owned()));
        }
        let profile = match plan::next(
            machine,
            profile.as_deref(),
            declared.intent.as_ref(),
            conflicted,
            machine.is_installed(),
            now,
        ) {
            Next::Wait { seconds, why } => {
                let script = render::wait_script(machine, &why, seconds, &links);
                self.push(Show::Script, "Script: asks again later", facts.masked(&script));
                return Err(at_script(why));
            }
            Next::Local => {
                let title = "Script: no boot window is open, and onReboot is Local (--open: as if it were)";
                self.push(Show::Script, title, render::local_script(machine));
                return Ok(());
            }
            Next::Installed => {
                let title = "Script: this intent is installed, so the box boots from its disk";
                self.push(Show::Script, title, render::installed_script(machine));
                return Ok(());
            }
            Next::Boot(task) => (task, profile.map_err(|error| at_script(error.to_string()))?),
        };
        let (task, profile) = profile;
        files_at_hand(declared)?;
        self.script(facts, &profile, architecture, &links)?;
        match task {
            Task::Boot => {}
            Task::Install => self.install(facts, &profile, architecture, &links)?,
            // Of a Machine that is held, which was told above.
            Task::Inventory => return Ok(()),
            Task::Wipe => {
                let text =
                    "Task    wipe: the agent wipes all disks of the box that are not removable, and switches it off\n";
                self.push(Show::Script, "Wipe, by the agent in the system that the script boots", text);
                return Ok(());
            }
        }
        self.ignition(facts, &profile, architecture, &links)?;
        self.templates(facts, &profile, architecture, &links)?;
        self.join(declared, &profile)
    }

    fn dhcp(&mut self, facts: &Facts<'_>, profile: Option<&Chosen>) -> Result<Architecture, Failed> {
        let Facts { declared, supposed, site, persona, unix } = *facts;
        let machine = &*declared.machine;
        let boot = machine.status.as_ref().and_then(|status| status.boot.as_ref());
        let failed_loaders = boot.map(|boot| boot.failed_loaders.clone()).unwrap_or_default();
        let below = profile.and_then(|profile| profile.spec.netboot.as_ref());
        let netboot = NetbootSpec::over(machine.spec.netboot.as_ref(), below);
        let fleet = Fleet::index(declared.machines.iter().cloned());
        let found = fleet.find(&dhcp::identity(&dhcp::request(persona, MessageType::DISCOVER, machine)));
        let at_hand =
            |name: &str| supposed.loaders.as_ref().is_none_or(|names| names.iter().any(|known| known == name));
        let asked = dhcp::Asked {
            site,
            server: supposed.address,
            found: &found,
            netboot: &netboot,
            failed: &failed_loaders,
            at_hand: &at_hand,
            now: unix,
        };
        let title = format!("DHCP: what the firmware is answered ({})", persona.vendor_class);
        let first = dhcp::answers(&asked, persona, machine).map_err(failed("DHCP answer to the firmware"))?;
        self.push(Show::Dhcp, title, facts.masked(&first));
        let second = dhcp::answers(&asked, persona.ipxe(), machine).map_err(failed("DHCP answer to iPXE"))?;
        self.push(Show::Dhcp, "DHCP: what the iPXE that it starts is answered", facts.masked(&second));
        Ok(if [11, 19].contains(&persona.arch) { Architecture::Aarch64 } else { Architecture::X86_64 })
    }

    fn script(
        &mut self,
        facts: &Facts<'_>,
        profile: &Chosen,
        architecture: Architecture,
        links: &Links,
    ) -> Result<(), Failed> {
        let machine = &*facts.declared.machine;
        let wrong = |error: RenderError| failed("script")(format!("Profile {}: {error}", profile.name_any()));
        let script = render::script(profile, machine, architecture, links).map_err(wrong)?;
        let arguments = render::command_line(profile, machine, architecture, links).map_err(wrong)?;
        let title = format!("Script: boots the Profile {}", profile.name_any());
        self.push(Show::Script, title, facts.masked(&script));
        self.push(Show::Script, "Files", files(profile, architecture));
        self.push(Show::Script, "Command line", facts.masked(&(arguments.join("\n") + "\n")));
        Ok(())
    }

    /// What the system in memory does, before the one that it installs gets the config that follows.
    fn install(
        &mut self,
        facts: &Facts<'_>,
        profile: &Chosen,
        architecture: Architecture,
        links: &Links,
    ) -> Result<(), Failed> {
        let Some((install, image)) = profile.spec.install.as_ref().zip(profile.spec.image(architecture)) else {
            let why =
                format!("spec.install.image of the Profile {} names no file for {architecture}", profile.name_any());
            return Err(failed("install")(why));
        };
        let hints = serde_saphyr::to_string(&install.disk).map_err(|error| failed("install")(error.to_string()))?;
        let hints = if hints.trim() == "{}" { "the only disk of the box\n".to_owned() } else { hints };
        let config = match &install.config {
            Some(place) => {
                let partition =
                    place.partition_label.as_deref().or(place.partition_type.as_deref()).unwrap_or_default();
                format!("the Ignition config below, to {} of the partition {partition}", place.path)
            }
            None => "none: the image has to bring what it needs".to_owned(),
        };
        let text = format!(
            "Task    install: the agent writes the image to a disk, and restarts the box\nImage   {} ({:?}, SHA-256 {})\nConfig  {config}\nDisk    {hints}",
            links.file(&install.image),
            install.format,
            image.sha256
        );
        self.push(Show::Script, "Install, by the agent in the system that the script boots", facts.masked(&text));
        Ok(())
    }

    fn ignition(
        &mut self,
        facts: &Facts<'_>,
        profile: &Chosen,
        architecture: Architecture,
        links: &Links,
    ) -> Result<(), Failed> {
        let Facts { declared, site, .. } = *facts;
        let (machine, agent) = (&*declared.machine, facts.agent_link(links));
        let template = magnetite_catalog::ignition(profile, &declared.config_maps);
        let wrong = |why: String| failed("Ignition config")(format!("Profile {}: {why}", profile.name_any()));
        let config = render::ignition(profile, machine, architecture, template, links, Some(&agent))
            .map_err(|error| wrong(error.to_string()))?;
        let config: serde_json::Value = serde_json::from_str(&config).map_err(|error| wrong(error.to_string()))?;
        let config = mask::config(config, &site.key.machine_id(machine));
        let text = serde_saphyr::to_string(&config).map_err(|error| wrong(error.to_string()))?;
        self.push(Show::Ignition, "Ignition config, as YAML, with the text of its data URLs", text);
        Ok(())
    }

    fn templates(
        &mut self,
        facts: &Facts<'_>,
        profile: &Chosen,
        architecture: Architecture,
        links: &Links,
    ) -> Result<(), Failed> {
        let (machine, agent) = (&*facts.declared.machine, facts.agent_link(links));
        for name in profile.spec.templates.keys() {
            let source = magnetite_catalog::template(profile, name, &facts.declared.config_maps);
            let text = render::template(profile, machine, architecture, (name, source), links, Some(&agent))
                .map_err(|error| failed("templates")(format!("Profile {}: {error}", profile.name_any())))?;
            let title = format!("Template {name}, at {}", facts.masked(&links.template(name)));
            self.push(Show::Templates, title, mask::lines(&facts.masked(&text)));
        }
        Ok(())
    }

    fn join(&mut self, declared: &Declared, profile: &Profile) -> Result<(), Failed> {
        let (machine, join) = (&*declared.machine, &profile.spec.join);
        let node = machine.node_name();
        let text = match join.mode {
            JoinMode::None => "It joins nothing: the agent reports SystemBooted, and the window closes.\n".to_owned(),
            JoinMode::Certificate if !declared.cluster => {
                let why = "a boot server that runs from a folder cannot issue a certificate; set spec.join.mode of the Profile to None";
                return Err(failed("join")(why.to_owned()));
            }
            JoinMode::Certificate => {
                let server = join.api_server.as_deref().unwrap_or("(the controller's --join-api-server)");
                let mut labels = profile.spec.node.labels.clone();
                labels.extend(machine.spec.node_labels.clone());
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let labels = if labels.is_empty() { "none but Magnetite's own".to_owned() } else { labels.join(", ") };
                format!(
                    "Node          {node}\nAPI server    {server}\nCertificate   CN=system:node:{node}, O=system:nodes, for a key that is made on the box\n\
                     Node labels   {labels}\nKubelet       {}\n",
                    if join.kubelet_args.is_empty() {
                        "no further arguments".to_owned()
                    } else {
                        join.kubelet_args.join(" ")
                    },
                )
            }
        };
        self.push(Show::Join, "Join", mask::assignments(&text));
        Ok(())
    }

    /// As a person reads it.
    pub fn text(&self, show: Show, style: Style) -> String {
        let shown = self.stages.iter().filter(|stage| show == Show::All || show == stage.show);
        let each = shown.map(|Stage { show: _, title, text }| {
            let body: String =
                text.lines().map(|line| format!("  {}\n", plain_line(line)).replace("  \n", "\n")).collect();
            format!("{}\n{body}", style.paint(Tone::Bold, plain(title)))
        });
        each.collect::<Vec<_>>().join("\n")
    }
}

/// A line of a config: tabs stay, and nothing moves the cursor.
fn plain_line(line: &str) -> String {
    line.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

fn failed(stage: &'static str) -> impl Fn(String) -> Failed {
    move |why| Failed { stage, why }
}

/// The kind of box that is asked for, or that it was when it was last seen.
fn persona(declared: &Declared, supposed: &Supposed) -> Persona {
    let boot = declared.machine.status.as_ref().and_then(|status| status.boot.as_ref());
    let seen = boot.and_then(|boot| Some((boot.firmware?, boot.architecture?)));
    let kind = supposed.kind.or_else(|| {
        Some(match seen? {
            (Firmware::Bios, _) => Kind::Bios,
            (Firmware::Uefi, Architecture::X86_64) => Kind::Uefi,
            (Firmware::UefiHttp, Architecture::X86_64) => Kind::UefiHttp,
            (Firmware::Uefi, Architecture::Aarch64) => Kind::Arm64,
            (Firmware::UefiHttp, Architecture::Aarch64) => Kind::Arm64Http,
        })
    });
    match kind.unwrap_or(Kind::Uefi) {
        Kind::Bios => Persona::BIOS,
        Kind::Uefi => Persona::UEFI,
        Kind::UefiHttp => Persona::UEFI_HTTP,
        Kind::Arm64 => Persona::ARM64,
        Kind::Arm64Http => Persona::ARM64_HTTP,
    }
}

/// The loaders in a folder, by the names under which they are served.
///
/// # Errors
/// If the folder cannot be read.
pub fn loaders(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::Read(folder.to_owned(), error))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// What the boot servers reported of the Profile's files, as the controller sums it up.
fn files_at_hand(declared: &Declared) -> Result<(), Failed> {
    let status = declared.machine.status.as_ref();
    let found = status.and_then(|status| conditions::find(&status.conditions, PROFILE_READY));
    let bad = [reason::ARTIFACT_FAILED, reason::ARTIFACT_FETCHING];
    match found.filter(|found| found.status == "False" && bad.contains(&found.reason.as_str())) {
        Some(found) => Err(failed("files")(format!("{}: {}", found.reason, found.message))),
        None => Ok(()),
    }
}

fn files(profile: &Profile, architecture: Architecture) -> String {
    let Some(boot) = profile.spec.boot.for_architecture(architecture) else { return String::new() };
    let line = |name: String, artifact: &Artifact| {
        let from = artifact.url.as_deref().or(artifact.file.as_deref()).unwrap_or_default();
        format!("{name:<14} {}  {}\n", artifact.sha256.short(), for_echo(from))
    };
    let initrds = boot.initrds.iter().enumerate().map(|(index, initrd)| line(format!("initrd {index}"), initrd));
    let others = boot.files.iter().map(|(name, file)| line(format!("file {name}"), file));
    std::iter::once(line("kernel".to_owned(), &boot.kernel)).chain(initrds).chain(others).collect()
}
