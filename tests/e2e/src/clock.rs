//! Boxes whose own clock is wrong when they are switched on, and what shows that it was put right before it counted: a certificate
//! that is not good yet, or no more, is refused by whoever looks at dates.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};

use crate::net::SERVER;
use crate::proc::Cmd;
use crate::scenarios::ensure;
use crate::site::Site;
use crate::vm::Vm;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// From switching on to the kernel's look at the clock: firmware, DHCP, the files; and before that, where a system is installed, another boot.
const BOOT: SignedDuration = SignedDuration::from_mins(30);
/// What two clocks may differ by, and still be of one mind.
const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// A box's own clock at the moment in which it is switched on. It runs from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// As it should be.
    Right,
    /// 1970-01-01: the battery is flat.
    Epoch,
    /// So many seconds ahead; behind, if negative.
    Ahead(i64),
}

/// The clocks of R10. Each of them is in a box that some scenario boots to a Node.
pub mod wrong {
    use super::{Clock, DAY, HOUR, MINUTE};

    /// A flat battery. OVMF knows no such year and takes another: for a box with a BIOS.
    pub const EPOCH: Clock = Clock::Epoch;
    /// More than a time zone.
    pub const HALF_A_DAY_BEHIND: Clock = Clock::Ahead(-13 * HOUR);
    /// Just beyond the five minutes that a signer dates back.
    pub const MINUTES_BEHIND: Clock = Clock::Ahead(-6 * MINUTE);
    /// More than a time zone, the other way.
    pub const HALF_A_DAY_AHEAD: Clock = Clock::Ahead(13 * HOUR);
    /// Before any certificate of the site was made.
    pub const MONTH_BEHIND: Clock = Clock::Ahead(-30 * DAY);
    /// Past the end of every certificate that a kubelet is given.
    pub const YEAR_AHEAD: Clock = Clock::Ahead(365 * DAY);
    /// Past the end of an authority.
    pub const TEN_YEARS_AHEAD: Clock = Clock::Ahead(3650 * DAY);
}

impl Clock {
    /// What the clock shows when it is `now`.
    #[must_use]
    pub fn shows(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Right => now,
            Self::Epoch => Timestamp::UNIX_EPOCH,
            Self::Ahead(seconds) => now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now),
        }
    }

    /// How much later than it was told to a box may look at this clock, and still be seen to have had it.
    fn patience(self) -> SignedDuration {
        match self {
            Self::Right | Self::Epoch => BOOT,
            Self::Ahead(seconds) => BOOT.min(SignedDuration::from_secs(seconds.abs() * 2 / 3)),
        }
    }

    /// The same, as QEMU's `-rtc` takes it.
    #[must_use]
    pub fn rtc(self, now: Timestamp) -> String {
        match self {
            Self::Right => "base=utc".to_owned(),
            Self::Epoch | Self::Ahead(_) => format!("base={}", self.shows(now).strftime("%Y-%m-%dT%H:%M:%S")),
        }
    }
}

/// Fails unless a box that is a Node by now woke up with the clock that it was given, set it right, and only then spoke to the API
/// server for the first time since it was switched on. What its kubelet wrote there bears the right time.
pub fn was_put_right(site: &Site, machine: &Vm) -> Result<()> {
    let spec = machine.spec();
    let name = &spec.name;
    let on = machine.on_since().with_context(|| format!("{name} was never switched on"))?;
    let console = machine.console_text();
    let (_, boot) = console.rsplit_once("setting system clock to ").context("the kernel said no time")?;
    let woke = between(boot, "(", ")").and_then(|seconds| Timestamp::from_second(seconds.parse().ok()?).ok());
    let woke = woke.with_context(|| format!("no time in {:?}", boot.lines().next()))?;
    let late = woke.duration_since(spec.clock.shows(on));
    ensure!(
        late > -SLACK && late < spec.clock.patience(),
        "{name} woke up at {woke}; it was switched on at {on} with {:?}",
        spec.clock
    );
    if spec.clock != Clock::Right {
        let (before, after) = boot.split_once("clock set by the boot server's").context("the agent set no clock")?;
        ensure!(!before.contains("kubelet["), "the kubelet of {name} ran before its clock was set");
        let set = between(after, "after=\"", "\"").with_context(|| format!("no time in {:?}", after.lines().next()))?;
        let (set, call) = (set.parse::<Timestamp>()?, first_call(site, &spec.mac, on)?);
        ensure!(
            call.duration_since(set) > -SLACK,
            "{name} called the API server at {call}, and set its clock at {set}"
        );
    }
    let node = site.admin().json(&["get", "node", name])?;
    let conditions = node["status"]["conditions"].as_array().context("the Node has conditions")?;
    let now = Timestamp::now();
    for condition in conditions {
        for field in ["lastHeartbeatTime", "lastTransitionTime"] {
            let at: Timestamp = condition[field].as_str().context("a time")?.parse()?;
            let right = at.duration_since(site.since()) > -SLACK && now.duration_since(at) > -SLACK;
            ensure!(right, "{name} wrote {field} {at} into {}, and it is {now}", condition["type"]);
        }
    }
    Ok(())
}

/// When the box with this MAC asked for its first connection to the API server since a time: as the switch saw it.
fn first_call(site: &Site, mac: &str, since: Timestamp) -> Result<Timestamp> {
    let filter = format!("ether src {mac} and dst host {SERVER} and tcp dst port 6443");
    let lines =
        Cmd::new("tcpdump").args(["-tt", "-n", "-r", &site.capture().file().display().to_string(), &filter]).run()?;
    let second =
        |line: &str| line.split('.').next()?.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
    let mut calls = lines.lines().filter_map(second);
    calls.find(|at| *at >= since).with_context(|| format!("the switch saw no call of {mac} to the API server"))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_is_told_what_a_clock_shows() {
        let now: Timestamp = "2026-11-21T23:30:00.5Z".parse().expect("a time");
        assert_eq!(Clock::Right.rtc(now), "base=utc");
        assert_eq!(wrong::EPOCH.rtc(now), "base=1970-01-01T00:00:00");
        assert_eq!(wrong::MINUTES_BEHIND.rtc(now), "base=2026-11-21T23:24:00");
        assert_eq!(wrong::TEN_YEARS_AHEAD.rtc(now), "base=2036-11-18T23:30:00");
    }
}
