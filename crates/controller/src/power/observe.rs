//! What a machine's BMC says now. The one place of this reconciler that reads Secrets and asks a BMC for anything.

use std::net::IpAddr;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt};
use magnetite_api::{
    Machine,
    conditions::reason,
    power::{BmcSpec, NetworkBoot, SECRET_TYPE},
    profile::OnReboot,
};
use magnetite_bmc::{
    Bmc, Credentials, Power,
    ipmi::Ipmi,
    redfish::{Redfish, Trust},
};
use magnetite_boot::{plan::window_is_open, select::profile_for};

use super::reason_of;
use crate::{
    context::Context,
    error::{Error, code},
    profile::renders::Trouble,
};

/// What the plan may know, and whom to tell.
#[derive(Debug)]
pub struct Seen {
    /// What the BMC says.
    pub power: Power,
    /// Whether the next boot has to come from the network.
    pub network: Network,
    /// How it would.
    pub how: magnetite_bmc::NetworkBoot,
    /// The BMC.
    pub bmc: Bmc,
    /// The protocol, for counting.
    pub protocol: &'static str,
}

/// Where the next boot has to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// From the network: the box's window is open, or its system lives in memory.
    Yes,
    /// From wherever its firmware boots first.
    No,
    /// The Machine's present intent was not looked at yet; that takes a moment.
    NotYet,
}

/// Looks.
///
/// # Errors
/// The API server was not there. What is wrong with the Secret or the BMC is no error but a trouble, in words for people.
pub async fn observe(machine: &Machine, ctx: &Context) -> Result<Result<Seen, Trouble>, Error> {
    let Some(spec) = machine.spec.bmc.as_deref() else {
        let message = "spec.bmc is gone".to_owned();
        return Ok(Err(Trouble { reason: reason::BMC_NOT_ASKED, message }));
    };
    if let Some(other) = shared(machine, spec, ctx) {
        let message = format!(
            "the Machine {other} names the same system of the same BMC: the box of neither is looked at or switched until one of \
             them is changed"
        );
        return Ok(Err(Trouble { reason: reason::BMC_SHARED, message }));
    }
    let secret = match secret(&spec.credentials, ctx).await? {
        Ok(secret) => secret,
        Err(message) => return Ok(Err(Trouble { reason: reason::BMC_SECRET_MISSING, message })),
    };
    let (bmc, protocol, how) = match connect(spec, &secret) {
        Ok(connected) => connected,
        Err(trouble) => return Ok(Err(trouble)),
    };
    let power = bmc.power().await;
    ctx.metrics.bmc(protocol, "power", power.as_ref().err().map_or("ok", reason_of));
    Ok(match power {
        Ok(power) => Ok(Seen { power, network: network(machine, ctx), how, bmc, protocol }),
        Err(error) => Err(Trouble { reason: reason_of(&error), message: error.in_full() }),
    })
}

/// Where a BMC is, in one way of writing it.
pub fn endpoint(spec: &BmcSpec) -> String {
    if let Some(redfish) = &spec.redfish {
        let host =
            redfish.url.strip_prefix("https://").unwrap_or(&redfish.url).trim_end_matches('/').to_ascii_lowercase();
        return host.strip_suffix(":443").unwrap_or(&host).to_owned();
    }
    spec.ipmi.as_ref().map(|ipmi| format!("{}:{}", ipmi.host.to_ascii_lowercase(), ipmi.port)).unwrap_or_default()
}

fn system(spec: &BmcSpec) -> Option<&str> {
    let system = spec.redfish.as_ref()?.system.as_deref()?;
    Some(system.trim_end_matches('/').rsplit('/').next().unwrap_or(system))
}

/// Another Machine that means the same box by its BMC: two specs would switch it to and fro.
fn shared(machine: &Machine, spec: &BmcSpec, ctx: &Context) -> Option<String> {
    let (name, here) = (machine.name_any(), endpoint(spec));
    let same = |other: &Machine| {
        let Some(theirs) = other.spec.bmc.as_deref() else { return false };
        let one_system = match (system(spec), system(theirs)) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        one_system && endpoint(theirs) == here && other.metadata.name.as_deref() != Some(name.as_str())
    };
    ctx.stores.machines.state_filter(same).iter().map(|other| other.name_any()).min()
}

async fn secret(name: &str, ctx: &Context) -> Result<Result<Secret, String>, Error> {
    match Api::<Secret>::namespaced(ctx.client.clone(), &ctx.settings.namespace).get_opt(name).await {
        Ok(Some(secret)) if secret.type_.as_deref() == Some(SECRET_TYPE) => Ok(Ok(secret)),
        Ok(Some(_)) => Ok(Err(format!(
            "the Secret {name} is not of the type {SECRET_TYPE}, and nothing else is sent to a BMC: delete it and create it with \
             --type={SECRET_TYPE}"
        ))),
        Ok(None) => Ok(Err(format!("there is no Secret {name} in Magnetite's namespace"))),
        Err(error) if code(&error) == Some(403) => Ok(Err(format!(
            "the controller may not read the Secret {name}; name it in controller.secretNames of the chart"
        ))),
        Err(error) => Err(Error::read("Secret", name)(error)),
    }
}

/// The BMC, as the spec and the Secret have it.
pub fn connect(spec: &BmcSpec, secret: &Secret) -> Result<(Bmc, &'static str, magnetite_bmc::NetworkBoot), Trouble> {
    let name = secret.name_any();
    let missing = |message: String| Trouble { reason: reason::BMC_SECRET_MISSING, message };
    let key = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let text = |key_name: &str| {
        let bytes = key(key_name).ok_or_else(|| missing(format!("the Secret {name} has no key {key_name}")))?;
        let text = String::from_utf8(bytes.0.clone()).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        let text = text.filter(|text| !text.is_empty() && !text.contains('\0'));
        text.ok_or_else(|| missing(format!("the key {key_name} of the Secret {name} is no text")))
    };
    let credentials = Credentials { username: text("username")?, password: text("password")? };
    let host = host(&endpoint(spec));
    if key("hosts").is_some() && !allows(&text("hosts")?, &host) {
        return Err(missing(format!(
            "the key hosts of the Secret {name} does not name {host}: these credentials are not sent there"
        )));
    }
    if let Some(redfish) = &spec.redfish {
        let trust = match (redfish.insecure_skip_tls_verify, key("ca.crt")) {
            (true, _) => Trust::Anyone,
            (false, Some(ByteString(pem))) => Trust::Authorities(pem.clone()),
            (false, None) => Trust::System,
        };
        let client = Redfish::new(&redfish.url, redfish.system.as_deref(), credentials, &trust);
        let client = client.map_err(|error| Trouble { reason: reason_of(&error), message: error.in_full() })?;
        let how = match redfish.network_boot {
            NetworkBoot::Pxe => magnetite_bmc::NetworkBoot::Pxe,
            NetworkBoot::UefiHttp => magnetite_bmc::NetworkBoot::UefiHttp,
        };
        return Ok((Bmc::Redfish(Box::new(client)), "redfish", how));
    }
    let ipmi = spec.ipmi.as_ref().ok_or_else(|| missing("spec.bmc names neither redfish nor ipmi".to_owned()))?;
    let port = u16::try_from(ipmi.port).unwrap_or(623);
    Ok((Bmc::Ipmi(Ipmi::new(&ipmi.host, port, ipmi.efi, credentials)), "ipmi", magnetite_bmc::NetworkBoot::Pxe))
}

/// The host of an endpoint, without its port.
fn host(endpoint: &str) -> String {
    if let Some((host, _)) = endpoint.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host.to_owned();
    }
    endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host).to_owned()
}

/// True if a Secret's list of hosts has this one. A name is in no network: where it leads to is its DNS server's to say.
pub fn allows(list: &str, host: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    let holds = |entry: &str| {
        let network = || entry.parse::<ipnet::IpNet>().ok();
        entry.eq_ignore_ascii_case(host)
            || address.is_some_and(|address| {
                entry.parse() == Ok(address) || network().is_some_and(|net| net.contains(&address))
            })
    };
    list.split([' ', ',', '\n', '\t', '\r']).filter(|entry| !entry.is_empty()).any(holds)
}

fn network(machine: &Machine, ctx: &Context) -> Network {
    if machine.is_held() {
        return Network::Yes;
    }
    let intent = machine.status.as_ref().and_then(|status| status.intent.as_ref());
    let Some(intent) = intent.filter(|intent| intent.id == machine.wanted_intent()) else { return Network::NotYet };
    if window_is_open(intent, (ctx.clock)()) {
        return Network::Yes;
    }
    let machine = std::sync::Arc::new(machine.clone());
    let in_memory = profile_for(&machine, &ctx.stores.profiles.state())
        .is_ok_and(|profile| profile.spec.boot.on_reboot == OnReboot::Network);
    if in_memory { Network::Yes } else { Network::No }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> BmcSpec {
        serde_json::from_value(value).unwrap()
    }

    #[rstest]
    #[case("https://BMC-1:443/", "bmc-1", "bmc-1")]
    #[case("https://10.0.8.21", "10.0.8.21", "10.0.8.21")]
    #[case("https://10.0.8.21:8443", "10.0.8.21:8443", "10.0.8.21")]
    #[case("https://[fd00::1]:8443", "[fd00::1]:8443", "fd00::1")]
    fn endpoints(#[case] url: &str, #[case] is: &str, #[case] at: &str) {
        let spec = spec(json!({ "redfish": { "url": url }, "credentials": "c" }));
        assert_eq!(endpoint(&spec), is);
        assert_eq!(host(is), at);
    }

    #[rstest]
    #[case("10.0.8.0/24", "10.0.8.21", true)]
    #[case("10.0.8.0/24", "10.0.9.21", false)]
    #[case("bmc-1 bmc-2\nfd00::/8", "BMC-2", true)]
    #[case("bmc-1 bmc-2\nfd00::/8", "fd00::5", true)]
    #[case("10.0.0.0/8", "bmc.example", false)]
    #[case("10.0.8.21", "10.0.8.2", false)]
    fn credentials_go_where_they_may(#[case] list: &str, #[case] host: &str, #[case] may: bool) {
        assert_eq!(allows(list, host), may);
    }

    #[test]
    fn a_secret_that_lacks_something_is_said_to() {
        let ipmi = spec(json!({ "ipmi": { "host": "10.0.8.21" }, "credentials": "c" }));
        let secret = |data: serde_json::Value| -> Secret {
            serde_json::from_value(json!({ "metadata": { "name": "c" }, "type": SECRET_TYPE, "data": data })).unwrap()
        };
        // "admin", "s3cret", "10.0.9.0/24"
        let (user, password, hosts) = ("YWRtaW4=", "czNjcmV0", "MTAuMC45LjAvMjQ=");
        assert!(connect(&ipmi, &secret(json!({ "username": user, "password": password }))).is_ok());
        for (data, words) in [
            (json!({ "username": user }), "no key password"),
            (json!({ "username": "", "password": password }), "username of the Secret c is no text"),
            (json!({ "username": user, "password": password, "hosts": hosts }), "does not name 10.0.8.21"),
        ] {
            let trouble = connect(&ipmi, &secret(data)).unwrap_err();
            assert_eq!(trouble.reason, reason::BMC_SECRET_MISSING);
            assert!(trouble.message.contains(words), "{}", trouble.message);
        }
    }
}
