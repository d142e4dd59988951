//! What went over the wire, for the run's folder: everything that is not TCP (DHCP, TFTP, ARP,
//! neighbour discovery), and of TCP what tells the story (the ends of connections, and the first
//! bytes of HTTP requests and responses), because a machine's root file system is 130 MB.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::proc::{Cmd, Process};
use crate::wait;

const FILTER: &str = "not tcp or tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0 \
    or tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420 \
    or tcp[((tcp[12] & 0xf0) >> 2):4] = 0x48454144 \
    or tcp[((tcp[12] & 0xf0) >> 2):4] = 0x504f5354 \
    or tcp[((tcp[12] & 0xf0) >> 2):4] = 0x48545450";

/// A capture of the whole switch, until it is dropped.
pub struct Capture {
    file: PathBuf,
    process: Process,
}

impl Capture {
    /// Starts to capture `interface` in `netns` to `file`.
    pub fn start(netns: &str, interface: &str, file: &Path, logs: &Path) -> Result<Self> {
        let name = file.file_stem().map_or("capture".into(), |stem| stem.to_string_lossy());
        let mut process = Cmd::new("tcpdump")
            .netns(netns)
            // -U: the file is whole at any moment; -Z root: it stays the lab's.
            .args(["-i", interface, "-U", "-Z", "root", "-s", "2000", "-w"])
            .arg(file.display().to_string())
            .arg(FILTER)
            .spawn(format!("tcpdump {name}"), &logs.join(format!("tcpdump-{name}.log")))?;
        wait::until("tcpdump", Duration::from_secs(10), || {
            process.check()?;
            Ok(process.output().contains("listening on").then_some(()))
        })?;
        Ok(Self { file: file.to_owned(), process })
    }

    /// The capture file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends the capture.
    pub fn stop(self) -> PathBuf {
        self.process.stop();
        self.file
    }
}
