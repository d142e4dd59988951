//! What is written into templates, and into values, by who wants more than a text: each is refused, or stays the text that it is.

use super::*;

/// Templates that reach for classes, modules, files, the environment or other processes, in the language that we have.
const REACHING: [&str; 24] = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ machine|attr('__init__')|attr('__globals__') }}",
    "{{ config.items() }}",
    "{{ self.__init__.__globals__.__builtins__ }}",
    "{{ request.application.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ range.constructor('return process')() }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ open('/etc/passwd').read() }}",
    "{{ env('PATH') }}",
    "{{ environ['PATH'] }}",
    "{{ lookup('pipe', 'id') }}",
    "{{ lookup('file', '/etc/shadow') }}",
    "{{ 'id'|popen }}",
    "{{ '/etc/passwd'|read }}",
    "{{ include('/etc/passwd') }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/proc/self/environ' %}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% from '/etc/passwd' import x %}",
];

/// What other engines, shells and iPXE would carry out. The first ones use our braces as well, and are no templates of ours.
const FOREIGN: [&str; 24] = [
    "{{ .Values.token }}",
    "{{ printf \"%s\" . }}",
    "{{ env \"HOME\" }}",
    "{{ readFile \"/etc/passwd\" }}",
    "{{template \"x\"}}",
    "{{#with \"s\" as |string|}}",
    "{{=<% %>=}}",
    "{% load module %}",
    "${7*7}",
    "#{7*7}",
    "*{7*7}",
    "@(7*7)",
    "%{7*7}",
    "[[${7*7}]]",
    "<%= File.read('/etc/passwd') %>",
    "<?php system('id') ?>",
    "<#assign x=7*7>${x}",
    "#set($x=7*7)$x",
    "${jndi:ldap://192.0.2.1/a}",
    "${env:PATH}",
    "$(id)",
    "`id`",
    "${net0/mac}||reboot",
    "${file:/etc/passwd}",
];

fn all() -> impl Iterator<Item = &'static str> {
    REACHING.into_iter().chain(FOREIGN)
}

#[test]
fn a_payload_is_refused_or_stays_the_text_that_it_is() {
    let (m, p) = (machine("m").arc(), profile("p").chosen());
    let facts = facts(&p, &m, ARCH, &links());
    let mut refused = 0;
    for payload in all() {
        match templates::render(payload, &facts) {
            Ok(text) => assert_eq!(text, payload),
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused, REACHING.len() + 8, "whatever has braces of ours is an error, and an error is never served");
}

/// A Machine's variable is text: it is rendered into a template and is none.
#[test]
fn a_payload_in_a_variable_is_text() {
    let template = "{\"ignition\": {\"version\": \"3.3.0\"}, \"payload\": {{ vars.payload|tojson }}}";
    for payload in all() {
        let m = machine("m").variable("payload", payload).arc();
        let p = profile("p").ignition(template).argument("payload={{ vars.payload }}").chosen();
        let config = ignition(&p, &m, ARCH, Some(template), &links(), Some(&AgentLink::sample())).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["payload"], *payload);
        let argument = format!("payload={payload}");
        match command_line(&p, &m, ARCH, &links()) {
            Ok(arguments) => assert_eq!(arguments[1], argument),
            Err(error) => assert!(command_line::check(&argument).is_err(), "{error}"),
        }
    }
}

/// `debug()` is part of the engine: it shows what a template sees, which is nothing of this process.
#[test]
fn what_a_template_sees_is_nothing_of_the_process() {
    let (m, p) = (machine("m").arc(), profile("p").chosen());
    let seen = templates::render("{{ debug() }}", &facts(&p, &m, ARCH, &links())).unwrap();
    assert!(seen.contains("node_name"), "{seen}");
    for (name, value) in std::env::vars().filter(|(_, value)| value.len() > 8) {
        assert!(!seen.contains(&value), "{name} is seen");
    }
}
