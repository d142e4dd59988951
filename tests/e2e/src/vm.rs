//! A machine: QEMU with real firmware, a network card, and nothing to boot from but the network.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::clock::Clock;
use crate::net::{Network, SOCKETS};
use crate::proc::{Cmd, Process, tail};
use crate::wait;

/// Code and variables of a UEFI firmware, as Debian's packages have them.
const OVMF: (&str, &str) = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd");
/// The same, built to enforce Secure Boot; its variables come from the lab.
const OVMF_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
const UBOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";
const AAVMF: (&str, &str) = ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd");

/// cx16=off: under TCG with two processors, 6.12 kernels die in cmpxchg16b.
const X86: &str = "qemu64,cx16=off";

/// What a machine starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS; the network card has a boot ROM, which is iPXE.
    Bios,
    /// OVMF; the card has no ROM, so the firmware's own PXE client boots.
    Uefi,
    /// OVMF with its PXE client off: UEFI HTTP Boot.
    UefiHttp,
    /// OVMF that starts only what is signed by a key in its variables.
    SecureBoot,
    /// The same as [`Firmware::Uefi`], for a 64-bit Arm processor.
    Arm64,
    /// U-Boot for a 64-bit Arm processor. It knows no proxy: who answers it must give it an address too.
    UBoot,
    /// OVMF without PXE over IPv4: PXE over IPv6.
    UefiIpv6,
    /// OVMF with its PXE client off, and nothing that would answer HTTP Boot over IPv4: HTTP Boot over IPv6, once it has
    /// given that up. OVMF has no setting to leave it out.
    UefiHttpIpv6,
}

impl Firmware {
    /// Code and variables, if it is UEFI.
    fn files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios | Self::UBoot => None,
            Self::Uefi | Self::UefiHttp | Self::UefiIpv6 | Self::UefiHttpIpv6 => Some(OVMF),
            Self::SecureBoot => Some((OVMF_SECURE, OVMF.1)),
            Self::Arm64 => Some(AAVMF),
        }
    }

    /// What OVMF is told not to do.
    fn without(self) -> &'static [&'static str] {
        match self {
            Self::Bios | Self::Uefi | Self::SecureBoot | Self::Arm64 | Self::UBoot => &[],
            Self::UefiHttp | Self::UefiHttpIpv6 => &["IPv4PXESupport", "IPv6PXESupport"],
            Self::UefiIpv6 => &["IPv4PXESupport"],
        }
    }
}

/// The network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// QEMU's own.
    Virtio,
    /// Intel's 82540, as old servers have it.
    E1000,
}

/// What a machine's firmware tries to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// The network, again and again.
    Network,
    /// The network, then the disk.
    NetworkFirst,
    /// The disk, then the network.
    DiskFirst,
    /// The disk and nothing else, unless it is told to boot from the network once.
    Disk,
}

/// A machine as it stands in the rack.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Its name in the lab: of its files, and in messages.
    pub name: String,
    /// Its firmware.
    pub firmware: Firmware,
    /// Its place in the rack, from 0: the port of the switch.
    pub port: u8,
    /// The network card's address.
    pub mac: String,
    /// The firmware's UUID (SMBIOS).
    pub uuid: String,
    /// The serial number on its label (SMBIOS).
    pub serial: String,
    /// Memory, MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// The size of its disk, MiB, if it has one (`/dev/vda`).
    pub disk: Option<u32>,
    /// What its firmware tries, and in which order.
    pub boots: Boots,
    /// Whether it has a TPM 2.0.
    pub tpm: bool,
    /// Its network card.
    pub card: Card,
    /// The firmware's code. Default: that of this Debian.
    pub code: Option<PathBuf>,
    /// The firmware's variables that it starts with. Default: those that its firmware comes with.
    pub variables: Option<PathBuf>,
    /// The authorities that OVMF trusts for HTTPS, as it takes them from QEMU (EFI_SIGNATURE_LIST). Default: none.
    pub authorities: Option<PathBuf>,
    /// Its own clock, at each moment in which it is switched on.
    pub clock: Clock,
}

impl VmSpec {
    /// A machine with addresses that follow from its place.
    #[must_use]
    pub fn new(name: &str, firmware: Firmware, port: u8) -> Self {
        Self {
            name: name.to_owned(),
            firmware,
            port,
            mac: format!("52:54:00:30:00:{:02x}", port + 16),
            uuid: format!("3f0d2c5e-1d2b-4c3a-9f00-0000000000{port:02x}"),
            serial: format!("LAB{port:04}"),
            memory: 1536,
            // The host has two for everything. And a kernel with two once stopped in the watch over its clocks (add_timer_on in
            // clocksource_watchdog): threads of QEMU that wait for each other's turn are no processors.
            cpus: 1,
            disk: None,
            boots: Boots::Network,
            tpm: false,
            card: Card::Virtio,
            code: None,
            variables: None,
            authorities: None,
            clock: Clock::Right,
        }
    }

    /// With another network card.
    #[must_use]
    pub fn with_card(mut self, card: Card) -> Self {
        self.card = card;
        self
    }

    /// With another build of its firmware, and the variables that go with that.
    #[must_use]
    pub fn with_firmware(mut self, code: &Path, variables: &Path) -> Self {
        self.code = Some(code.to_owned());
        self.with_variables(variables)
    }

    /// With variables of the firmware, in which keys are enrolled.
    #[must_use]
    pub fn with_variables(mut self, file: &Path) -> Self {
        self.variables = Some(file.to_owned());
        self
    }

    /// With authorities that the firmware trusts for HTTPS.
    #[must_use]
    pub fn with_authorities(mut self, file: &Path) -> Self {
        self.authorities = Some(file.to_owned());
        self
    }

    /// With a disk of so many MiB.
    #[must_use]
    pub fn with_disk(mut self, mib: u32) -> Self {
        self.disk = Some(mib);
        self
    }

    /// The serial number of its disk, as the system in it sees it.
    #[must_use]
    pub fn disk_serial(&self) -> String {
        format!("{}-d0", self.serial)
    }

    /// With a firmware that tries the disk once the network gave up, or the other way round.
    #[must_use]
    pub fn booting(mut self, boots: Boots) -> Self {
        self.boots = boots;
        self
    }

    /// With a clock that is wrong whenever it is switched on.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// With a TPM 2.0: one that nobody else has.
    #[must_use]
    pub fn with_tpm(mut self) -> Self {
        self.tpm = true;
        self
    }

    /// With so many processors. More machines than one at a time are faster with one each.
    #[must_use]
    pub fn with_cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// With so much memory, in MiB.
    #[must_use]
    pub fn with_memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }
}

/// A machine that can be switched on and off. Its disk and its firmware's variables outlast that;
/// they end with the value.
pub struct Vm {
    spec: VmSpec,
    netns: String,
    dir: PathBuf,
    scratch: PathBuf,
    process: Option<Process>,
    tpm: Option<Process>,
    on_since: Option<Timestamp>,
    /// The next boot, and only that, is from the network.
    network_once: bool,
}

impl Vm {
    /// Puts a machine into the rack, switched off. Its console goes to `dir`.
    pub fn create(spec: VmSpec, network: &Network, dir: &Path) -> Result<Self> {
        let scratch = dir.join(format!(".{}", spec.name));
        std::fs::create_dir_all(&scratch)?;
        if let Some((_, variables)) = spec.firmware.files() {
            let variables = spec.variables.as_deref().unwrap_or(Path::new(variables));
            std::fs::copy(variables, scratch.join("vars.fd")).context("copy the firmware's variables")?;
        }
        if let Some(mib) = spec.disk {
            let disk = std::fs::File::create(scratch.join("disk.raw")).context("make a disk")?;
            disk.set_len(u64::from(mib) << 20)?;
        }
        std::fs::create_dir_all(scratch.join("tpm"))?;
        Ok(Self {
            netns: network.switch(),
            dir: dir.to_owned(),
            scratch,
            spec,
            process: None,
            tpm: None,
            on_since: None,
            network_once: false,
        })
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// Switches it on. Does nothing if it is on.
    pub fn power_on(&mut self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        // A stale socket would be refused by QEMU.
        drop(std::fs::remove_file(self.monitor()));
        if self.spec.tpm {
            self.start_tpm()?;
        }
        let log = self.dir.join("logs").join(format!("qemu-{}.log", self.spec.name));
        let now = Timestamp::now();
        self.on_since = Some(now);
        let mut process = self.command(now).spawn(format!("qemu {}", self.spec.name), &log)?;
        let monitor = self.monitor();
        wait::until("QEMU's monitor", Duration::from_secs(20), || {
            process.check()?;
            Ok(monitor.exists().then_some(()))
        })?;
        // A machine has no last wishes: QEMU may go at once.
        self.process = Some(process.grace(Duration::ZERO));
        self.network_once = false;
        Ok(())
    }

    /// Pulls the plug.
    pub fn power_off(&mut self) {
        // The TPM goes after the machine, which would complain.
        for process in [self.process.take(), self.tpm.take()].into_iter().flatten() {
            process.stop();
        }
    }

    /// Where its TPM keeps what makes it that TPM. It may be looked at while the machine is off.
    #[must_use]
    pub fn tpm_state(&self) -> PathBuf {
        self.scratch.join("tpm")
    }

    /// Another TPM in the machine's place, as if its disk went into another box. The machine must be off.
    pub fn replace_tpm(&mut self) -> Result<()> {
        std::fs::remove_dir_all(self.tpm_state()).context("remove the TPM's state")?;
        std::fs::create_dir(self.tpm_state()).context("make room for a TPM's state")
    }

    fn tpm_socket(&self) -> PathBuf {
        Path::new(SOCKETS).join(format!("{}-{}.tpm", self.netns, self.spec.name))
    }

    fn start_tpm(&mut self) -> Result<()> {
        let socket = self.tpm_socket();
        drop(std::fs::remove_file(&socket));
        let log = self.dir.join("logs").join(format!("swtpm-{}.log", self.spec.name));
        let mut process = Cmd::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", self.tpm_state().display())])
            .args(["--ctrl", &format!("type=unixio,path={}", socket.display())])
            .spawn(format!("swtpm {}", self.spec.name), &log)?;
        wait::until("the TPM", Duration::from_secs(20), || {
            process.check()?;
            Ok(socket.exists().then_some(()))
        })?;
        self.tpm = Some(process);
        Ok(())
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        if self.network_once && self.spec.boots == Boots::Disk {
            // QEMU's boot order is fixed while it runs.
            self.power_off();
            return self.power_on();
        }
        self.network_once = false;
        self.tell("system_reset")
    }

    /// When it was last switched on.
    #[must_use]
    pub fn on_since(&self) -> Option<Timestamp> {
        self.on_since
    }

    /// Its disk, as this machine sees it. Nothing is to be written to it while the machine is on.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.scratch.join("disk.raw")
    }

    /// Changes what its firmware tries. The machine must be off.
    pub fn set_boots(&mut self, boots: Boots) {
        self.spec.boots = boots;
    }

    /// Presses the power button, as a person does who wants the system to shut down.
    pub fn press_power_button(&mut self) -> Result<()> {
        self.tell("system_powerdown")
    }

    /// The next boot, and only that, is from the network; or is not.
    pub fn boot_network_once(&mut self, network: bool) {
        self.network_once = network;
    }

    /// Whether it would boot from the network if it were switched on now.
    #[must_use]
    pub fn boots_network_next(&self) -> bool {
        self.network_once || self.spec.boots != Boots::Disk
    }

    /// Whether it is on. A machine that switched itself off is off.
    pub fn is_on(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// The serial console's file; it goes on over resets and power cycles.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join(format!("{}.serial", self.spec.name))
    }

    /// All that it has written to its serial console, without terminal sequences.
    #[must_use]
    pub fn console_text(&self) -> String {
        let bytes = std::fs::read(self.console()).unwrap_or_default();
        plain(&String::from_utf8_lossy(&bytes))
    }

    /// Waits until the console has `text`. The BIOS wraps lines at 80 columns: ask for short texts.
    pub fn wait_console(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let what = format!("{:?} on the console of {}", text, self.spec.name);
        let result = wait::until(&what, timeout, || {
            if self.console_text().contains(text) {
                return Ok(Some(()));
            }
            if !self.is_on() {
                bail!("{} is off", self.spec.name);
            }
            Ok(None)
        });
        result.with_context(|| format!("its console ends:\n{}", tail(&self.console_text(), 15)))
    }

    fn monitor(&self) -> PathBuf {
        Path::new(SOCKETS).join(format!("{}-{}.monitor", self.netns, self.spec.name))
    }

    fn tell(&self, command: &str) -> Result<()> {
        let mut socket =
            UnixStream::connect(self.monitor()).with_context(|| format!("reach the monitor of {}", self.spec.name))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        // QEMU reads a command after it has shown its prompt, and has carried it out when it shows
        // the next one. Who hangs up before that may not be heard.
        read_prompt(&mut socket)?;
        writeln!(socket, "{command}")?;
        read_prompt(&mut socket)?;
        Ok(())
    }

    fn command(&self, now: Timestamp) -> Cmd {
        let spec = &self.spec;
        let scratch = self.scratch.display();
        let (qemu, machine, cpu) = match spec.firmware {
            // graphics=off sends SeaBIOS's and the ROM's screen to the serial port.
            Firmware::Bios => ("x86_64", "pc,graphics=off,accel=tcg", X86),
            Firmware::Uefi | Firmware::UefiHttp | Firmware::UefiIpv6 | Firmware::UefiHttpIpv6 => {
                ("x86_64", "q35,accel=tcg", X86)
            }
            // Variables that the system cannot write past the firmware need system management mode.
            Firmware::SecureBoot => ("x86_64", "q35,smm=on,accel=tcg", X86),
            Firmware::Arm64 | Firmware::UBoot => ("aarch64", "virt,accel=tcg", "cortex-a57"),
        };
        let kind = match spec.card {
            Card::Virtio => "virtio-net-pci",
            Card::E1000 => "e1000",
        };
        let (card_index, disk_index) = match spec.boots {
            // Its next boot is from the network anyway. QEMU's order is that of all its boots until it is switched off.
            Boots::NetworkFirst => (Some(1), Some(2)),
            Boots::Network => (Some(1), None),
            Boots::DiskFirst | Boots::Disk if self.network_once => (Some(1), None),
            Boots::DiskFirst => (Some(2), Some(1)),
            Boots::Disk => (None, Some(1)),
        };
        let index = |index: Option<u8>| index.map_or(String::new(), |index| format!(",bootindex={index}"));
        let mut card = format!("{kind},netdev=n0,mac={}{}", spec.mac, index(card_index));
        let mut cmd = Cmd::new(format!("qemu-system-{qemu}")).netns(&self.netns);
        cmd = cmd.args(["-machine", machine, "-cpu", cpu, "-rtc", &spec.clock.rtc(now)]);
        cmd = cmd.args(["-m", &spec.memory.to_string(), "-smp", &spec.cpus.to_string()]);
        cmd = cmd.args(["-display", "none", "-nodefaults", "-uuid", &spec.uuid, "-smbios"]);
        cmd = cmd.arg(format!("type=1,manufacturer=Magnetite,product=Lab,serial={},uuid={}", spec.serial, spec.uuid));
        // What a server does when nothing answered: try again.
        if !matches!(spec.firmware, Firmware::Arm64 | Firmware::UBoot) {
            cmd = cmd.args(["-boot", "strict=on,reboot-timeout=3000"]);
        }
        cmd = cmd.arg("-chardev").arg(format!("file,id=console,append=on,path={}", self.console().display()));
        cmd = cmd.args(["-serial", "chardev:console", "-monitor"]);
        cmd = cmd.arg(format!("unix:{},server=on,wait=off", self.monitor().display()));
        if let Some((code, _)) = spec.firmware.files() {
            card.push_str(",romfile=");
            let code = spec.code.as_deref().unwrap_or(Path::new(code)).display();
            cmd = cmd.arg("-drive").arg(format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"));
            cmd = cmd.arg("-drive").arg(format!("if=pflash,format=raw,unit=1,file={scratch}/vars.fd"));
        }
        if spec.firmware == Firmware::UBoot {
            cmd = cmd.args(["-bios", UBOOT]);
        }
        if spec.firmware == Firmware::SecureBoot {
            cmd = cmd.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            cmd = cmd.args(["-global", "ICH9-LPC.disable_s3=1"]);
        }
        // A firmware that goes on to its disk first tries all that its card can do, and waits for minutes where nobody speaks IPv6.
        let patient = spec.firmware == Firmware::Uefi && spec.boots != Boots::Network;
        for protocol in spec.firmware.without().iter().chain(patient.then_some(&"IPv6PXESupport")) {
            cmd = cmd.arg("-fw_cfg").arg(format!("name=opt/org.tianocore/{protocol},string=n"));
        }
        if let Some(file) = &spec.authorities {
            cmd = cmd.arg("-fw_cfg").arg(format!("name=etc/edk2/https/cacerts,file={}", file.display()));
        }
        let tap = Network::tap(spec.port);
        cmd = cmd.arg("-netdev").arg(format!("tap,id=n0,ifname={tap},script=no,downscript=no"));
        // Newer OVMF has no network boot without a source of randomness; Linux starts faster with it.
        cmd = cmd.args(["-device", &card, "-device", "virtio-rng-pci"]);
        if spec.tpm {
            cmd = cmd.arg("-chardev").arg(format!("socket,id=tpm,path={}", self.tpm_socket().display()));
            cmd = cmd.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"]);
        }
        if spec.disk.is_some() {
            cmd = cmd.arg("-drive").arg(format!("if=none,id=disk,format=raw,cache=unsafe,file={scratch}/disk.raw"));
            let (serial, index) = (spec.disk_serial(), index(disk_index));
            cmd = cmd.arg("-device").arg(format!("virtio-blk-pci,drive=disk,serial={serial}{index}"));
        }
        cmd
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.power_off();
        drop(std::fs::remove_file(self.monitor()));
        drop(std::fs::remove_file(self.tpm_socket()));
        drop(std::fs::remove_dir_all(&self.scratch));
    }
}

fn read_prompt(socket: &mut UnixStream) -> Result<()> {
    let mut text = String::new();
    let mut buffer = [0u8; 512];
    while !text.contains("(qemu) ") {
        let count = socket.read(&mut buffer).context("read from QEMU's monitor")?;
        if count == 0 {
            bail!("QEMU's monitor hung up");
        }
        text.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
    }
    Ok(())
}

/// Text without the terminal's escape sequences, which firmware writes by the hundred.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => {
                if chars.next() == Some('[') {
                    // Parameters, then one final letter.
                    for char in chars.by_ref() {
                        if ('@'..='~').contains(&char) {
                            break;
                        }
                    }
                }
            }
            '\r' | '\0' => {}
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read_without_its_colours() {
        assert_eq!(plain("\x1b[2J\x1b[01;01Hnext\x1b[0m-server\r\n"), "next-server\n");
    }
}
