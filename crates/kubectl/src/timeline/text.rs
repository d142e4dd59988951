//! A timeline as a person reads it.

use std::fmt::{self, Write};

use jiff::Timestamp;
use magnetite_api::report::{BootFailure, BootRecord, BootStep, EarlierBoot, Firmware};

use super::{Diagnosis, Status, Timeline, Told};
use crate::style::{
    Style,
    Tone::{Bad, Bold, Dim, Good},
    plain,
};

impl Timeline {
    /// As text.
    pub fn text(&self, style: Style, now: Timestamp) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut out, style, now);
        out
    }

    fn write(&self, out: &mut String, style: Style, now: Timestamp) -> fmt::Result {
        let Self { machine, status, boot, servers, events, diagnosis, missing } = self;
        writeln!(out, "{}", style.paint(Bold, format_args!("Machine {}", plain(machine))))?;
        if let Some(status) = status {
            head(out, status, style)?;
        }
        match boot {
            Some(boot) => {
                writeln!(out, "\n{}", style.paint(Bold, title("Boot", boot, now)))?;
                steps(out, boot, style)?;
                earlier(out, &boot.previous, style)?;
            }
            None => writeln!(out, "\nNo boot was seen.")?,
        }
        for boot in servers {
            writeln!(
                out,
                "\n{}",
                style.paint(Bold, title(&format!("As {} saw it: boot", plain(&boot.server)), boot, now))
            )?;
            steps(out, boot, style)?;
        }
        if !events.is_empty() {
            writeln!(out, "\n{}", style.paint(Bold, "Events"))?;
            events.iter().try_for_each(|event| told(out, event, style))?;
        }
        for what in missing {
            writeln!(out, "\nNot shown: {}", plain(what))?;
        }
        verdict(out, diagnosis, style)
    }
}

fn head(out: &mut String, status: &Status, style: Style) -> fmt::Result {
    let Status { phase, reason, profile, node, intent, conditions } = status;
    let mut words = Vec::new();
    if let Some(phase) = phase {
        let reason = reason.as_deref().map_or(String::new(), |reason| format!(" ({})", plain(reason)));
        words.push(format!("phase {phase:?}{reason}"));
    }
    words.extend(profile.as_deref().map(|name| format!("profile {}", plain(name))));
    words.extend(node.as_deref().map(|name| format!("Node {}", plain(name))));
    if !words.is_empty() {
        writeln!(out, "  {}", words.join(", "))?;
    }
    if let Some(intent) = intent {
        let (id, state) = (plain(&intent.id), format!("{:?}", intent.state).to_lowercase());
        let (from, to) = (day(intent.opened_at.0), day(intent.expires_at.0));
        writeln!(out, "  intent {id}: window {state}, from {from} until {to}")?;
    }
    for condition in conditions {
        let text = format!("{:<15} {:<7} {:<18}", condition.type_, condition.status, plain(&condition.reason));
        writeln!(out, "  {text} {}", style.paint(Dim, plain(&condition.message)))?;
    }
    Ok(())
}

/// The first line of a boot: when it was, what box it was, and who served it.
fn title(what: &str, boot: &BootRecord, now: Timestamp) -> String {
    let ago = now.duration_since(boot.started_at.0).as_secs();
    let mut words = vec![format!("{what} of {}, {} ago", day(boot.started_at.0), span(ago))];
    words.extend(boot.firmware.map(|firmware| {
        match firmware {
            Firmware::Bios => "BIOS",
            Firmware::Uefi => "UEFI",
            Firmware::UefiHttp => "UEFI HTTP",
        }
        .to_owned()
    }));
    words.extend(boot.architecture.map(|architecture| architecture.to_string()));
    words.extend(boot.mac.map(|mac| format!("MAC {mac}")));
    words.extend(boot.address.as_deref().map(|address| format!("at {}", plain(address))));
    if !boot.server.is_empty() {
        words.push(format!("from boot server {}", plain(&boot.server)));
    }
    words.join(", ")
}

fn steps(out: &mut String, boot: &BootRecord, style: Style) -> fmt::Result {
    let head = format!("  {:<9} {:>8}  {:<20} {:>6}  {:>10}  ", "TIME", "AFTER", "STEP", "TIMES", "BYTES");
    writeln!(out, "{}", style.paint(Dim, head.trim_end()))?;
    for step in &boot.steps {
        self::step(out, boot, step)?;
    }
    match &boot.failure {
        Some(failure) => failed(out, boot, failure, style),
        None => Ok(()),
    }
}

fn step(out: &mut String, boot: &BootRecord, step: &BootStep) -> fmt::Result {
    let BootStep { name, first_at, last_at, count, bytes, detail } = step;
    let times = if *count > 1 { format!("{count}x") } else { String::new() };
    let bytes = bytes.map_or(String::new(), size);
    let mut more = detail.as_deref().map(plain).unwrap_or_default();
    if last_at != first_at {
        let last = format!("last at {}", after(boot, last_at.0));
        more = if more.is_empty() { last } else { format!("{more}; {last}") };
    }
    let (time, after) = (clock(first_at.0), after(boot, first_at.0));
    let line = format!("  {time:<9} {after:>8}  {:<20} {times:>6}  {bytes:>10}  {more}", name.as_str());
    writeln!(out, "{}", line.trim_end())
}

fn failed(out: &mut String, boot: &BootRecord, failure: &BootFailure, style: Style) -> fmt::Result {
    let BootFailure { step, reason, message, at } = failure;
    let text = format!("{} failed: {}: {}", step.as_str(), plain(reason), plain(message));
    let (time, after) = (clock(at.0), after(boot, at.0));
    writeln!(out, "  {time:<9} {after:>8}  {}", style.paint(Bad, text))
}

fn earlier(out: &mut String, boots: &[EarlierBoot], style: Style) -> fmt::Result {
    if boots.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.paint(Bold, "Boots before it"))?;
    for boot in boots {
        let EarlierBoot { started_at, last_seen, furthest, revision: _, loader, failure } = boot;
        let lasted = span(last_seen.0.duration_since(started_at.0).as_secs());
        let reached = furthest.map_or("nothing", |step| step.as_str());
        let loader = loader.as_deref().map_or(String::new(), |name| format!(" with {}", plain(name)));
        let failed = failure.as_ref().map_or(String::new(), |failure| {
            let BootFailure { step, reason, message, at: _ } = failure;
            format!("; {} failed: {}: {}", step.as_str(), plain(reason), plain(message))
        });
        writeln!(out, "  {}  reached {reached}{loader} within {lasted}{failed}", day(started_at.0))?;
    }
    Ok(())
}

fn told(out: &mut String, event: &Told, style: Style) -> fmt::Result {
    let Told { at, warning, count, reason, message } = event;
    let at = at.as_ref().map_or("-".to_owned(), |at| day(at.0));
    let word = format!("{:<14}", plain(reason));
    let word = if *warning { style.paint(Bad, word) } else { word };
    let times = if *count > 1 { format!(" ({count} times)") } else { String::new() };
    writeln!(out, "  {at}  {word} {}{times}", plain(message))
}

fn verdict(out: &mut String, diagnosis: &Diagnosis, style: Style) -> fmt::Result {
    let Diagnosis { progress, stopped_at, reason, message, hint, doc, until } = diagnosis;
    let at = stopped_at.map(|step| step.as_str());
    let (tone, first) = match (*progress, at) {
        ("Stopped", Some(step)) => (Bad, format!("Stopped at {step}: {reason}")),
        ("Stopped", None) => (Bad, format!("Stopped before its first packet: {reason}")),
        ("Done", _) => (Good, format!("Done: {reason}")),
        (_, Some(step)) => (Bold, format!("Under way at {step}: {reason}")),
        (_, None) => (Bold, format!("Waiting: {reason}")),
    };
    writeln!(out, "\n{}", style.paint(tone, first))?;
    writeln!(out, "  {}", sentence(plain(message).trim_end_matches('.')))?;
    if let Some(until) = until {
        writeln!(out, "  Without another word of the box, this is judged anew at {}.", clock(until.0))?;
    }
    // A boot that goes on as it should needs nobody.
    if *progress != "Done" && *reason != "UnderWay" {
        writeln!(out, "  What to look at: {}", sentence(hint))?;
        writeln!(out, "  {}", style.paint(Dim, format_args!("More: {doc}")))?;
    }
    Ok(())
}

fn sentence(text: &str) -> String {
    if text.ends_with('?') { text.to_owned() } else { format!("{text}.") }
}

/// Date and time of day, in UTC as all times here.
fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}

/// How long after the boot began.
fn after(boot: &BootRecord, at: Timestamp) -> String {
    let seconds = at.duration_since(boot.started_at.0).as_secs();
    if seconds < 0 { format!("-{}", span(-seconds)) } else { format!("+{}", span(seconds)) }
}

pub(super) fn span(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        7200..=172_799 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

pub(super) fn size(bytes: i64) -> String {
    let units = ["KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}
