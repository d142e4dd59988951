//! The Debian packages that the lab needs on this machine.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::proc::Cmd;
use crate::progress::Progress;

/// Package, and what the lab wants it for.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86", "the machines"),
    ("qemu-system-arm", "the machine with a 64-bit Arm processor"),
    ("qemu-efi-aarch64", "its firmware"),
    ("u-boot-qemu", "another firmware for it"),
    ("sbsigntool", "signs loaders for Secure Boot"),
    ("python3-venv", "holds the tool that enrolls the lab's keys in firmware"),
    ("seabios", "BIOS firmware"),
    ("ipxe-qemu", "the network card's boot ROM"),
    ("ovmf", "UEFI firmware"),
    ("ipxe", "iPXE for machines whose firmware has none"),
    ("dnsmasq-base", "the site's DHCP server"),
    ("etcd-server", "the cluster's store"),
    ("mmdebstrap", "makes the image that machines boot"),
    ("debian-archive-keyring", "verifies its packages"),
    ("squashfs-tools", "packs it"),
    ("cpio", "packs its initrd"),
    ("mtools", "packs the image that is installed to disks"),
    ("dosfstools", "its first partition"),
    ("fdisk", "its table of partitions"),
    ("e2fsprogs", "its root"),
    ("systemd-boot-efi", "what UEFI starts of it"),
    ("syslinux", "what a BIOS starts of it"),
    ("syslinux-common", "its boot sector"),
    ("zstd", "compresses it"),
    ("kmod", "finds the drivers that it needs"),
    ("xz-utils", "unpacks them"),
    ("iproute2", "network namespaces"),
    ("nftables", "loses packets, as bad networks do"),
    ("kea-dhcp4-server", "a DHCP server for thousands"),
    ("kea-admin", "perfdhcp, which asks for offers and is nobody's of ours"),
    ("tcpdump", "records what went over the wire"),
    ("swtpm", "the machines' TPMs"),
    ("swtpm-tools", "TPMs with their maker's certificate"),
    ("util-linux", "ties child processes to the lab"),
    ("curl", "asks Magnetite's servers as anybody could"),
    ("openssl", "forges the certificate requests that must be refused"),
    ("ca-certificates", "downloads"),
];

/// What the unit tests want of it, which boot no machine.
const NEEDED_BY_TESTS: &[(&str, &str)] =
    &[("swtpm", "TPMs for the agent's tests"), ("swtpm-tools", "TPMs with their maker's certificate")];

/// Installs what the unit tests need and is missing, after saying what it is.
pub fn ensure_for_tests(progress: &Progress) -> Result<()> {
    ensure_these(progress, &Paths::find()?, NEEDED_BY_TESTS)
}

/// Installs what is missing, after saying what it is. Does nothing, without a word to the network,
/// if nothing is.
pub fn ensure(progress: &Progress, paths: &Paths) -> Result<()> {
    ensure_these(progress, paths, NEEDED)
}

/// The same for a list of packages, each with what it is wanted for.
pub fn ensure_these(progress: &Progress, paths: &Paths, needed: &[(&'static str, &'static str)]) -> Result<()> {
    // It does not serve two at once. There is nothing in it that a panic could leave half done.
    static APT: Mutex<()> = Mutex::new(());
    let _installing = APT.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = missing(needed)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("these Debian packages are missing, and only root can install them: {}", names(&missing));
    }
    progress.line("these Debian packages are missing and will be installed:");
    for (package, purpose) in &missing {
        progress.line(format!("  {package:24} {purpose}"));
    }
    let step = progress.step(format!("installing {} packages", missing.len()));
    std::fs::create_dir_all(paths.lab()).context("make the lab's folder")?;
    let log = paths.lab().join("apt.log");
    let no_services = NoServices::put()?;
    let apt = |args: &[&str]| Cmd::new("apt-get").args(args.iter().copied()).env("DEBIAN_FRONTEND", "noninteractive");
    apt(&["update", "-q"]).run_watched(&step, &log)?;
    // A fresh machine may be updating itself just now.
    apt(&["install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"])
        .args(missing.iter().map(|(package, _)| *package))
        .run_watched(&step, &log)?;
    drop(no_services);
    step.done(names(&missing));
    Ok(())
}

fn missing(needed: &[(&'static str, &'static str)]) -> Result<Vec<(&'static str, &'static str)>> {
    // dpkg-query fails if it does not know one of the names, and still tells about the others.
    let known = Cmd::new("sh")
        .args(["-c", "dpkg-query -W -f '${Package} ${db:Status-Status}\\n' \"$@\" 2>/dev/null || :", "sh"])
        .args(needed.iter().map(|(package, _)| *package))
        .run()
        .context("ask dpkg; the lab runs on Debian and its relatives")?;
    let installed = |package: &str| known.lines().any(|line| line == format!("{package} installed"));
    Ok(needed.iter().copied().filter(|(package, _)| !installed(package)).collect())
}

fn names(packages: &[(&str, &str)]) -> String {
    packages.iter().map(|(package, _)| *package).collect::<Vec<_>>().join(" ")
}

/// Keeps packages from starting services while they are installed: Debian's etcd-server would start
/// an etcd on this machine's own ports. Undone when dropped; a policy that was there stays.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn put() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let path = Path::new(POLICY);
        let ours = !path.exists();
        if ours {
            std::fs::write(path, "#!/bin/sh\nexit 101\n").context("write policy-rc.d")?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // Nothing better can be done than to try.
            drop(std::fs::remove_file(POLICY));
        }
    }
}

/// Downloads packages of another suite and unpacks them below `root`, with lists of their own below `dir`, so that this machine's apt stays as
/// it is.
pub fn download(suite: &str, packages: &[&str], dir: &Path, root: &Path) -> Result<()> {
    for folder in ["lists/partial", "cache/archives/partial", "etc/parts", "debs"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    let mirror = debian_mirror()?;
    let source = format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n");
    std::fs::write(dir.join("etc/sources.list"), source)?;
    std::fs::write(dir.join("status"), "")?;
    let option = |name: &str, file: &str| format!("-oDir::{name}={}", dir.join(file).display());
    let options = [
        option("State::lists", "lists"),
        option("State::status", "status"),
        option("Cache", "cache"),
        option("Etc::sourcelist", "etc/sources.list"),
        option("Etc::sourceparts", "etc/parts"),
        option("Etc::preferencesparts", "etc/parts"),
        "-oAPT::Sandbox::User=root".to_owned(),
        "-oAcquire::Languages=none".to_owned(),
        // A mirror of sid may be behind by more than the week that its lists are good for. They are signed all the same.
        format!("-oAcquire::Check-Valid-Until={}", suite != "sid"),
    ];
    let apt = || Cmd::new("apt-get").args(options.clone()).timeout(std::time::Duration::from_secs(600));
    apt().args(["update", "-q"]).run()?;
    apt().dir(dir.join("debs")).args(["download", "-q"]).args(packages.iter().copied()).run()?;
    for deb in std::fs::read_dir(dir.join("debs"))? {
        let (deb, root) = (deb?.path().display().to_string(), root.display().to_string());
        Cmd::new("dpkg-deb").args(["-x", &deb, &root]).run()?;
    }
    std::fs::remove_dir_all(dir).context("remove the lists")
}

/// The Debian mirror that this machine's apt uses for Debian's main archive. The lab has no mirror
/// of its own: whoever runs it has chosen one already.
pub fn debian_mirror() -> Result<String> {
    let look = || -> Result<Option<String>> {
        let targets = Cmd::new("apt-get")
            .args(["indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL) $(COMPONENT) $(CREATED_BY)"])
            .run()?;
        Ok(targets.lines().find_map(|line| {
            // The security archive has another label, third parties have another origin.
            let rest = line.strip_suffix(" Debian Debian main Packages")?;
            Some(rest.trim_end_matches('/').to_owned())
        }))
    };
    if let Some(site) = look()? {
        return Ok(site);
    }
    // Origin and label come with the lists, which a fresh machine does not have yet.
    Cmd::new("apt-get").args(["update", "-q"]).timeout(std::time::Duration::from_secs(600)).run()?;
    look()?.context("this machine's apt sources have no Debian main archive")
}
