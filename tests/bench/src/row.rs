//! A row of the table: what each server reached, and what that is of the yardstick.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::stats::median;

/// What one server reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The server.
    pub who: String,
    /// A value a round; empty if it could not be measured.
    pub rounds: Vec<f64>,
    /// What else is to be said: a percentile, errors, or why there is no value.
    pub note: String,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name on the command line.
    pub name: &'static str,
    /// What was asked.
    pub what: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// What is to be reached, in words.
    pub target: &'static str,
    /// Whose value the others are compared with.
    pub yardstick: &'static str,
    /// The servers, Magnetite first.
    pub figures: Vec<Figure>,
}

impl Row {
    fn yard(&self) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.who == self.yardstick)?;
        median(&figure.rounds).filter(|value| *value > 0.0)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!("{}: {} [{}]\n  to reach: {}\n", self.name, self.what, self.unit, self.target);
        for Figure { who, rounds, note } in &self.figures {
            let line = match median(rounds) {
                None => format!("  {who:<22} {:>12}  {note}", "-"),
                Some(value) => {
                    let ratio = self.yard().map(|yard| format!("{:>6.2} x {}", value / yard, self.yardstick));
                    let (least, most) = rounds.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
                    let spread = format!("({} .. {})", number(least), number(most));
                    format!("  {who:<22} {:>12}  {:<24} {spread:<26} {note}", number(value), ratio.unwrap_or_default())
                }
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    /// For programs: an object a server.
    pub fn json(&self) -> Vec<Value> {
        let yard = self.yard();
        let of = |Figure { who, rounds, note }: &Figure| {
            let value = median(rounds);
            let ratio = value.zip(yard).map(|(value, yard)| value / yard);
            json!({ "row": self.name, "what": self.what, "unit": self.unit, "target": self.target, "server": who, "median": value,
                "rounds": rounds, "yardstick": self.yardstick, "ratio": ratio, "note": note })
        };
        self.figures.iter().map(of).collect()
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    if value >= 1000.0 {
        let digits = format!("{value:.0}");
        let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
        groups.join(",")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let figure = |who: &str, rounds: &[f64], note: &str| Figure {
            who: who.into(),
            rounds: rounds.into(),
            note: note.into(),
        };
        Row {
            name: "dhcp",
            what: "replies",
            unit: "1/s",
            target: "2 x dnsmasq",
            yardstick: "dnsmasq",
            figures: vec![
                figure("magnetite", &[61_000.0, 59_000.0, 70_000.0], "p99 0.9 ms"),
                figure("dnsmasq", &[30_500.0], ""),
                figure("pixiecore", &[], "could not be built"),
            ],
        }
    }

    #[test]
    fn a_row_is_read_by_people_and_by_programs() {
        let text = row().text();
        let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[2].join(" "), "magnetite 61,000 2.00 x dnsmasq (59,000 .. 70,000) p99 0.9 ms", "{text}");
        assert_eq!(words[4].join(" "), "pixiecore - could not be built", "{text}");
        let json = row().json();
        assert_eq!((&json[0]["ratio"], &json[2]["median"]), (&json!(2.0), &Value::Null));
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        assert_eq!([1_234_567.8, 999.96, 0.01234].map(number), ["1,234,568", "1000.0", "0.012"]);
    }
}
