//! Wipes a disk: by the drive's own means where the running system has the tool for it, and then, whatever that did, until it reads as zeros.

use std::{io, path::Path, process::Command};

use magnetite_api::install::WipeMethod;

use crate::{device::Disk, sparse::HEAD, target::Target};

/// How many places are read back, beside beginning and end.
const SAMPLES: u64 = 64;
/// Bytes that are read at one place.
const SAMPLE: usize = 64 << 10;
/// What is zeroed between two words about progress.
const AT_ONCE: u64 = 1 << 30;

/// Why a disk is not wiped.
#[derive(Debug, thiserror::Error)]
pub enum WipeError {
    /// The disk does not do it.
    #[error("the disk failed while {doing} at byte {at}")]
    Disk {
        /// What was done.
        doing: &'static str,
        /// Where.
        at: u64,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It says that it did and did not.
    #[error("byte {at} is not zero although the disk said that it was zeroed")]
    NotZero {
        /// Where.
        at: u64,
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiped {
    /// What made it read as zeros.
    pub method: WipeMethod,
    /// How many bytes were read back and were zero.
    pub verified: u64,
}

/// Makes a whole disk read as zeros, and reads samples of it back. `progress` is told how many bytes are done.
pub fn zero(target: &mut dyn Target, progress: &mut dyn FnMut(u64)) -> Result<Wiped, WipeError> {
    let size = target.size();
    let on_disk = |doing, at| move |source| WipeError::Disk { doing, at, source };
    // First what makes it bootable or findable: where the power fails now, no half of an old system starts.
    let edge = size.min(HEAD);
    let mut method = target.zero(0, edge).map_err(on_disk("being zeroed", 0))?;
    target.zero(size - edge, edge).map_err(on_disk("being zeroed", size - edge))?;
    target.sync().map_err(on_disk("being synced", 0))?;
    let mut at = 0;
    while at < size {
        let length = (size - at).min(AT_ONCE);
        method = target.zero(at, length).map_err(on_disk("being zeroed", at))?;
        at += length;
        progress(at);
    }
    target.sync().map_err(on_disk("being synced", 0))?;
    Ok(Wiped { method, verified: read_back(target)? })
}

/// Reads the beginning, the end, and places between; says how many bytes.
fn read_back(target: &mut dyn Target) -> Result<u64, WipeError> {
    let size = target.size();
    let edge = size.min(HEAD);
    let sample = size.min(SAMPLE as u64);
    let places = (1..=SAMPLES).map(|number| ((size - sample) / (SAMPLES + 1) * number, sample));
    let mut verified = 0;
    let mut buffer = vec![0; HEAD as usize];
    for (at, length) in [(0, edge), (size - edge, edge)].into_iter().chain(places) {
        let part = &mut buffer[..usize::try_from(length).unwrap_or(0)];
        target.read_at(at, part).map_err(|source| WipeError::Disk { doing: "being read back", at, source })?;
        if let Some(found) = part.iter().position(|byte| *byte != 0) {
            return Err(WipeError::NotZero { at: at + found as u64 });
        }
        verified += length;
    }
    Ok(verified)
}

/// Runs a tool of the running system: says what it printed, or none if it is not there or failed.
pub trait Tools {
    /// Program and arguments.
    fn run(&self, program: &str, arguments: &[&str]) -> Option<String>;
}

/// The tools of the system that this runs on.
#[derive(Debug, Clone, Copy)]
pub struct SystemTools;

impl Tools for SystemTools {
    fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Lets a drive erase itself, blocks that no longer have a number included, where it can and the tool is there. What it cannot is no error:
/// the disk is zeroed anyway.
pub fn erase(disk: &Disk, tools: &dyn Tools) -> Option<WipeMethod> {
    let device = Path::new("/dev").join(&disk.name);
    let device = device.to_str()?;
    if disk.name.starts_with("nvme") {
        tools.run("nvme", &["format", device, "--ses=1", "--force"])?;
        return Some(WipeMethod::NvmeFormat);
    }
    if !disk.ata || !can_erase(&tools.run("hdparm", &["-I", device])?) {
        return None;
    }
    // The drive wants a password before it erases, and forgets it once it did. One that did not is told to forget it.
    tools.run("hdparm", &["--user-master", "u", "--security-set-pass", "magnetite", device])?;
    if tools.run("hdparm", &["--user-master", "u", "--security-erase", "magnetite", device]).is_none() {
        tools.run("hdparm", &["--user-master", "u", "--security-disable", "magnetite", device]);
        return None;
    }
    Some(WipeMethod::AtaSecureErase)
}

/// By what `hdparm -I` prints of a drive's security: it has it, and neither a password nor the firmware is in the way.
fn can_erase(printed: &str) -> bool {
    let security = printed.lines().skip_while(|line| !line.starts_with("Security:")).skip(1);
    let lines: Vec<String> = security.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    ["supported", "not enabled", "not locked", "not frozen"]
        .iter()
        .all(|wanted| lines.iter().any(|line| line == wanted))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Answers from a table, and remembers what it was asked.
    struct Fixed<'a>(&'a [(&'a str, &'a str)], RefCell<Vec<String>>);

    impl Tools for Fixed<'_> {
        fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
            let line = format!("{program} {}", arguments.join(" "));
            self.1.borrow_mut().push(line.clone());
            self.0.iter().find(|(begins, _)| line.starts_with(begins)).map(|(_, said)| (*said).to_owned())
        }
    }

    const SECURE: &str = "/dev/sda:\nSecurity: \n\tMaster password revision code = 65534\n\t\tsupported\n\tnot\tenabled\n\tnot\tlocked\n\tnot\tfrozen\n\tnot\texpired: security count\n\t\tsupported: enhanced erase\n";

    #[test]
    fn a_drive_erases_itself_where_it_can() {
        let sda = Disk { name: "sda".into(), ata: true, ..Disk::default() };
        let nvme = Disk { name: "nvme0n1".into(), ..Disk::default() };
        let frozen = SECURE.replace("not\tfrozen", "frozen");
        let set = "hdparm --user-master u --security-set-pass";
        let rest = "hdparm --user-master u --security-erase";
        for (disk, answers, want, last) in [
            (
                &nvme,
                vec![("nvme format", "Success")],
                Some(WipeMethod::NvmeFormat),
                "nvme format /dev/nvme0n1 --ses=1 --force",
            ),
            (&nvme, vec![], None, "nvme format /dev/nvme0n1 --ses=1 --force"),
            (
                &sda,
                vec![("hdparm -I", SECURE), (set, ""), (rest, "")],
                Some(WipeMethod::AtaSecureErase),
                "hdparm --user-master u --security-erase magnetite /dev/sda",
            ),
            (
                &sda,
                vec![("hdparm -I", SECURE), (set, "")],
                None,
                "hdparm --user-master u --security-disable magnetite /dev/sda",
            ),
            (&sda, vec![("hdparm -I", frozen.as_str())], None, "hdparm -I /dev/sda"),
        ] {
            let tools = Fixed(&answers, RefCell::default());
            assert_eq!(erase(disk, &tools), want);
            assert_eq!(tools.1.borrow().last().map(String::as_str), Some(last));
        }
        let tools = Fixed(&[], RefCell::default());
        assert_eq!(erase(&Disk { name: "vda".into(), ..Disk::default() }, &tools), None);
        assert!(tools.1.borrow().is_empty(), "no tool is for it");
    }
}
