//! Loaders that this machine's own Debian does not have: iPXE for 64-bit Arm, and an iPXE and a shim for Secure Boot, signed with keys
//! that the lab makes, with firmware variables that trust them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt;
use crate::paths::Paths;
use crate::proc::Cmd;
use crate::progress::Progress;
use crate::stamp::{self, Recipe};

/// The suite whose iPXE is new enough: it knows Arm, carries SBAT data for shim, and asks for autoexec.ipxe.
const SUITE: &str = "trixie";
/// Writes firmware variables; the version is pinned because its command line is no promise.
const VIRT_FIRMWARE: &str = "virt-firmware==26.10";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Owner of the lab's keys in the firmware's lists: any GUID will do.
const OWNER: &str = "9a3e3d2c-6a4a-4f4b-8d7a-2f6d61676e65";

/// The folders.
#[derive(Debug, Clone)]
pub struct Loaders {
    /// iPXE of [`SUITE`], and beside it loaders that fail.
    pub ipxe: PathBuf,
    /// What a user fills `--secure-boot-dir` with, signed by the lab instead of Microsoft and iPXE.
    pub secure_boot: PathBuf,
    /// Variables of OVMF that trust the lab's keys and nothing else.
    pub secure_vars: PathBuf,
}

/// Makes, or finds, them.
pub fn ensure(progress: &Progress, paths: &Paths) -> Result<Loaders> {
    let dir = paths.lab().join("loaders");
    let recipe = Recipe::default().with(SUITE).with(VIRT_FIRMWARE).with(include_str!("loaders.rs")).hash();
    if !stamp::is_fresh(&dir, &recipe) {
        let step = progress.step("fetching iPXE and shim for Arm and Secure Boot, and signing them");
        stamp::ensure(&dir, &recipe, |dir| {
            step.note("packages");
            let root = dir.join("root");
            apt::download(SUITE, &["ipxe", "shim-unsigned"], &dir.join("apt"), &root)?;
            std::fs::rename(root.join("usr/lib/ipxe"), dir.join("ipxe")).context("find iPXE in its package")?;
            step.note("keys");
            let keys = dir.join("keys");
            std::fs::create_dir_all(&keys)?;
            for name in ["pk", "kek", "db"] {
                key(&keys, name)?;
            }
            step.note("signatures");
            let signed = dir.join("secure-boot");
            std::fs::create_dir_all(&signed)?;
            // iPXE's own shim would look for ipxe.efi beside itself; Debian's looks for the name that GRUB has.
            sign(&keys, &root.join("usr/lib/shim/shimx64.efi"), &signed.join("ipxe-shimx64.efi"))?;
            sign(&keys, &dir.join("ipxe/ipxe.efi"), &signed.join("grubx64.efi"))?;
            step.note("firmware variables");
            variables(dir, &keys)?;
            std::fs::remove_dir_all(&root).context("remove what is not needed")
        })?;
        step.done(dir.display().to_string());
    }
    Ok(Loaders {
        ipxe: dir.join("ipxe"),
        secure_boot: dir.join("secure-boot"),
        secure_vars: dir.join("secure-vars.fd"),
    })
}

fn key(keys: &Path, name: &str) -> Result<()> {
    let file = |ending: &str| keys.join(format!("{name}.{ending}")).display().to_string();
    Cmd::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-sha256"])
        .args(["-subj".to_owned(), format!("/CN=Magnetite lab {name}/")])
        .args(["-keyout".to_owned(), file("key"), "-out".to_owned(), file("pem")])
        .run()
        .map(drop)
}

fn sign(keys: &Path, image: &Path, signed: &Path) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    Cmd::new("sbsign")
        .args(["--key".to_owned(), text(&keys.join("db.key")), "--cert".to_owned(), text(&keys.join("db.pem"))])
        .args(["--output".to_owned(), text(signed), text(image)])
        .run()
        .map(drop)
}

/// OVMF's variables with the lab's keys enrolled and Secure Boot on. virt-firmware is not in this Debian; it comes from Python's
/// registry into a folder of its own.
fn variables(dir: &Path, keys: &Path) -> Result<()> {
    let venv = dir.join("venv");
    Cmd::new("python3").args(["-m", "venv", &venv.display().to_string()]).run()?;
    Cmd::new(venv.join("bin/pip")).args(["install", "--quiet", VIRT_FIRMWARE]).run()?;
    let pem = |name: &str| keys.join(format!("{name}.pem")).display().to_string();
    Cmd::new(venv.join("bin/virt-fw-vars"))
        .args(["--input", OVMF_VARS, "--output", &dir.join("secure-vars.fd").display().to_string()])
        .args(["--set-pk", OWNER, &pem("pk"), "--add-kek", OWNER, &pem("kek"), "--add-db", OWNER, &pem("db")])
        .arg("--secure-boot")
        .run()?;
    std::fs::remove_dir_all(venv).context("remove virt-firmware")
}
