//! What a system fetches beside an Ignition config, or in place of one: cloud-init's seed, kickstart, preseed, autoinstall.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_api::{Architecture, Machine, Profile};
use minijinja::{Value, context};

use super::{AgentLink, Links, RenderError, facts, ignition, render};
use crate::{plan::Task, select::Chosen};

/// The texts of a Profile's templates, wherever they came from. What is missing here is in a ConfigMap that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Texts {
    /// Of `spec.ignition`.
    pub ignition: Option<String>,
    /// Of `spec.templates`, by name.
    pub templates: BTreeMap<String, String>,
}

impl Texts {
    /// Those that a Profile holds itself.
    pub fn inline(profile: &Profile) -> Self {
        let templates = profile.spec.templates.iter();
        Self {
            ignition: profile.spec.ignition.as_ref().and_then(|source| source.inline.clone()),
            templates: templates.filter_map(|(name, source)| Some((name.clone(), source.inline.clone()?))).collect(),
        }
    }
}

/// The field of the Profile that one of its templates is from.
pub fn template_field(profile: &Profile, name: &str) -> String {
    let of = match profile.spec.templates.get(name).map(|source| source.config_map.is_some()) {
        Some(true) => ".configMap",
        Some(false) => ".inline",
        None => "",
    };
    format!("spec.templates[\"{name}\"]{of}")
}

/// One of a Profile's templates, rendered for a machine. `text` is the template's, wherever it came from; `agent` is absent where the boot server has
/// none, and a template that asks for it then does not render.
///
/// # Errors
/// If it does not render, or to more than 1 MiB.
pub fn template(
    profile: &Chosen,
    machine: &Machine,
    architecture: Architecture,
    (name, text): (&str, Option<&str>),
    links: &Links,
    agent: Option<&AgentLink>,
) -> Result<String, RenderError> {
    let field = template_field(profile, name);
    let Some(text) = text else {
        return Err(RenderError::new(field, "the ConfigMap, or its key, does not exist"));
    };
    let known = facts(profile, machine, architecture, links);
    let known = match agent {
        Some(agent) => context! { agent => agent_facts(profile, machine, agent), ..known },
        None => known,
    };
    let mut rendered = render(&field, text, &known).map_err(|mut error| {
        if agent.is_none() && text.contains("agent.") {
            error.message += &format!("; the boot server has no agent for {architecture}, see --agent-dir");
        }
        error
    })?;
    // The engine takes the last line's end away, which a script or an installer may want.
    if text.ends_with('\n') && !rendered.ends_with('\n') {
        rendered.push('\n');
    }
    Ok(rendered)
}

/// What a system without Ignition needs to bring the agent, or to report without one.
fn agent_facts(profile: &Chosen, machine: &Machine, agent: &AgentLink) -> Value {
    context! {
        url => agent.url.clone(),
        sha512 => agent.verification.strip_prefix("sha512-"),
        path => profile.spec.agent.path.clone(),
        environment => ignition::environment(profile, machine, agent, Task::Boot),
        unit => ignition::unit(&profile.spec.agent.path),
        report_url => format!("{}/report", agent.server),
        curl_pin => curl_pin(&agent.pin),
    }
}

/// A pin as curl's `--pinnedpubkey` takes it: of the same digest, in base64.
fn curl_pin(pin: &str) -> Option<String> {
    let digits = pin.strip_prefix("sha256/")?;
    let octet = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes = (0..digits.len()).step_by(2).map(octet).collect::<Option<Vec<_>>>()?;
    Some(format!("sha256//{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{ProfileBuilder, machine, profile},
        render::{check, dry_run},
    };

    fn rendered(name: &str, profile: ProfileBuilder) -> Result<String, RenderError> {
        let profile = profile.chosen();
        let links = Links {
            base: "http://192.0.2.1:8080/m/0/C/x86_64".into(),
            system: "https://192.0.2.1/m/0/C/x86_64".into(),
        };
        let text = profile.spec.templates[name].inline.as_deref();
        template(
            &profile,
            &machine("box-1").arc(),
            Architecture::X86_64,
            (name, text),
            &links,
            Some(&AgentLink::sample()),
        )
    }

    #[test]
    fn a_template_sees_what_all_see_and_its_agent() {
        let of = |text: &str| {
            let profile = profile("p").variable("rack", "r7").template("meta-data", "").template("x", text);
            rendered("x", profile)
        };
        let all = "{{ machine.name }} {{ vars.rack }} {{ profile.name }} {{ boot.arch }} {{ boot.url }}/t/ {{ templates['meta-data'] }}";
        let base = "https://192.0.2.1/m/0/C/x86_64";
        assert_eq!(of(all).unwrap(), format!("box-1 r7 p x86_64 {base}/t/ {base}/t/meta-data"));
        let agent =
            of("{{ agent.url }} {{ agent.sha512 }} {{ agent.path }} {{ agent.report_url }} {{ agent.curl_pin }}");
        let agent = agent.unwrap();
        assert!(agent.contains("/AAAAAAAAAAAAAAAAAAAAAAAAAAA/report sha256//AAAA"), "{agent}");
        assert!(of("{{ agent.environment }}").unwrap().ends_with("MAGNETITE_JOIN=certificate\n"));
        assert!(of("{{ agent.unit }}").unwrap().starts_with("[Unit]\n"));
        assert!(of("{{ templates['no-such'] }}").unwrap_err().to_string().contains("undefined value"));
    }

    #[test]
    fn a_text_keeps_its_last_line_s_end() {
        for (text, want) in
            [("", ""), ("a", "a"), ("a\n", "a\n"), ("{{ 'a' }}\n", "a\n"), ("\n", "\n"), ("{{ 'a\n' }}\n", "a\n")]
        {
            assert_eq!(rendered("x", profile("p").template("x", text)).unwrap(), want, "{text:?}");
        }
    }

    #[test]
    fn a_bad_template_is_named_by_the_check_and_by_the_dry_run() {
        let box_1 = machine("box-1").arc();
        for (text, parses, why) in [
            ("{{ machine.name", false, "syntax error"),
            ("{{ vars.nothing }}", true, "`vars.nothing` is undefined"),
            ("{{ 'x' * 1048577 }}", true, "1048576 bytes"),
        ] {
            let profile = profile("p").template("ok", "a").template("user-data", text).chosen();
            let texts = Texts::inline(&profile);
            assert_eq!(check(&profile, &texts).is_ok(), parses, "{text}");
            let error = dry_run(&profile, &box_1, &texts).unwrap_err();
            assert_eq!(error.field, "spec.templates[\"user-data\"].inline");
            assert!(error.message.contains(why), "{error}");
        }
        let profile = profile("p").template("user-data", "a").chosen();
        assert!(dry_run(&profile, &box_1, &Texts::default()).unwrap_err().message.contains("does not exist"));
    }

    #[test]
    fn a_pin_for_curl() {
        let pin = format!("sha256/{}", "00ff".repeat(16));
        assert_eq!(curl_pin(&pin).unwrap(), "sha256//AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8=");
        assert_eq!((curl_pin("sha256/zz"), curl_pin("(of the boot server's key)")), (None, None));
    }
}
