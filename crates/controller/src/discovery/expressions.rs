//! CEL expressions over what a box is made of. Pure; what a box says of itself is data, and its size is bounded before it comes here.

use cel::{Context, Program, Value};
use magnetite_api::{MacAddr, report::Inventory};

/// An expression that is no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ExpressionError {
    /// The field of the rule.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What expressions see of a box.
pub struct SeenBox<'a> {
    /// The address that it booted from.
    pub mac: MacAddr,
    /// What it is made of.
    pub inventory: &'a Inventory,
}

/// Reads an expression.
///
/// # Errors
/// It is none.
pub fn read(field: &'static str, text: &str) -> Result<Program, ExpressionError> {
    Program::compile(text).map_err(|error| ExpressionError { field, message: one_line(&error.to_string()) })
}

impl SeenBox<'_> {
    fn value(&self, field: &'static str, program: &Program) -> Result<Value, ExpressionError> {
        let failed = |message: String| ExpressionError { field, message: one_line(&message) };
        let mut context = Context::default();
        context.add_variable("inventory", self.inventory).map_err(|error| failed(error.to_string()))?;
        context.add_variable("mac", self.mac.to_string()).map_err(|error| failed(error.to_string()))?;
        program.execute(&context).map_err(|error| failed(error.to_string()))
    }

    /// Whether an expression holds of the box. One that cannot be worked out, for want of a field as a rule, does not.
    ///
    /// # Errors
    /// It is no expression, or one of something else than true and false.
    pub fn holds(&self, field: &'static str, text: &str) -> Result<bool, ExpressionError> {
        match self.value(field, &read(field, text)?) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err(ExpressionError { field, message: "is neither true nor false".to_owned() }),
            Err(error) => {
                tracing::debug!(field, error = error.message, "an expression could not be worked out of a box");
                Ok(false)
            }
        }
    }

    /// The text that an expression makes of the box.
    ///
    /// # Errors
    /// It makes none.
    pub fn text(&self, field: &'static str, text: &str) -> Result<String, ExpressionError> {
        match self.value(field, &read(field, text)?)? {
            Value::String(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Value::Int(number) => Ok(number.to_string()),
            _ => Err(ExpressionError { field, message: "does not make a text of this box".to_owned() }),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use magnetite_api::report::{Disk, PciDevice};
    use rstest::rstest;

    use super::*;

    fn inventory() -> Inventory {
        Inventory {
            manufacturer: Some("Example Systems".into()),
            serial: Some("EX-0017".into()),
            cpus: 64,
            memory_bytes: 512 << 30,
            disks: vec![Disk { name: "nvme0n1".into(), size_bytes: 4 << 40, ..Disk::default() }],
            gpus: vec![PciDevice { vendor: "10de".into(), ..PciDevice::default() }],
            ..Inventory::default()
        }
    }

    fn holds(text: &str) -> Result<bool, ExpressionError> {
        let inventory = inventory();
        SeenBox { mac: "52:54:00:30:00:10".parse().unwrap(), inventory: &inventory }.holds("spec.when", text)
    }

    #[rstest]
    #[case("true", true)]
    #[case("inventory.memoryBytes >= 64 * 1024 * 1024 * 1024", true)]
    #[case("inventory.gpus.exists(gpu, gpu.vendor == '10de')", true)]
    #[case("inventory.gpus.size() > 0 && inventory.cpus == 64", true)]
    #[case("inventory.disks.all(disk, !disk.rotational && disk.sizeBytes > 1000)", true)]
    #[case("mac.startsWith('52:54:00')", true)]
    #[case("has(inventory.bmcAddress)", false)]
    #[case("inventory.serial.matches('^EX-00[0-9]+$')", true)]
    #[case("inventory.manufacturer == 'Other'", false)]
    #[case("inventory.product == 'R1'", false)]
    fn rules_speak_of_what_a_box_is_made_of(#[case] text: &str, #[case] want: bool) {
        assert_eq!(holds(text), Ok(want), "{text}");
    }

    #[rstest]
    #[case("inventory.cpus >")]
    #[case("1 + 1")]
    #[case("'yes'")]
    fn what_is_no_condition_is_refused(#[case] text: &str) {
        assert_eq!(holds(text).unwrap_err().field, "spec.when", "{text}");
    }

    #[test]
    fn names_are_made_of_what_a_box_says() {
        let inventory = inventory();
        let seen = SeenBox { mac: "52:54:00:30:00:10".parse().unwrap(), inventory: &inventory };
        assert_eq!(seen.text("f", "'gpu-' + inventory.serial").as_deref(), Ok("gpu-EX-0017"));
        assert!(seen.text("f", "inventory.product").is_err() && seen.text("f", "''").is_err());
    }
}
