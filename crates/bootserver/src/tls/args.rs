//! The part of the command line that is about HTTPS for firmware and iPXE.

use std::path::PathBuf;

use clap::ValueEnum;
use magnetite_boot::{scheme::Trust, site::Tls};

/// HTTPS beside plain HTTP, for machines that trust its certificate. The agents' own HTTPS (--https-port) needs none of this.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "HTTPS for firmware and iPXE")]
pub struct TlsArgs {
    /// Serve over TLS, too, what --http-port serves, with the certificate in this PEM file: the server's own first, then
    /// those between it and its authority. It must name the addresses that machines reach this server at. Read again
    /// when it changes.
    #[arg(long, value_name = "FILE", env = "MAGNETITE_TLS_CERT", requires = "tls_key", group = "certificate")]
    pub tls_cert: Option<PathBuf>,

    /// The key of that certificate, PEM.
    #[arg(long, value_name = "FILE", env = "MAGNETITE_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The same with a certificate of this server's own making, by an authority that it makes once. What machines are to
    /// trust is then boot-ca.pem in --data-dir (boot-ca.der for firmware).
    #[arg(long, env = "MAGNETITE_TLS_OWN_CA", group = "certificate")]
    pub tls_own_ca: bool,

    /// TCP port for it.
    #[arg(long, value_name = "N", env = "MAGNETITE_BOOT_TLS_PORT", default_value_t = 8444)]
    pub boot_tls_port: u16,

    /// Who trusts that certificate, with commas between them, and is therefore sent to https:// instead of http://.
    /// Default: nobody; then only those come that something else sends, such as a URL in a firmware's setup.
    #[arg(
        long,
        value_enum,
        value_name = "WHO",
        env = "MAGNETITE_BOOT_TLS",
        value_delimiter = ',',
        requires = "certificate"
    )]
    pub boot_tls: Vec<Who>,
}

/// Who is sent to HTTPS.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// UEFI HTTP boot, for its loader: the authority is enrolled in the firmware of all such machines.
    Firmware,
    /// Any iPXE that says that it has HTTPS, for its script, kernel and initrds: all were built to trust the authority. One
    /// that has no HTTPS goes on with HTTP.
    Ipxe,
    /// Ignition and the initramfs, for configs, files and the agent: the images of all Profiles hold the authority.
    System,
}

impl TlsArgs {
    /// As links are made from it.
    pub fn site(&self) -> Tls {
        let has = |who| self.boot_tls.contains(&who);
        let trust = Trust { firmware: has(Who::Firmware), ipxe: has(Who::Ipxe), system: has(Who::System) };
        Tls { port: self.boot_tls_port, trust }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        tls: TlsArgs,
    }

    fn parse(words: &str) -> Result<TlsArgs, clap::Error> {
        Only::try_parse_from(std::iter::once("it").chain(words.split_whitespace())).map(|only| only.tls)
    }

    #[test]
    fn nobody_is_sent_to_https_by_default() {
        for words in ["", "--tls-own-ca", "--tls-cert c --tls-key k"] {
            assert_eq!(parse(words).unwrap().site(), Tls { port: 8444, trust: Trust::default() }, "{words}");
        }
        let some = parse("--tls-own-ca --boot-tls ipxe,firmware --boot-tls-port 443").unwrap().site();
        assert_eq!(some, Tls { port: 443, trust: Trust { firmware: true, ipxe: true, system: false } });
    }

    /// What is wrong, and what the message names.
    #[rstest]
    #[case("--tls-cert c", "--tls-key <FILE>")]
    #[case("--tls-key k", "--tls-cert <FILE>")]
    #[case("--tls-cert c --tls-key k --tls-own-ca", "--tls-own-ca")]
    #[case("--boot-tls ipxe", "<--tls-cert <FILE>|--tls-own-ca>")]
    #[case("--tls-own-ca --boot-tls everybody", "firmware, ipxe, system")]
    fn halves_are_refused(#[case] words: &str, #[case] named: &str) {
        let message = parse(words).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
}
