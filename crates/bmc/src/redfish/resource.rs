//! Redfish's resources as values: what of a JSON document matters, and which request follows from it. No IO.
//!
//! Makers leave fields out, write them in other letters, or fill them with nonsense: whatever is not there or not as it should be is
//! absent, and what cannot be done without is an error in words.

use serde_json::{Map, Value, json};

use crate::{Act, NetworkBoot, Power, said::said};

/// Where every Redfish service lists its systems.
pub const SYSTEMS: &str = "/redfish/v1/Systems";
/// More systems than any BMC has.
const MOST: usize = 256;

/// The paths of a collection's members. Links that lead elsewhere are left out.
pub fn members(collection: &Value) -> Vec<String> {
    let all = collection["Members"].as_array().into_iter().flatten().take(MOST);
    all.filter_map(|member| member["@odata.id"].as_str().and_then(own_path)).collect()
}

/// A path on the BMC itself: absolute, and nothing but a path. It may not lead to another host, or up.
pub fn own_path(link: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "/-_.~:@()$,;=+!'".contains(c);
    let is_path = link.starts_with('/') && !link.starts_with("//") && !link.contains("/../") && !link.ends_with("/..");
    (is_path && link.len() <= 512 && link.chars().all(good)).then(|| link.to_owned())
}

/// The path of the system that `wanted` means: an Id, or a path already.
pub fn system_path(wanted: &str) -> String {
    let wanted = wanted.trim_end_matches('/');
    if wanted.starts_with('/') { wanted.to_owned() } else { format!("{SYSTEMS}/{wanted}") }
}

/// The one system of a collection.
///
/// # Errors
/// There is none, or more than one: in words, as a sentence goes on after "the BMC".
pub fn only_system(members: &[String]) -> Result<&str, String> {
    match members {
        [one] => Ok(one),
        [] => Err("has no system".to_owned()),
        many => {
            let names: Vec<_> = many.iter().take(8).map(|path| path.rsplit('/').next().unwrap_or(path)).collect();
            Err(format!(
                "has {} systems: say in spec.bmc.redfish.system which is this box: {}",
                many.len(),
                names.join(", ")
            ))
        }
    }
}

/// What of a system matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Whether it is on. Absent: it does not say.
    pub power: Option<Power>,
    /// Where a reset is asked for.
    pub reset: Option<String>,
    /// The kinds of reset that it takes. Absent: it does not say here.
    pub kinds: Option<Vec<String>>,
    /// Where it says which kinds it takes.
    pub action_info: Option<String>,
    /// What a boot override may name. Absent: it does not say.
    pub boot_targets: Option<Vec<String>>,
    /// The version of the resource, which some BMCs want to be told with a change.
    pub etag: Option<String>,
}

/// Reads a system.
pub fn system(document: &Value, etag_header: Option<&str>) -> System {
    let action = &document["Actions"]["#ComputerSystem.Reset"];
    let etag = etag_header.or_else(|| document["@odata.etag"].as_str());
    System {
        power: document["PowerState"].as_str().and_then(power),
        reset: action["target"].as_str().and_then(own_path),
        kinds: words(&action["ResetType@Redfish.AllowableValues"]),
        action_info: action["@Redfish.ActionInfo"].as_str().and_then(own_path),
        boot_targets: words(&document["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"]),
        etag: etag
            .filter(|etag| etag.len() <= 256 && etag.chars().all(|c| c.is_ascii_graphic() || c == ' '))
            .map(str::to_owned),
    }
}

fn power(word: &str) -> Option<Power> {
    match word.to_ascii_lowercase().as_str() {
        "on" => Some(Power::On),
        "off" => Some(Power::Off),
        "poweringon" => Some(Power::PoweringOn),
        "poweringoff" => Some(Power::PoweringOff),
        _ => None,
    }
}

fn words(list: &Value) -> Option<Vec<String>> {
    let list = list.as_array()?;
    Some(list.iter().take(64).filter_map(|word| Some(said(word.as_str()?))).collect())
}

/// The kinds of reset that an ActionInfo names.
pub fn kinds_of_action_info(document: &Value) -> Option<Vec<String>> {
    let parameters = document["Parameters"].as_array()?;
    words(&parameters.iter().find(|parameter| parameter["Name"] == "ResetType")?["AllowableValues"])
}

/// The ResetType that does it, of those that the BMC takes. Where it does not say what it takes: the one that Redfish names first.
///
/// # Errors
/// None of them does it.
pub fn reset_type(act: Act, kinds: Option<&[String]>) -> Result<&'static str, String> {
    let candidates: &[&str] = match act {
        Act::On => &["On", "ForceOn"],
        // PushPowerButton would switch a box on that went off in the meantime.
        Act::Shutdown => &["GracefulShutdown"],
        Act::Off => &["ForceOff"],
        // A restart that asks the system first may wait for it for ever; a cycle of the power is no press of the reset button.
        Act::Reset => &["ForceRestart"],
    };
    let Some(kinds) = kinds.filter(|kinds| !kinds.is_empty()) else {
        return Ok(candidates[0]);
    };
    let takes = |candidate: &&&str| kinds.iter().any(|kind| kind.eq_ignore_ascii_case(candidate));
    candidates.iter().find(takes).copied().ok_or_else(|| said(&kinds.join(", ")))
}

/// The change that makes the next boot, and only that, come from the network.
///
/// # Errors
/// The BMC names what it can boot from, and this is not among it.
pub fn boot_override(how: NetworkBoot, targets: Option<&[String]>) -> Result<Value, String> {
    let target = match how {
        NetworkBoot::Pxe => "Pxe",
        NetworkBoot::UefiHttp => "UefiHttp",
    };
    if let Some(targets) = targets.filter(|targets| !targets.is_empty())
        && !targets.iter().any(|one| one == target)
    {
        return Err(said(&targets.join(", ")));
    }
    let mut boot = Map::new();
    boot.insert("BootSourceOverrideEnabled".into(), "Once".into());
    boot.insert("BootSourceOverrideTarget".into(), target.into());
    if how == NetworkBoot::UefiHttp {
        // There is no such boot in the mode of a BIOS. For PXE the mode is left as it is: to change it would change the firmware's setup.
        boot.insert("BootSourceOverrideMode".into(), "UEFI".into());
    }
    Ok(json!({ "Boot": boot }))
}

/// What the BMC says about an error: its own messages, or else its summary, or else their names.
pub fn error_said(document: &Value) -> String {
    let error = &document["error"];
    let extended = [&error["@Message.ExtendedInfo"], &document["@Message.ExtendedInfo"]];
    let entries = extended.into_iter().flat_map(|list| match list {
        Value::Array(list) => list.as_slice(),
        // Some write the one entry where a list should be.
        one @ Value::Object(_) => std::slice::from_ref(one),
        _ => &[],
    });
    let entries: Vec<_> = entries.take(3).collect();
    let of = |field: &str| {
        let all: Vec<_> = entries.iter().filter_map(|entry| entry[field].as_str()).collect();
        said(&all.join(" "))
    };
    let summary = || said(error["message"].as_str().unwrap_or_default());
    [of("Message"), summary(), of("MessageId")].into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/redfish/v1/Systems/1", true)]
    #[case("/redfish/v1/Systems/System.Embedded.1/Actions/ComputerSystem.Reset", true)]
    #[case("https://elsewhere/redfish/v1/Systems/1", false)]
    #[case("//elsewhere/redfish/v1", false)]
    #[case("/redfish/../admin", false)]
    #[case("/redfish/v1?x=http://y", false)]
    #[case("", false)]
    fn a_link_leads_nowhere_else(#[case] link: &str, #[case] good: bool) {
        assert_eq!(own_path(link).is_some(), good);
    }

    #[test]
    fn systems_are_found_or_asked_for() {
        let list =
            json!({ "Members": [{ "@odata.id": "/redfish/v1/Systems/1" }, {}, { "@odata.id": "http://x/" }, 7] });
        assert_eq!(only_system(&members(&list)), Ok("/redfish/v1/Systems/1"));
        let two = ["/redfish/v1/Systems/a".to_owned(), "/redfish/v1/Systems/b".to_owned()];
        assert!(only_system(&two).unwrap_err().contains("which is this box: a, b"));
        assert!(only_system(&members(&json!([]))).is_err());
        assert_eq!(system_path("437X"), "/redfish/v1/Systems/437X");
        assert_eq!(system_path("/redfish/v1/Systems/1/"), "/redfish/v1/Systems/1");
    }

    /// The shape of a system as Dell, HPE, Supermicro and OpenBMC write it, cut down to what is read and what leads astray.
    #[rstest]
    #[case(json!({
        "@odata.etag": "W/\"gen-14\"", "PowerState": "On",
        "Boot": { "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "UefiHttp", "Hdd"] },
        "Actions": { "#ComputerSystem.Reset": {
            "target": "/redfish/v1/Systems/System.Embedded.1/Actions/ComputerSystem.Reset",
            "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart", "GracefulShutdown", "PushPowerButton", "Nmi"],
        } } }), Some(Power::On), Ok("ForceRestart"), Some("W/\"gen-14\""))]
    #[case(json!({
        "PowerState": "Off", "Boot": { "BootSourceOverrideEnabled": "Disabled" },
        "Actions": { "#ComputerSystem.Reset": {
            "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset/", "@Redfish.ActionInfo": "/redfish/v1/Systems/1/ResetActionInfo",
        } } }), Some(Power::Off), Ok("ForceRestart"), None)]
    #[case(json!({
        "PowerState": "PoweringOn",
        "Actions": { "#ComputerSystem.Reset": { "target": "/a", "ResetType@Redfish.AllowableValues": ["On", "ForceOff"] } } }),
        Some(Power::PoweringOn), Err("On, ForceOff"), None)]
    #[case(json!({ "PowerState": null, "Actions": { "#ComputerSystem.Reset": { "target": "http://elsewhere/" } } }), None, Ok("ForceRestart"), None)]
    #[case(json!("not even an object"), None, Ok("ForceRestart"), None)]
    fn systems_of_several_makers(
        #[case] document: Value,
        #[case] state: Option<Power>,
        #[case] reset: Result<&str, &str>,
        #[case] etag: Option<&str>,
    ) {
        let system = system(&document, None);
        assert_eq!(system.power, state);
        assert_eq!(reset_type(Act::Reset, system.kinds.as_deref()).map_err(|error| error.leak() as &str), reset);
        assert_eq!(system.etag.as_deref(), etag);
    }

    #[test]
    fn the_kinds_of_reset_may_be_told_elsewhere() {
        let info = json!({ "Parameters": [{ "Name": "Other" }, { "Name": "ResetType", "AllowableValues": ["ForceOn", "forceoff"] }] });
        let kinds = kinds_of_action_info(&info).unwrap();
        assert_eq!(reset_type(Act::On, Some(&kinds)), Ok("ForceOn"));
        assert_eq!(reset_type(Act::Off, Some(&kinds)), Ok("ForceOff"));
        assert!(reset_type(Act::Shutdown, Some(&kinds)).is_err());
        assert_eq!(reset_type(Act::Shutdown, Some(&[])), Ok("GracefulShutdown"));
    }

    #[test]
    fn one_boot_over_the_network() {
        let pxe = boot_override(NetworkBoot::Pxe, None).unwrap();
        assert_eq!(pxe, json!({ "Boot": { "BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe" } }));
        let http = boot_override(NetworkBoot::UefiHttp, Some(&["UefiHttp".to_owned()])).unwrap();
        assert_eq!(http["Boot"]["BootSourceOverrideMode"], "UEFI");
        assert_eq!(
            boot_override(NetworkBoot::UefiHttp, Some(&["Hdd".to_owned(), "Pxe".to_owned()])),
            Err("Hdd, Pxe".to_owned())
        );
    }

    #[rstest]
    #[case(json!({ "error": { "code": "Base.1.0.GeneralError", "message": "A general error has occurred. See ExtendedInfo.",
        "@Message.ExtendedInfo": [{ "MessageId": "Base.1.8.AccessDenied", "Message": "The authentication credentials included with this request are missing or invalid." }] } }),
        "The authentication credentials included with this request are missing or invalid.")]
    #[case(json!({ "error": { "@Message.ExtendedInfo": { "MessageId": "iLO.2.14.UnauthorizedLoginAttempt" } } }), "iLO.2.14.UnauthorizedLoginAttempt")]
    // sushy-tools: the message is in the summary alone.
    #[case(json!({ "error": { "message": "Incorrect username or password", "@Message.ExtendedInfo": [{ "MessageId": "Base.1.0.GeneralError" }] } }),
        "Incorrect username or password")]
    #[case(json!({ "error": { "message": "Busy\u{1b}[2J" } }), "Busy [2J")]
    #[case(json!({ "error": "no" }), "")]
    #[case(json!(null), "")]
    fn its_own_words(#[case] document: Value, #[case] words: &str) {
        assert_eq!(error_said(&document), words);
    }
}
