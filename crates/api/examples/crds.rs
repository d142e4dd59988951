//! Prints the CustomResourceDefinitions, one YAML document each, for `cargo xtask generate`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use kube::CustomResourceExt;
use magnetite_api::{BootReport, DiscoveryRule, Machine, MachineClaim, Profile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for crd in [Machine::crd(), Profile::crd(), MachineClaim::crd(), BootReport::crd(), DiscoveryRule::crd()] {
        let mut crd = serde_json::to_value(&crd)?;
        join_lines(&mut crd);
        println!("---\n{}", serde_saphyr::to_string(&crd)?.trim_end());
    }
    Ok(())
}

/// Doc comments are wrapped for a reader of the source; `kubectl explain` wraps for its own. Paragraphs stay.
fn join_lines(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == "description" => {
                        let paragraphs: Vec<_> = text.split("\n\n").map(|part| part.replace('\n', " ")).collect();
                        *text = paragraphs.join("\n\n");
                    }
                    other => join_lines(other),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(join_lines),
        _ => {}
    }
}
