//! What ipmitool prints, as values. No IO.
//!
//! It tells by its exit code only whether it worked; why not, it says in English on the side, among remarks that mean nothing.

use crate::{Power, error::Error, said::said};

/// Lines that say nothing.
const REMARKS: [&str; 7] = [
    "Loading IANA PEN Registry",
    "Unable to Get Channel Cipher Suites",
    "Unable to establish IPMI v2 / RMCP+ session",
    "Running Get VSO Capabilities",
    "Invalid completion code received",
    "Discovered IPMB address",
    "Close Session command failed",
];
/// What it says when the BMC does not believe us, in parts of lines.
const NOT_BELIEVED: [&str; 5] =
    ["RAKP 2 HMAC is invalid", "unauthorized name", "nsufficient privilege", "unauthorized role", "Invalid user name"];
/// What it says when nobody answered, in parts of lines.
const NOBODY: [&str; 7] = [
    "No valid response received",
    "Get Auth Capabilities error",
    "Error issuing Get Channel Authentication Capabilities",
    "Address lookup for",
    "Could not open socket",
    "no response from remote controller",
    "timeout",
];

/// Whether the box is on.
pub fn power(stdout: &str) -> Option<Power> {
    let line = stdout.lines().find_map(|line| line.trim().strip_prefix("Chassis Power is "))?;
    match line.trim() {
        "on" => Some(Power::On),
        "off" => Some(Power::Off),
        _ => None,
    }
}

/// The error that a failure is. `sent`: what was asked for would have switched something.
pub fn failure(host: &str, what: &str, code: Option<i32>, stderr: &str, sent: bool) -> Error {
    let says = |line: &&str| !line.is_empty() && !REMARKS.iter().any(|remark| line.contains(remark));
    let lines: Vec<_> = stderr.lines().map(|line| line.trim().trim_start_matches("> ").trim()).filter(says).collect();
    let (host, text) = (host.to_owned(), said(&lines.join("; ")));
    let has = |parts: &[&str]| parts.iter().any(|part| lines.iter().any(|line| line.contains(part)));
    if has(&NOT_BELIEVED) {
        return Error::Unauthorized { host, said: text };
    }
    if lines.is_empty() || has(&NOBODY) {
        let why = if text.is_empty() { "no answer by RMCP+".to_owned() } else { text };
        // A session comes first: that there is none means that nothing was sent. A command without an answer is another matter.
        let sent = sent && !stderr.contains("Unable to establish");
        return Error::Unreachable { host, why, sent, source: None };
    }
    let perhaps = sent && !stderr.contains("Unable to establish") && !stderr.contains("Set Chassis Power Control");
    let code = code.map_or_else(|| "killed".to_owned(), |code| format!("exit code {code}"));
    Error::Refused { host, what: what.to_owned(), code, said: text, perhaps }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::Happened;

    const REMARK: &str = "Loading IANA PEN Registry...\nUnable to Get Channel Cipher Suites\n";

    #[rstest]
    #[case("Chassis Power is on\n", Some(Power::On))]
    #[case("\nChassis Power is off", Some(Power::Off))]
    #[case("Chassis Power is unwell", None)]
    #[case("", None)]
    fn power_is_read(#[case] text: &str, #[case] power_is: Option<Power>) {
        assert_eq!(power(text), power_is);
    }

    /// As ipmitool 1.8.19 prints it about ipmi_sim of OpenIPMI 2.0.33.
    #[rstest]
    #[case(
        "> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session\n",
        "refuses the credentials. It says: RAKP 2 HMAC is invalid",
        Happened::No
    )]
    #[case(
        "RAKP 2 message indicates an error : unauthorized name\nError: Unable to establish IPMI v2 / RMCP+ session",
        "unauthorized name",
        Happened::No
    )]
    #[case(
        "Get Auth Capabilities error\nError issuing Get Channel Authentication Capabilities request\nError: Unable to establish IPMI v2 / RMCP+ session",
        "cannot be reached",
        Happened::No
    )]
    #[case(
        "Address lookup for nohost.invalid failed\nCould not open socket!\nError: Unable to establish IPMI v2 / RMCP+ session",
        "Address lookup for nohost.invalid failed",
        Happened::No
    )]
    #[case(
        "Set Chassis Power Control to Reset failed: Command not supported in present state",
        "Command not supported in present state",
        Happened::No
    )]
    #[case(
        "Running Get VSO Capabilities my_addr 0x20, transit 0, target 0x20\nNo valid response received\nUnable to set Chassis Power Control to Reset\nClose Session command failed",
        "cannot be reached",
        Happened::Perhaps
    )]
    #[case("", "no answer", Happened::Perhaps)]
    fn failures_are_told_apart(#[case] text: &str, #[case] words: &str, #[case] happened: Happened) {
        let error = failure("bmc", "reset the box", Some(1), &format!("{REMARK}{text}"), true);
        assert!(error.in_full().contains(words), "{}", error.in_full());
        assert_eq!(error.happened(), happened);
    }
}
