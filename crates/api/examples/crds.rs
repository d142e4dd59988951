//! Prints the CustomResourceDefinitions, one YAML document each, for `cargo xtask generate`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use kube::CustomResourceExt;
use magnetite_api::{BootReport, Machine, MachineClaim, Profile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for crd in [Machine::crd(), Profile::crd(), MachineClaim::crd(), BootReport::crd()] {
        println!("---\n{}", serde_saphyr::to_string(&crd)?.trim_end());
    }
    Ok(())
}
